"""EmoDB, the Berlin Database of Emotional Speech: file names such as 03a01Fa.wav say everything.

In: a tree with such names. Out: clips with the emotion in English as label and the speaker as group.
"""

import re
from collections.abc import Iterator

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.layout import match_names, names_match
from auricle.corpus.tree import Tree

TITLE = "EmoDB"
DESCRIBES = "names of speaker, sentence, emotion letter and version: 03a01Fa.wav (Berlin Database of Emotional Speech)"
LICENSE = "none stated by the publisher; ask before redistribution"
CITATION = (
    "F. Burkhardt, A. Paeschke, M. Rolfes, W. F. Sendlmeier, B. Weiss: A database of German emotional speech. "
    "Interspeech 2005."
)
LABEL_NAME = "emotion"
GROUP_NAME = "speaker"

# The letter is that of the German word.
EMOTIONS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
# Sex and age, as published with the corpus.
SPEAKERS = {
    "03": ("male", "31"),
    "08": ("female", "34"),
    "09": ("female", "21"),
    "10": ("male", "32"),
    "11": ("male", "26"),
    "12": ("male", "30"),
    "13": ("female", "32"),
    "14": ("female", "35"),
    "15": ("male", "25"),
    "16": ("female", "31"),
}
_NAME = re.compile(r"(?:^|/)(\d\d)([a-z]\d\d)([WLEAFTN])([a-z]?)\.\w+$")


def detects(tree: Tree) -> bool:
    """Whether the recordings have EmoDB names."""
    return names_match(tree, _NAME)


def read(tree: Tree) -> Iterator[Clip | Excluded]:
    """Yield EmoDB's clips. Metadata: sentence, version, and the speaker's sex and age."""
    matches, excluded = match_names(tree, _NAME, "EmoDB name, such as 03a01Fa.wav")
    yield from excluded
    for name, match in matches:
        speaker, sentence, letter, version = match.groups()
        meta = {"speaker": speaker, "sentence": sentence, "version": version}
        if speaker in SPEAKERS:
            meta["sex"], meta["age"] = SPEAKERS[speaker]
        yield Clip(name, tree.source(name), EMOTIONS[letter], group=speaker, meta=meta)
