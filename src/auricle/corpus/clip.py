"""A clip, and the Index of all clips of a corpus.

In: what a reader yields. Out: an immutable Index, which a run saves as Parquet, with the corpus's licence, its citation
and what was excluded. A clip is a name and its labels only; `audio` opens the recording.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class Clip:
    """One labelled segment of one recording.

    `id` is unique in its corpus and does not depend on the corpus's location. `source` is what
    `corpus.tree.open_source` opens: a path, a member of an archive, or a row of an Arrow file. `start` and `end` are
    seconds in the recording; None is its beginning or its end. `fold` is the corpus's own: a fold's name, or "train",
    "valid", "test".
    """

    id: str
    source: str
    label: str
    group: str | None = None
    fold: str | None = None
    start: float | None = None
    end: float | None = None
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Excluded:
    """A file of the corpus that is not a clip, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Index:
    """The clips of a corpus, in a fixed order, and what its reader knows about the corpus.

    `num_features` is the width of precomputed features, where the sources are these; None for recordings. `num_files`
    counts all files, those that a table names elsewhere included, `num_other_files` those that are no recordings and
    `num_hidden_files` hidden and system files.
    """

    clips: tuple[Clip, ...]
    reader: str
    origin: str
    description: str
    license: str = ""
    citation: str = ""
    group_name: str = "group"
    excluded: tuple[Excluded, ...] = ()
    num_features: int | None = None
    num_files: int = 0
    num_other_files: int = 0
    num_hidden_files: int = 0

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, sorted; their order is the order of the logits."""
        return tuple(sorted({clip.label for clip in self.clips}))

    @property
    def has_groups(self) -> bool:
        return any(clip.group is not None for clip in self.clips)

    @property
    def has_folds(self) -> bool:
        return any(clip.fold is not None for clip in self.clips)

    def save(self, path: Path) -> None:
        """Write the Index as one Parquet file; metadata is stored as JSON text."""
        import pyarrow as pa  # a wrong path is reported before this takes its time
        import pyarrow.parquet as pq

        columns = {
            "id": [clip.id for clip in self.clips],
            "source": [clip.source for clip in self.clips],
            "label": [clip.label for clip in self.clips],
            "group": [clip.group for clip in self.clips],
            "fold": [clip.fold for clip in self.clips],
            "start": [clip.start for clip in self.clips],
            "end": [clip.end for clip in self.clips],
            "meta": [json.dumps(dict(clip.meta), sort_keys=True, ensure_ascii=False) for clip in self.clips],
        }
        about = {
            "reader": self.reader,
            "origin": self.origin,
            "description": self.description,
            "license": self.license,
            "citation": self.citation,
            "group_name": self.group_name,
            "excluded": [[item.name, item.reason] for item in self.excluded],
            "num_features": self.num_features,
            "num_files": self.num_files,
            "num_other_files": self.num_other_files,
            "num_hidden_files": self.num_hidden_files,
        }
        schema = pa.schema([(name, pa.float64() if name in ("start", "end") else pa.string()) for name in columns])
        table = pa.table(columns, schema=schema).replace_schema_metadata({"auricle": json.dumps(about)})
        pq.write_table(table, path, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> "Index":
        """Read an Index that `save` wrote."""
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[b"auricle"])
        rows = table.to_pylist()
        clips = tuple(Clip(**{**row, "meta": json.loads(row["meta"])}) for row in rows)
        excluded = tuple(Excluded(name, reason) for name, reason in about.pop("excluded"))
        return cls(clips=clips, excluded=excluded, **about)

    def select(self, mask: Sequence[bool]) -> "Index":
        """The same corpus with the clips for which `mask` is true."""
        return replace(self, clips=tuple(clip for clip, selected in zip(self.clips, mask, strict=True) if selected))
