"""CREMA-D: acted emotional speech of 91 actors, named ACTOR_SENTENCE_EMOTION_LEVEL.wav.

In: a tree with such names, and optionally VideoDemographics.csv. Out: clips with the emotion in words as label, the
actor as group, and the actor's data in that table as metadata, so that results can be sliced by it.
"""

import re
from collections.abc import Iterator, Mapping

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.layout import find_file, match_names, names_match
from auricle.corpus.tables import read_table
from auricle.corpus.tree import Tree

TITLE = "CREMA-D"
DESCRIBES = "names of actor, sentence, emotion and level: 1001_DFA_ANG_XX.wav; optionally VideoDemographics.csv"
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
    """Whether the recordings have CREMA-D names."""
    return names_match(tree, _NAME)


def read(tree: Tree) -> Iterator[Clip | Excluded]:
    """Yield CREMA-D's clips. Metadata: sentence, level, and the actor's age, sex, race and ethnicity.

    Raises DataError for a VideoDemographics.csv without its columns.
    """
    matches, excluded = match_names(tree, _NAME, "CREMA-D name, such as 1001_DFA_ANG_XX.wav")
    yield from excluded
    actors = _actors(tree)
    for name, match in matches:
        actor, sentence, emotion, level = match.groups()
        meta = {"sentence": sentence, "level": LEVELS.get(level, "unspecified"), **actors.get(actor, {})}
        yield Clip(name, tree.source(name), EMOTIONS[emotion], group=actor, meta=meta)


def _actors(tree: Tree) -> Mapping[str, Mapping[str, str]]:
    name = find_file(tree, "VideoDemographics.csv")
    if name is None:
        return {}
    rows = read_table(tree, name, required=("ActorID", *_COLUMNS)).rows
    return {row["ActorID"]: {key: row[column].lower() for column, key in _COLUMNS.items()} for row in rows}
