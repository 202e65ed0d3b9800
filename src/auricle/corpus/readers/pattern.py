"""Labels, groups, folds and metadata out of file names: "{group}_{sentence}_{label}_{level}.wav".

In: a tree and the option `pattern`, which may name folders too: "{label}/{group}-{n}.wav". {label} is needed; {group}
and {fold} have their meaning; any other name becomes metadata. A field takes as little as it can and crosses no "/".
"""

import re
from collections.abc import Iterator

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.tree import Tree, is_audio, official_fold, recordings
from auricle.errors import DataError, UsageError

TITLE = "File names"
DESCRIBES = 'labels in file names, by option pattern="{group}_{sentence}_{label}_{level}.wav"; never chosen by itself'
LICENSE = ""
CITATION = ""
LABEL_NAME = "class"

_OWN_FIELDS = ("label", "group", "fold")


def detects(tree: Tree) -> bool:
    """Never: without its option this reader knows nothing."""
    return False


def read(tree: Tree, *, pattern: str) -> Iterator[Clip | Excluded]:
    """Yield a clip for each recording whose path ends as the pattern says; the file's suffix may be left unsaid.

    Raises UsageError for a pattern that is none, DataError when it fits no file.
    """
    rule = _compiled(pattern)
    names, excluded = recordings(tree)
    matches = [(name, rule.search(name)) for name in names]
    if not any(match for _, match in matches):
        examples = " and ".join(f"'{name}'" for name in names[:2]) or "no recordings at all"
        raise DataError(f"The pattern '{pattern}' fits none of {len(names)} recordings; there are {examples}.")
    yield from excluded
    for name, match in matches:
        if match is None:
            yield Excluded(name, f"does not fit the pattern '{pattern}'")
            continue
        fields = match.groupdict()
        fold = fields.get("fold")
        meta = {field: value for field, value in fields.items() if field not in _OWN_FIELDS}
        if fold is not None:
            fold = official_fold(fold) or fold
        yield Clip(name, tree.source(name), fields["label"], fields.get("group"), fold, meta=meta)


def _compiled(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression on the end of a path; a field named twice must read the same twice."""
    if set(re.sub(r"\{[^{}]*\}", "", pattern)) & set("{}"):
        raise UsageError(f"The pattern '{pattern}' has a brace without its other half. Write fields as {{label}}.")
    text, seen = "", set[str]()
    for literal, field in re.findall(r"([^{}]*)(\{[^{}]*\}|$)", pattern):
        text += re.escape(literal)
        name = field[1:-1]
        if not field:
            break
        if not name.isidentifier():
            raise UsageError(
                f"The pattern '{pattern}' holds '{field}'. Write fields as {{label}}, {{group}}, {{take}}."
            )
        text += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
        seen.add(name)
    if "label" not in seen:
        raise UsageError(
            f"The pattern '{pattern}' has no {{label}}. Write, for example, {{group}}_{{label}}_{{take}}.wav."
        )
    suffix = "" if is_audio(pattern) or pattern.endswith(".{ext}") else r"\.[^/.]+"
    return re.compile(rf"(?:^|/){text}{suffix}$")
