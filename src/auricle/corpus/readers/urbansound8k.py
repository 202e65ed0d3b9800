"""UrbanSound8K: street sounds in ten folds, named <freesound id>-<class>-<occurrence>-<slice>.wav in fold1 … fold10.

In: such folders, with metadata/UrbanSound8K.csv or without. Out: clips with the set's own folds, and the freesound
recording as group. The table's start and end are places in that recording, not in the clip, so they are metadata.
"""

import csv
import io
import posixpath
import re
from collections.abc import Iterator, Mapping

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.tree import Tree, mostly, recordings
from auricle.errors import DataError

TITLE = "UrbanSound8K"
DESCRIBES = "audio/fold1 … fold10 with names such as 100032-3-0-0.wav, metadata/UrbanSound8K.csv (UrbanSound8K)"
LICENSE = "CC BY-NC 3.0"
CITATION = "J. Salamon, C. Jacoby, J. P. Bello: A Dataset and Taxonomy for Urban Sound Research. ACM Multimedia 2014."
LABEL_NAME = "class"
GROUP_NAME = "source recording"

# In the order of the set's class numbers.
CLASSES = (
    *("air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling"),
    *("engine_idling", "gun_shot", "jackhammer", "siren", "street_music"),
)
_NAME = re.compile(r"(?:^|/)fold(\d+)/(\d+)-(\d)-(\d+)-(\d+)\.\w+$")


def detects(tree: Tree) -> bool:
    """Whether the recordings lie and are named as UrbanSound8K's."""
    return mostly(tree, _NAME)


def read(tree: Tree) -> Iterator[Clip | Excluded]:
    """Yield the clips. Metadata: occurrence, slice, and from the table salience, source_start, source_end.

    Raises DataError for a table without its columns.
    """
    names, excluded = recordings(tree)
    yield from excluded
    table, rows = _table(tree)
    for name in names:
        match = _NAME.search(name)
        row = rows.get(posixpath.basename(name))
        if match is None:
            yield Excluded(name, "no UrbanSound8K name, such as fold5/100032-3-0-0.wav")
        elif rows and row is None:
            yield Excluded(name, f"not listed in '{table}'")
        else:
            fold, recording, number, occurrence, part = match.groups()
            meta = {"occurrence": occurrence, "slice": part}
            if row:
                salience = {"1": "foreground", "2": "background"}.get(row["salience"], row["salience"])
                meta |= {"salience": salience, "source_start": row["start"], "source_end": row["end"]}
            yield Clip(name, tree.source(name), CLASSES[int(number)], group=recording, fold=fold, meta=meta)
    for file in sorted(set(rows) - {posixpath.basename(name) for name in names}):
        yield Excluded(file, f"listed in '{table}', but not there")


def _table(tree: Tree) -> tuple[str, Mapping[str, Mapping[str, str]]]:
    table = next((name for name in tree.names if posixpath.basename(name) == "UrbanSound8K.csv"), None)
    if table is None:
        return "", {}
    rows = list(csv.DictReader(io.StringIO(tree.read_text(table))))
    missing = {"slice_file_name", "salience", "start", "end"} - set(rows[0] if rows else ())
    if missing:
        raise DataError(f"'{table}' lacks the columns {', '.join(sorted(missing))}. Download it again.")
    return table, {row["slice_file_name"]: row for row in rows}
