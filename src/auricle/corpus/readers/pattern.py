"""Labels, groups, folds and metadata from file names: "{group}_{sentence}_{label}_{level}.wav".

In: a tree and the option `pattern`, which may name folders too: "{label}/{group}-{n}.wav". {label} is required; {group}
and {fold} are what they are called; any other field becomes metadata. A field matches as little as it can, no "/".
"""

import re
from collections.abc import Iterator

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.layout import audio_files, official_fold
from auricle.corpus.readings import pattern_example
from auricle.corpus.tree import Tree, is_audio
from auricle.errors import DataError, UsageError

TITLE = "File names"
DESCRIBES = 'labels in file names, by option pattern="{group}_{sentence}_{label}_{level}.wav"; never detected'
LICENSE = ""
CITATION = ""
LABEL_NAME = "class"

_OWN_FIELDS = ("label", "group", "fold")


def detects(tree: Tree) -> bool:
    """Never: this reader needs its option."""
    return False


def read(tree: Tree, *, pattern: str) -> Iterator[Clip | Excluded]:
    """Yield a clip for each recording whose path ends with the pattern; the file extension may be omitted.

    Raises UsageError for an invalid pattern, DataError if it matches no file.
    """
    names, excluded = audio_files(tree)
    example = pattern_example(names) or "{label}/{take}.wav"
    rule = _compiled(pattern, example)
    matches = [(name, rule.search(name)) for name in names]
    if not any(match for _, match in matches):
        examples = " and ".join(f"'{name}'" for name in names[:2]) or "no recordings"
        raise DataError(
            f"The pattern '{pattern}' matches none of {len(names)} recordings, such as {examples}. Write the "
            f"separators of these names between the fields, and / between folders: `--pattern '{example}'`."
        )
    yield from excluded
    for name, match in matches:
        if match is None:
            yield Excluded(name, f"does not match the pattern '{pattern}'")
            continue
        fields = match.groupdict()
        fold = fields.get("fold")
        meta = {field: value for field, value in fields.items() if field not in _OWN_FIELDS}
        if fold is not None:
            fold = official_fold(fold) or fold
        yield Clip(name, tree.source(name), fields["label"], fields.get("group"), fold, meta=meta)


def _compiled(pattern: str, example: str) -> re.Pattern[str]:
    """The pattern as a regular expression on the end of a path; a repeated field must match the same text."""
    if set(re.sub(r"\{[^{}]*\}", "", pattern)) & set("{}"):
        raise UsageError(f"The pattern '{pattern}' has an unbalanced brace. Write fields as {{label}}.")
    text, seen = "", set[str]()
    for literal, field in re.findall(r"([^{}]*)(\{[^{}]*\}|$)", pattern):
        text += re.escape(literal)
        name = field[1:-1]
        if not field:
            break
        if not name.isidentifier():
            raise UsageError(f"The pattern '{pattern}' has '{field}'. Write fields as {{label}}, {{group}}, {{take}}.")
        text += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
        seen.add(name)
    if "label" not in seen:
        raise UsageError(f"The pattern '{pattern}' has no {{label}}. Write, for example, `--pattern '{example}'`.")
    if touching := re.search(r"\{[^{}]*\}\{[^{}]*\}", pattern):
        raise UsageError(
            f"The pattern '{pattern}' has '{touching[0]}', and nothing says where one field ends. Write the separator "
            "between them; to divide words from numbers, use `--label name:1.1`, the first of these in the file name."
        )
    suffix = "" if is_audio(pattern) or pattern.endswith(".{ext}") else r"\.[^/.]+"
    return re.compile(rf"(?:^|/){text}{suffix}$")
