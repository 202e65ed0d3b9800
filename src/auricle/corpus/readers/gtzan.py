"""GTZAN: ten genres of music, a hundred clips each, named <genre>.00000.wav.

In: a tree with such names. Out: clips with the genre as label. The corpus names no artists, so there are no groups:
inspect it for duplicates, of which it has many (Sturm 2013).
"""

import re
from collections.abc import Iterator

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.layout import match_names, names_match
from auricle.corpus.tree import Tree

TITLE = "GTZAN"
DESCRIBES = "names of genre and number: genres/blues/blues.00000.wav or .au (GTZAN genre collection)"
LICENSE = "none stated by the publisher; ask before redistribution"
CITATION = (
    "G. Tzanetakis, P. Cook: Musical genre classification of audio signals. IEEE Transactions on Speech and Audio "
    "Processing 10(5), 2002. Its faults: B. L. Sturm, arXiv:1306.1461, 2013."
)
LABEL_NAME = "genre"

GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
_NAME = re.compile(rf"(?:^|/)({'|'.join(GENRES)})\.(\d{{5}})\.\w+$")


def detects(tree: Tree) -> bool:
    """Whether the recordings have GTZAN names."""
    return names_match(tree, _NAME)


def read(tree: Tree) -> Iterator[Clip | Excluded]:
    """Yield GTZAN's clips. Metadata: the clip's number in its genre."""
    matches, excluded = match_names(tree, _NAME, "GTZAN name, such as blues.00000.wav")
    yield from excluded
    for name, match in matches:
        genre, number = match.groups()
        yield Clip(name, tree.source(name), genre, meta={"number": number})
