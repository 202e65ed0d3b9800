"""A Hugging Face dataset: a name on the Hub, a folder of `save_to_disk`, or Parquet files with an audio column.

In: a tree, or the name alone, which permits the download. Out: a clip for each row; splits are folds, class numbers
become names. Audio is never decoded here: a source refers to the row of the Arrow file that `datasets` stores, or to
the file if the dataset only has its path.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from auricle.corpus.archive import stamp
from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.layout import official_fold
from auricle.corpus.tree import Tree, arrow_source, arrow_table
from auricle.errors import DataError, MissingExtra, UsageError, unknown

TITLE = "Hugging Face dataset"
DESCRIBES = "a dataset on the Hub (user/name), a folder of save_to_disk, or Parquet files with an audio column"
LICENSE = "see the dataset's page"
CITATION = "see the dataset's page"
LABEL_NAME = "class"

_STATE_FILES = ("state.json", "dataset_dict.json")
_LABELS = ("label", "labels", "class", "category", "emotion", "genre", "intent_class", "target", "keyword")
_AUDIO = ("audio", "sound", "wav", "bytes", "speech")
_GROUPS = ("group", "speaker_id", "speaker", "client_id", "actor", "artist", "file_id")


def detects(tree: Tree) -> bool:
    """Whether the tree is a name on the Hub, a folder of `save_to_disk`, or Parquet files with an audio column."""
    if tree.scheme == "hub":
        return True
    if not tree.is_folder or not tree.names:
        return False
    if any(os.path.basename(name) in _STATE_FILES for name in tree.names):
        return True
    tables = [name for name in tree.names if name.endswith(".parquet")]
    return bool(tables) and _audio_column(_parquet_schema(tree, tables[0])) is not None


def read(
    tree: Tree,
    *,
    config: str | None = None,
    revision: str | None = None,
    audio: str | None = None,
    label: str | None = None,
    group: str | None = None,
) -> Iterator[Clip | Excluded]:
    """Yield a clip for each row of each split. `config` and `revision` choose on the Hub; the rest name columns.

    Raises MissingExtra without the package `datasets`; UsageError for an unknown column; DataError for a dataset that
    is unavailable, or has no column of audio or labels.
    """
    for split, dataset in _load(tree, config, revision).items():
        yield from _rows(split, dataset, {"audio": audio, "label": label, "group": group})


def _load(tree: Tree, config: str | None, revision: str | None) -> Mapping[str, Any]:
    """The splits of a dataset, by name."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("Reading Hugging Face datasets", "train") from error
    root = str(tree.root)
    try:
        if tree.scheme == "hub":
            loaded = datasets.load_dataset(tree.location, name=config, revision=revision)
        elif any(name in tree.names for name in _STATE_FILES):
            loaded = datasets.load_from_disk(root)
        elif any(name.endswith(".parquet") for name in tree.names):
            loaded = datasets.load_dataset("parquet", data_files=_files_of_splits(tree))
        else:
            raise DataError(f"'{tree.location}' is not a Hugging Face dataset: {DESCRIBES}.")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"The dataset '{tree.location}' is unavailable: {error}. Check the name or path; the Hub needs network "
            "access and, for a private or gated dataset, `hf auth login`."
        ) from error
    return loaded if isinstance(loaded, datasets.DatasetDict) else {"": loaded}


def _files_of_splits(tree: Tree) -> dict[str, list[str]]:
    """Parquet files by split: named as train-00000-of-00002.parquet, or in a folder with the split's name."""
    files: dict[str, list[str]] = {}
    for name in tree.names:
        if name.endswith(".parquet"):
            words = [name.split("/")[-1].split("-")[0].removesuffix(".parquet"), *reversed(name.split("/")[:-1])]
            # `datasets` has names of its own for splits: all rows of files that name no split are one.
            split = next((fold for word in words if (fold := official_fold(word))), "data")
            files.setdefault(split, []).append(tree.source(name))
    return files


