"""UrbanSound8K: street sounds in ten folds, named <freesound id>-<class>-<occurrence>-<slice>.wav in fold1 … fold10.

In: such folders, and optionally metadata/UrbanSound8K.csv. Out: clips with the corpus's own folds, and the freesound
recording as group. The table's start and end are seconds in that recording, not in the clip, so they are metadata.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.layout import find_file, match_names, names_match
from auricle.corpus.tables import read_table
from auricle.corpus.tree import Tree

TITLE = "UrbanSound8K"
DESCRIBES = "audio/fold1 … fold10 with names such as 100032-3-0-0.wav, metadata/UrbanSound8K.csv (UrbanSound8K)"
LICENSE = "CC BY-NC 3.0"
CITATION = "J. Salamon, C. Jacoby, J. P. Bello: A Dataset and Taxonomy for Urban Sound Research. ACM Multimedia 2014."
LABEL_NAME = "class"
GROUP_NAME = "source recording"

TABLE = "UrbanSound8K.csv"
# In the order of the class numbers.
CLASSES = (
    *("air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling"),
    *("engine_idling", "gun_shot", "jackhammer", "siren", "street_music"),
)
_NAME = re.compile(r"(?:^|/)fold(\d+)/(\d+)-(\d)-(\d+)-(\d+)\.\w+$")


def detects(tree: Tree) -> bool:
    """Whether the recordings have UrbanSound8K names, in its folders."""
    return names_match(tree, _NAME)


def read(tree: Tree) -> Iterator[Clip | Excluded]:
    """Yield the clips. Metadata: occurrence, slice, and from the table salience, source_start, source_end.

    Raises DataError for a table without its columns.
    """
    matches, excluded = match_names(tree, _NAME, "UrbanSound8K name, such as fold5/100032-3-0-0.wav", copies=True)
    yield from excluded
    rows = _rows(tree)
    for name, match in matches:
        row = rows.get(posixpath.basename(name))
        if rows and row is None:
            yield Excluded(name, f"not listed in '{TABLE}'")
            continue
        fold, recording, number, occurrence, slice_number = match.groups()
        meta = {"occurrence": occurrence, "slice": slice_number}
        if row:
            salience = {"1": "foreground", "2": "background"}.get(row["salience"], row["salience"])
            meta |= {"salience": salience, "source_start": row["start"], "source_end": row["end"]}
        yield Clip(name, tree.source(name), CLASSES[int(number)], group=recording, fold=fold, meta=meta)
    for file in sorted(rows.keys() - {posixpath.basename(name) for name in tree.names}):
        yield Excluded(file, f"listed in '{TABLE}', but missing")


def _rows(tree: Tree) -> Mapping[str, Mapping[str, str]]:
    name = find_file(tree, TABLE)
    if name is None:
        return {}
    rows = read_table(tree, name, required=("slice_file_name", "salience", "start", "end")).rows
    return {row["slice_file_name"]: row for row in rows}
