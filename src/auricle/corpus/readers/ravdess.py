"""RAVDESS: emotional speech and song of 24 actors, named by seven two-digit numbers, such as 03-01-06-01-02-01-12.wav.

In: a tree with such names. Out: clips with the emotion as label and the actor as group; the other numbers as metadata.
"""

import re
from collections.abc import Iterator

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.layout import match_names, names_match
from auricle.corpus.tree import Tree

TITLE = "RAVDESS"
DESCRIBES = (
    "names of seven numbers: 03-01-06-01-02-01-12.wav (modality, channel, emotion, level, statement, take, actor)"
)
LICENSE = "CC BY-NC-SA 4.0"
CITATION = (
    "S. R. Livingstone, F. A. Russo: The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS). "
    "PLoS ONE 13(5), 2018."
)
LABEL_NAME = "emotion"
GROUP_NAME = "actor"

MODALITIES = {"01": "audio-video", "02": "video", "03": "audio"}
CHANNELS = {"01": "speech", "02": "song"}
EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happiness",
    "04": "sadness",
    "05": "anger",
    "06": "fear",
    "07": "disgust",
    "08": "surprise",
}
LEVELS = {"01": "normal", "02": "strong"}
_NAME = re.compile(r"(?:^|/)(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)\.\w+$")


def detects(tree: Tree) -> bool:
    """Whether the recordings have RAVDESS names."""
    return names_match(tree, _NAME)


def read(tree: Tree) -> Iterator[Clip | Excluded]:
    """Yield RAVDESS's clips. Metadata: channel, level, statement, take and the actor's sex (odd numbers are male)."""
    matches, excluded = match_names(tree, _NAME, "RAVDESS name, such as 03-01-06-01-02-01-12.wav")
    yield from excluded
    for name, match in matches:
        modality, channel, emotion, level, statement, take, actor = match.groups()
        if MODALITIES[modality] == "video":
            yield Excluded(name, "a video without audio, by its name")
            continue
        meta = {
            "modality": MODALITIES[modality],
            "channel": CHANNELS[channel],
            "level": LEVELS[level],
            "statement": statement,
            "take": take,
            "sex": "male" if int(actor) % 2 else "female",
        }
        yield Clip(name, tree.source(name), EMOTIONS[emotion], group=actor, meta=meta)
