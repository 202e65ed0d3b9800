"""WebDataset: tar files in which the files of one sample share a name up to the first dot: 000.wav, 000.json, 000.cls.

In: one tar, or a folder of shards. Out: a clip per sample that has a recording. The label and other fields are those of
its JSON; without one, the content of .cls or .txt is the label. Shards in folders or names such as train-000.tar are
splits.
"""

import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.columns import usual
from auricle.corpus.layout import official_fold
from auricle.corpus.tables import as_text, canonical_numbers
from auricle.corpus.tree import Tree, is_audio, open_tree, read_bytes
from auricle.errors import DataError

TITLE = "WebDataset"
DESCRIBES = "tar shards in which samples are files with one name: 000.wav with 000.json, 000.cls or 000.txt"
LICENSE = ""
CITATION = ""
LABEL_NAME = "class"

_FIELDS = (".json", ".cls", ".txt")


def detects(tree: Tree) -> bool:
    """Whether the first tar has samples of a recording and a file of fields."""
    shards = _shards(tree)
    if not shards:
        return False
    if tree.scheme != "tar":
        shards = {name: shard for name, shard in list(shards.items())[:1]}
    return any(
        {".json", ".cls"} & set(files) and any(is_audio(name) for name in files.values())
        for shard in shards.values()
        for files in list(_samples(shard).values())[:10]
    )


def read(tree: Tree, *, label: str | None = None) -> Iterator[Clip | Excluded]:
    """Yield a clip per sample; `label` names the field of the JSON that holds the label.

    Raises DataError for a field of JSON that is none, for lists of labels, and where no field holds the label.
    """
    rows: list[tuple[str, str, Mapping[str, str], str | None]] = []
    for shard_name, shard in _shards(tree).items():
        words = [*shard_name.split("/")[:-1], *re.split(r"[^a-zA-Z]+", posixpath.basename(shard_name))]
        fold = next((found for word in words if (found := official_fold(word))), None)
        for key, files in _samples(shard).items():
            name = f"{posixpath.splitext(shard_name)[0]}/{key}" if shard is not tree else key
            audio = [file for file in files.values() if is_audio(file)]
            if len(audio) == 1:
                rows.append((name, shard.source(audio[0]), _fields(shard, files), fold))
            else:
                yield Excluded(name, f"a sample with {len(audio)} recordings")
    columns = list(dict.fromkeys(column for _, _, fields, _ in rows for column in fields))
    named = label or next((column for column in (*usual("label", columns), "cls", "txt") if column in columns), None)
    if named is None or named not in columns:
        listed = ", ".join(columns) or "none"
        raise DataError(f"'{tree.location}' has no label field (fields: {listed}). Name it: `--label FIELD`.")
    group = next(iter(usual("group", columns, [named])), None)
    numbers = canonical_numbers(fields.get(named, "") for _, _, fields, _ in rows)
    folds = len({fold for *_, fold in rows}) > 1
    for name, source, fields, fold in rows:
        value = fields.get(named, "")
        if value.startswith("["):
            raise DataError(
                f"'{name}' in '{tree.location}' has a list of labels, {value}, and auricle takes one label per clip, "
                "for now. Keep one label in each sample."
            )
        meta = {column: text for column, text in fields.items() if text and column not in (named, group)}
        if value:
            group_value = (fields.get(group, "") if group else "") or None
            yield Clip(name, source, numbers.get(value, value), group_value, fold if folds else None, meta=meta)
        else:
            yield Excluded(name, f"no value in '{named}'")


def has_labels(tree: Tree, *, label: str | None = None) -> bool:
    """Whether a field of the first sample holds the label."""
    shard = next(iter(_shards(tree).values()))
    fields = _fields(shard, next(iter(_samples(shard).values())))
    return label is not None or bool(usual("label", list(fields)) or {"cls", "txt"} & set(fields))


def _shards(tree: Tree) -> dict[str, Tree]:
    """The tar files: the tree itself, or all files of a folder that has nothing else."""
    if tree.scheme == "tar":
        return {posixpath.basename(tree.location): tree}
    tars = [name for name in tree.names if name.lower().endswith((".tar", ".tar.gz", ".tgz"))]
    if not tree.is_folder or not tars or any(is_audio(name) for name in tree.names):
        return {}
    return {name: open_tree(tree.source(name)) for name in tars}


def _samples(tree: Tree) -> dict[str, dict[str, str]]:
    """The files of each sample by their extension: a key ends at the first dot of the file's name."""
    samples: dict[str, dict[str, str]] = {}
    for name in tree.names:
        folder, base = posixpath.split(name)
        stem, _, suffix = base.partition(".")
        samples.setdefault(posixpath.join(folder, stem), {})[f".{suffix.lower()}"] = name
    return samples


def _fields(tree: Tree, files: Mapping[str, str]) -> dict[str, str]:
    """The fields of one sample as text: those of its JSON, and `cls` and `txt`."""
    fields: dict[str, str] = {}
    for suffix in _FIELDS:
        if suffix in files:
            text = read_bytes(tree.source(files[suffix])).decode("utf-8", "replace").strip()
            fields[suffix[1:]] = text
    if "json" in fields:
        try:
            content = json.loads(fields.pop("json"))
        except json.JSONDecodeError as error:
            raise DataError(f"'{files['.json']}' in '{tree.location}' is not JSON: {error}. Write it again.") from error
        fields |= {column: as_text(value) for column, value in content.items()} if isinstance(content, dict) else {}
    return fields


def note(tree: Tree, *, label: str | None = None) -> str:
    """How many shards there are, and their other files."""
    shards = _shards(tree)
    kinds = Counter(suffix for shard in shards.values() for files in _samples(shard).values() for suffix in files)
    return f"{len(shards)} tar files of {', '.join(sorted(kinds))}"
