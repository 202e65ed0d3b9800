"""FSDD, the Free Spoken Digit Dataset: names of digit, speaker and index, such as 7_jackson_32.wav.

In: a tree with such names. Out: clips with the digit as label and the speaker as group. The set's own test split (index
0 to 4) has the speakers of its training split, so it is metadata (`official_split`), not a fold.
"""

import re
from collections.abc import Iterator

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.layout import match_names, names_match
from auricle.corpus.tree import Tree

TITLE = "FSDD"
DESCRIBES = "names of digit, speaker and index: 7_jackson_32.wav (Free Spoken Digit Dataset)"
LICENSE = "CC BY-SA 4.0"
CITATION = "Z. Jackson and others: Free Spoken Digit Dataset. https://github.com/Jakobovski/free-spoken-digit-dataset"
LABEL_NAME = "digit"
GROUP_NAME = "speaker"

TEST_INDICES = range(5)
_NAME = re.compile(r"(?:^|/)(\d)_([A-Za-z]+)_(\d+)\.\w+$")


def detects(tree: Tree) -> bool:
    """Whether the recordings have FSDD names."""
    return names_match(tree, _NAME)


def read(tree: Tree) -> Iterator[Clip | Excluded]:
    """Yield FSDD's clips. Metadata: speaker, index, official_split."""
    matches, excluded = match_names(tree, _NAME, "FSDD name, such as 7_jackson_32.wav")
    yield from excluded
    for name, match in matches:
        digit, speaker, index = match.groups()
        split = "test" if int(index) in TEST_INDICES else "train"
        meta = {"speaker": speaker, "index": index, "official_split": split}
        yield Clip(name, tree.source(name), digit, group=speaker, meta=meta)
