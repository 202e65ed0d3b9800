"""Speech Commands: a folder of recordings for each word, named <speaker>_nohash_<take>.wav.

In: such folders, with the set's validation_list.txt and testing_list.txt or without. Out: clips with the word as label,
the speaker as group and the set's own folds. The long background noises are no clips.
"""

import posixpath
import re
from collections.abc import Iterator

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.tree import Tree, mostly, recordings

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
    """Whether the recordings are named as those of Speech Commands."""
    return mostly(tree, _NAME_OR_NOISE) and any(_NAME.search(name) for name in tree.names)


def read(tree: Tree) -> Iterator[Clip | Excluded]:
    """Yield the clips. Metadata: the take. Without the two lists there are no folds."""
    names, excluded = recordings(tree)
    yield from excluded
    folds = _folds(tree)
    for name in names:
        match = _NAME.search(name)
        if f"{NOISE_FOLDER}/" in name:
            yield Excluded(name, "background noise, no word")
        elif match is None:
            yield Excluded(name, "no Speech Commands name, such as yes/0a7c2a8d_nohash_0.wav")
        else:
            word, speaker, take = match.groups()
            fold = folds.get("/".join(name.split("/")[-2:]), "train") if folds else None
            yield Clip(name, tree.source(name), word, group=speaker, fold=fold, meta={"take": take})


def _folds(tree: Tree) -> dict[str, str]:
    folds = {}
    for name in tree.names:
        if fold := LISTS.get(posixpath.basename(name)):
            folds.update(dict.fromkeys(tree.read_text(name).split(), fold))
    return folds