def _rows(split: str, dataset: Any, columns: Mapping[str, str | None]) -> Iterator[Clip | Excluded]:
    schema = dataset.data.schema
    audio = _choose("audio", columns["audio"], _audio_column(schema), schema.names)
    if not _has_bytes(schema.field(audio).type):
        raise DataError(
            f"The column '{audio}' holds {schema.field(audio).type}, and auricle reads audio files: bytes, or a struct "
            "of bytes and path. Save the dataset with `dataset.cast_column('audio', datasets.Audio(decode=False))`."
        )
    label = _choose("label", columns["label"], _usual(_LABELS, schema.names), schema.names)
    group = columns["group"] or _usual(_GROUPS, schema.names)
    if group is not None:
        _choose("group", group, None, schema.names)
    rest = [column for column in schema.names if column != audio and not _is_heavy(schema.field(column).type)]
    if pa.types.is_nested(schema.field(label).type):
        raise DataError(
            f"The column '{label}' has lists of labels, and auricle takes one label per clip, for now. Name a column "
            f"with one label (columns: {', '.join(schema.names)}): `--set data.reader_options.label=COLUMN`."
        )
    class_names = getattr(dataset.features[label], "names", None)
    fold = official_fold(split) if split else None
    for number, (source, row) in enumerate(zip(_sources(dataset, audio), _values(dataset, rest), strict=True)):
        name = f"{split or 'data'}/{number}"
        value = row[label]
        if class_names is not None and value:
            value = class_names[int(value)] if int(value) >= 0 else ""
        if not value:
            yield Excluded(name, f"no value in '{label}'")
        elif source is None:
            yield Excluded(name, f"neither bytes nor a path in '{audio}'")
        else:
            meta = {column: text for column, text in row.items() if column not in (label, group) and text}
            yield Clip(name, source, value, (row[group] if group else "") or None, fold, meta=meta)


def _sources(dataset: Any, audio: str) -> Iterator[str | None]:
    """The source of each row's audio, from the Arrow files themselves, so that no audio is read."""
    files = [item["filename"] for item in dataset.cache_files]
    if not files or dataset._indices is not None:
        raise DataError(
            "The dataset is not stored in Arrow files row by row. Save it with save_to_disk and give that folder."
        )
    for file in files:
        column = arrow_table(file, stamp(file))[audio]
        is_struct = pa.types.is_struct(column.type)
        has_bytes = pc.is_valid(pc.struct_field(column, "bytes") if is_struct else column).to_pylist()
        paths = pc.struct_field(column, "path").to_pylist() if is_struct else [None] * len(has_bytes)
        for row, (inside, path) in enumerate(zip(has_bytes, paths, strict=True)):
            yield arrow_source(file, audio, row) if inside else path


def _values(dataset: Any, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    for batch in dataset.data.table.select(columns).to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            yield {column: "" if value is None else str(value) for column, value in row.items()}


def _choose(field: str, requested: str | None, usual: str | None, columns: Sequence[str]) -> str:
    if requested is not None and requested not in columns:
        raise UsageError(f"Reader option {field} is '{requested}'. " + unknown("column", requested, columns))
    if requested is None and usual is None:
        raise DataError(
            f"The dataset has no {field} column with a usual name (columns: {', '.join(columns)}). Name it: `--set "
            f"data.reader_options.{field}=COLUMN`."
        )
    return requested or usual or ""


def _usual(usual: Sequence[str], columns: Sequence[str]) -> str | None:
    return next((name for name in usual if name in columns), None)


def _audio_column(schema: pa.Schema) -> str | None:
    """The first column that holds audio: bytes and path, as `datasets` stores it, else bytes or arrays by its name."""
    for field in schema:
        if pa.types.is_struct(field.type) and {"bytes", "path"} <= {child.name for child in field.type}:
            return str(field.name)
    return next((name for name in _AUDIO if name in schema.names and _is_heavy(schema.field(name).type)), None)


def _has_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return {"bytes", "path"} <= {child.name for child in kind}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_heavy(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _parquet_schema(tree: Tree, name: str) -> pa.Schema:
    try:
        with tree.open(name) as file:
            return pq.read_schema(file)
    except pa.ArrowInvalid as error:
        raise DataError(f"'{name}' in '{tree.location}' is not a readable Parquet file: {error}.") from error
