"""CREMA-D: acted emotional speech of 91 actors, named ACTOR_SENTENCE_EMOTION_LEVEL.wav.

In: a tree with such names, with VideoDemographics.csv or without. Out: clips with the emotion in words as label, the
actor as group, and what the table says of the actor as metadata, so that results can be sliced by it.
"""

import csv
import io
import posixpath
import re
from collections.abc import Iterator, Mapping

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.tree import Tree, mostly, recordings, unrepeated
from auricle.errors import DataError

TITLE = "CREMA-D"
DESCRIBES = "names of actor, sentence, emotion and level: 1001_DFA_ANG_XX.wav; VideoDemographics.csv if it is there"
LICENSE = "ODbL 1.0 (database), DbCL 1.0 (contents)"
CITATION = (
    "H. Cao, D. G. Cooper, M. K. Keutmann, R. C. Gur, A. Nenkova, R. Verma: CREMA-D: Crowd-sourced Emotional "
    "Multimodal Actors Dataset. IEEE Transactions on Affective Computing 5(4), 2014."
)
LABEL_NAME = "emotion"
GROUP_NAME = "actor"

EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness"}
LEVELS = {"LO": "low", "MD": "medium", "HI": "high"}
_NAME = re.compile(r"(?:^|/)(1\d{3})_([A-Z]{3})_(ANG|DIS|FEA|HAP|NEU|SAD)_(XX|LO|MD|HI|X)\.\w+$")
_COLUMNS = {"Age": "age", "Sex": "sex", "Race": "race", "Ethnicity": "ethnicity"}


def detects(tree: Tree) -> bool:
    """Whether the recordings are named as CREMA-D's."""
    return mostly(tree, _NAME)


def read(tree: Tree) -> Iterator[Clip | Excluded]:
    """Yield CREMA-D's clips. Metadata: sentence, level, and the actor's age, sex, race and ethnicity.

    Raises DataError for a VideoDemographics.csv without its columns.
    """
    names, excluded = recordings(tree)
    names, copies = unrepeated(names)
    yield from excluded + copies
    actors = _actors(tree)
    for name in names:
        match = _NAME.search(name)
        if match is None:
            yield Excluded(name, "no CREMA-D name, such as 1001_DFA_ANG_XX.wav")
            continue
        actor, sentence, emotion, level = match.groups()
        meta = {"sentence": sentence, "level": LEVELS.get(level, "unspecified"), **actors.get(actor, {})}
        yield Clip(name, tree.source(name), EMOTIONS[emotion], group=actor, meta=meta)


def _actors(tree: Tree) -> Mapping[str, Mapping[str, str]]:
    table = next((name for name in tree.names if posixpath.basename(name) == "VideoDemographics.csv"), None)
    if table is None:
        return {}
    rows = list(csv.DictReader(io.StringIO(tree.read_text(table))))
    missing = {"ActorID", *_COLUMNS} - set(rows[0] if rows else ())
    if missing:
        raise DataError(f"'{table}' lacks the columns {', '.join(sorted(missing))}. Download it again, or remove it.")
    return {row["ActorID"]: {ours: (row[theirs] or "").lower() for theirs, ours in _COLUMNS.items()} for row in rows}
