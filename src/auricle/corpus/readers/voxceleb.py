"""VoxCeleb 1 and 2: celebrities in videos, cut into utterances.

In: <id>/<video>/<number>.wav or .m4a below any folders, perhaps with the table of speakers (vox1_meta.csv) and the
official split for identification (iden_split.txt). Out: clips with the speaker as label and the video, a session of its
own, as group; the clips of a speaker with one video have no group, or nothing would be left to learn from.
"""

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.tables import rows_of
from auricle.corpus.tree import Tree, mostly, recordings

TITLE = "VoxCeleb"
DESCRIBES = "<id>/<video>/<number>.wav or .m4a, such as id10001/1zcIwhmdeo4/00001.wav (VoxCeleb)"
LICENSE = "CC BY 4.0"
CITATION = "A. Nagrani, J. S. Chung, A. Zisserman: VoxCeleb: a large-scale speaker identification dataset. 2017."
LABEL_NAME = "speaker"
GROUP_NAME = "video"

TABLES = ("vox1_meta.csv", "vox2_meta.csv")
SPLIT = "iden_split.txt"
FOLDS = {"1": "train", "2": "valid", "3": "test"}
# Column of the tables → the word that other readers have for it.
COLUMNS = {"gender": "sex", "nationality": "nationality"}
SEXES = {"f": "female", "m": "male"}
_NAME = re.compile(r"(?:^|/)(id\d{5})/([^/]+)/(\d{5})\.\w+$")
_LISTED = re.compile(r"^([123])\s+(\S.*)\.\w+\s*$", re.MULTILINE)


def detects(tree: Tree) -> bool:
    """Whether the recordings are placed as VoxCeleb's."""
    return mostly(tree, _NAME)


def read(tree: Tree) -> Iterator[Clip | Excluded]:
    """Yield the clips. Metadata: video, and, where a table of speakers is there, sex and nationality.

    With iden_split.txt the clips have its folds, and what it does not list is left out.
    """
    names, excluded = recordings(tree)
    yield from excluded
    about, folds, videos = _speakers(tree), _folds(tree), _videos(tree)
    for name in names:
        match = _NAME.search(name)
        if match is None:
            yield Excluded(name, "no VoxCeleb name, such as id10001/1zcIwhmdeo4/00001.wav")
            continue
        speaker, video, number = match.groups()
        fold = folds.get(f"{speaker}/{video}/{number}")
        if folds and fold is None:
            yield Excluded(name, f"not listed in '{SPLIT}'")
            continue
        group = f"{speaker}/{video}" if len(videos[speaker]) > 1 else None
        yield Clip(
            name, tree.source(name), speaker, group=group, fold=fold, meta={"video": video, **about.get(speaker, {})}
        )


def note(tree: Tree) -> str:
    """Say how many speakers have a single video, which must be divided."""
    videos = _videos(tree)
    single = sum(len(found) == 1 for found in videos.values())
    if not single:
        return ""
    return f"{single} of {len(videos)} speakers have one video only, whose utterances a split may part"


def _videos(tree: Tree) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for name in recordings(tree)[0]:
        if match := _NAME.search(name):
            found[match[1]].add(match[2])
    return found


def _folds(tree: Tree) -> dict[str, str]:
    """The fold of each utterance, by its path without the suffix: the list says .wav, downloads may be .m4a."""
    place = next((name for name in tree.names if posixpath.basename(name) == SPLIT), None)
    if place is None:
        return {}
    return {match[2]: FOLDS[match[1]] for match in _LISTED.finditer(tree.read_text(place))}


def _speakers(tree: Tree) -> dict[str, dict[str, str]]:
    """What the tables tell of each speaker; the first column is the speaker's id."""
    found: dict[str, dict[str, str]] = {}
    for place in tree.names:
        if posixpath.basename(place) not in TABLES:
            continue
        for row in rows_of(tree, place):
            number, *rest = ((column.strip().lower(), value.strip()) for column, value in row.items())
            told = {COLUMNS[column]: value for column, value in rest if column in COLUMNS and value}
            if "sex" in told:
                told["sex"] = SEXES.get(told["sex"].lower(), told["sex"])
            found[number[1]] = told
    return found
