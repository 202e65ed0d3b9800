"""Speech Commands: a folder of recordings for each word, named <speaker>_nohash_<take>.wav.

In: such folders, and optionally validation_list.txt and testing_list.txt. Out: clips with the word as label, the
speaker as group and the corpus's own folds. The long background noises are excluded.
"""

import posixpath
import re
from collections.abc import Iterator

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.layout import match_names, names_match
from auricle.corpus.tree import Tree

TITLE = "Speech Commands"
DESCRIBES = "word folders of <speaker>_nohash_<take>.wav, validation_list.txt, testing_list.txt (Speech Commands)"
LICENSE = "CC BY 4.0"
CITATION = "P. Warden: Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition. arXiv:1804.03209, 2018."
LABEL_NAME = "word"
GROUP_NAME = "speaker"

NOISE_FOLDER = "_background_noise_"
LISTS = {"validation_list.txt": "valid", "testing_list.txt": "test"}
_NAME = re.compile(r"(?:^|/)([^/]+)/([0-9a-f]{4,})_nohash_(\d+)\.\w+$")
_NAME_OR_NOISE = re.compile(rf"{_NAME.pattern}|(?:^|/){NOISE_FOLDER}/")


def detects(tree: Tree) -> bool:
    """Whether the recordings have Speech Commands names."""
    return names_match(tree, _NAME_OR_NOISE) and any(_NAME.search(name) for name in tree.names)


def read(tree: Tree) -> Iterator[Clip | Excluded]:
    """Yield the clips. Metadata: the take. Without the two lists there are no folds."""
    expected = "Speech Commands name, such as yes/0a7c2a8d_nohash_0.wav"
    matches, excluded = match_names(tree, _NAME_OR_NOISE, expected, copies=True)
    yield from excluded
    folds = _folds(tree)
    for name, match in matches:
        word, speaker, take = match.groups()
        if f"{NOISE_FOLDER}/" in name:
            yield Excluded(name, "background noise, not a word")
            continue
        fold = folds.get("/".join(name.split("/")[-2:]), "train") if folds else None
        yield Clip(name, tree.source(name), word, group=speaker, fold=fold, meta={"take": take})


def _folds(tree: Tree) -> dict[str, str]:
    folds = {}
    for name in tree.names:
        if fold := LISTS.get(posixpath.basename(name)):
            folds.update(dict.fromkeys(tree.read_text(name).split(), fold))
    return folds
