"""ESC-50 and its subset ESC-10: everyday sounds in five folds, cut from recordings of freesound.org.

In: the current layout (meta/esc50.csv next to audio/) or the older one (a folder such as "001 - Dog bark" per class).
Out: clips with the corpus's own folds, and the freesound recording as group.
"""

import posixpath
import re
from collections.abc import Iterator

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.layout import audio_files, find_file, match_names, names_match
from auricle.corpus.tables import read_table
from auricle.corpus.tree import Tree
from auricle.errors import UsageError, unknown

TITLE = "ESC-50 or its subset ESC-10"
DESCRIBES = "meta/esc50.csv next to audio/, or class folders such as '001 - Dog bark/1-100032-A.ogg' (ESC-50, ESC-10)"
LICENSE = "CC BY-NC 3.0 (ESC-50); CC BY 3.0 (ESC-10)"
CITATION = "K. J. Piczak: ESC: Dataset for Environmental Sound Classification. ACM Multimedia 2015."
LABEL_NAME = "class"
GROUP_NAME = "source recording"

SUBSETS = ("esc50", "esc10")
# The ten classes, as the older folders of ESC-10 and of ESC-50 call them.
ESC10 = frozenset(
    (
        *("dog bark", "dog", "rain", "sea waves", "baby cry", "crying baby", "clock tick", "person sneeze", "sneezing"),
        *("helicopter", "chainsaw", "rooster", "fire crackling", "crackling fire"),
    )
)
_FOLDER_NAME = re.compile(r"(?:^|/)\d{1,3} - ([^/]+)/([1-5])-(\d+)-([A-Z]+)\.\w+$")


def detects(tree: Tree) -> bool:
    """Whether there is an esc50.csv, or the older class folders."""
    return _table(tree) is not None or names_match(tree, _FOLDER_NAME)


def read(tree: Tree, *, subset: str = "esc50") -> Iterator[Clip | Excluded]:
    """Yield the clips; `subset` "esc10" selects the ten classes of ESC-10.

    Raises UsageError for another subset, DataError for an esc50.csv without its columns.
    """
    if subset not in SUBSETS:
        raise UsageError(unknown("ESC subset", subset, SUBSETS))
    table = _table(tree)
    if table is None:
        yield from _read_folders(tree, subset)
    else:
        yield from _read_table(tree, table, subset)


def _table(tree: Tree) -> str | None:
    return find_file(tree, "esc50.csv")


def _read_folders(tree: Tree, subset: str) -> Iterator[Clip | Excluded]:
    expected = "ESC name, such as '001 - Dog bark/1-100032-A.ogg'"
    matches, excluded = match_names(tree, _FOLDER_NAME, expected, copies=True)
    yield from excluded
    for name, match in matches:
        label, fold, recording, take = match.groups()
        if subset == "esc50" or label.lower() in ESC10:
            yield Clip(name, tree.source(name), label, group=recording, fold=fold, meta={"take": take})


def _read_table(tree: Tree, table: str, subset: str) -> Iterator[Clip | Excluded]:
    names, excluded = audio_files(tree)
    yield from excluded
    by_file = {posixpath.basename(name): name for name in names}
    rows = read_table(tree, table, required=("filename", "fold", "category", "esc10")).rows
    for row in sorted(rows, key=lambda row: row["filename"]):
        name = by_file.pop(row["filename"], None)
        if name is None:
            yield Excluded(row["filename"], f"listed in '{table}', but missing")
        elif subset == "esc50" or row["esc10"].lower() == "true":
            recording = row.get("src_file") or row["filename"].split("-")[1]
            meta = {"take": row.get("take") or "", "esc10": row["esc10"].lower()}
            yield Clip(name, tree.source(name), row["category"], group=recording, fold=row["fold"], meta=meta)
    for name in sorted(by_file.values()):
        yield Excluded(name, f"not listed in '{table}'")
