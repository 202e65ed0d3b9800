"""VoxCeleb 1 and 2: celebrities in videos, cut into utterances.

In: <id>/<video>/<number>.wav or .m4a below any folders, perhaps with the table of speakers (vox1_meta.csv) and the
official split for identification (iden_split.txt). Out: clips with the speaker as label and the video, one session, as
group; the clips of a speaker with one video have no group, because a split by video would leave nothing to train on.
"""

import posixpath
import re
from collections.abc import Iterator

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.layout import find_file, match_names, names_match, sessions_by_speaker, single_session_note
from auricle.corpus.tables import read_table
from auricle.corpus.tree import Tree

TITLE = "VoxCeleb"
DESCRIBES = "<id>/<video>/<number>.wav or .m4a, such as id10001/1zcIwhmdeo4/00001.wav (VoxCeleb)"
LICENSE = "CC BY 4.0"
CITATION = "A. Nagrani, J. S. Chung, A. Zisserman: VoxCeleb: a large-scale speaker identification dataset. 2017."
LABEL_NAME = "speaker"
GROUP_NAME = "video"

TABLES = ("vox1_meta.csv", "vox2_meta.csv")
SPLIT = "iden_split.txt"
FOLDS = {"1": "train", "2": "valid", "3": "test"}
# Column of the tables → the name that other readers use.
COLUMNS = {"gender": "sex", "nationality": "nationality"}
SEXES = {"f": "female", "m": "male"}
_NAME = re.compile(r"(?:^|/)(id\d{5})/([^/]+)/(\d{5})\.\w+$")
_LISTED = re.compile(r"^([123])\s+(\S.*)\.\w+\s*$", re.MULTILINE)


def detects(tree: Tree) -> bool:
    """Whether the recordings have VoxCeleb names, in its folders."""
    return names_match(tree, _NAME)


def read(tree: Tree) -> Iterator[Clip | Excluded]:
    """Yield the clips. Metadata: video, and, with a table of speakers, sex and nationality.

    With an iden_split.txt the clips have its folds, and those that it does not list are excluded.
    """
    matches, excluded = _matches(tree)
    yield from excluded
    speakers, folds = _speakers(tree), _folds(tree)
    videos = sessions_by_speaker((match[1], match[2]) for _, match in matches)
    for name, match in matches:
        speaker, video, number = match.groups()
        fold = folds.get(f"{speaker}/{video}/{number}")
        if folds and fold is None:
            yield Excluded(name, f"not listed in '{SPLIT}'")
            continue
        group = f"{speaker}/{video}" if len(videos[speaker]) > 1 else None
        meta = {"video": video, **speakers.get(speaker, {})}
        yield Clip(name, tree.source(name), speaker, group=group, fold=fold, meta=meta)


def note(tree: Tree) -> str:
    """How many speakers have a single video, which a split must divide."""
    return single_session_note(sessions_by_speaker((match[1], match[2]) for _, match in _matches(tree)[0]), "video")


def _matches(tree: Tree) -> tuple[list[tuple[str, re.Match[str]]], list[Excluded]]:
    return match_names(tree, _NAME, "VoxCeleb name, such as id10001/1zcIwhmdeo4/00001.wav", copies=True)


def _folds(tree: Tree) -> dict[str, str]:
    """The fold of each utterance, by its path without the extension: the list has .wav, downloads may be .m4a."""
    name = find_file(tree, SPLIT)
    return {match[2]: FOLDS[match[1]] for match in _LISTED.finditer(tree.read_text(name))} if name else {}


def _speakers(tree: Tree) -> dict[str, dict[str, str]]:
    """Metadata of each speaker from the tables, whose first column is the speaker's id."""
    speakers: dict[str, dict[str, str]] = {}
    for name in tree.names:
        if posixpath.basename(name) not in TABLES:
            continue
        for row in read_table(tree, name).rows:
            (_, speaker), *rest = ((column.lower(), value.strip()) for column, value in row.items())
            meta = {COLUMNS[column]: value for column, value in rest if column in COLUMNS and value}
            if "sex" in meta:
                meta["sex"] = SEXES.get(meta["sex"].lower(), meta["sex"])
            speakers[speaker] = meta
    return speakers
