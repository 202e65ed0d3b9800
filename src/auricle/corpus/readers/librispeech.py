"""LibriSpeech: chapters of audio books, read by volunteers.

In: <speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac below any folders of subsets, or the same without the
folders of chapters. Out: clips with the speaker as label and the chapter, a session of its own, as group; the clips of
a speaker with one chapter have no group, for nothing of that speaker would be left to learn from.
"""

import re
from collections import defaultdict
from collections.abc import Iterator

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.tree import Tree, mostly, named

TITLE = "LibriSpeech"
DESCRIBES = "<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac, with or without chapter folders (LibriSpeech)"
LICENSE = "CC BY 4.0"
CITATION = "V. Panayotov et al.: Librispeech: an ASR corpus based on public domain audio books. ICASSP 2015."
LABEL_NAME = "speaker"
GROUP_NAME = "chapter"

SPEAKERS = "SPEAKERS.TXT"
SEXES = {"F": "female", "M": "male"}
_NAME = re.compile(r"(?:^|/)(\d+)/(?:\d+/)?\1-(\d+)-(\d+)\.\w+$")


def detects(tree: Tree) -> bool:
    """Whether the recordings are named and placed as LibriSpeech's."""
    return mostly(tree, _NAME)


def read(tree: Tree) -> Iterator[Clip | Excluded]:
    """Yield the clips. Metadata: chapter, utterance, and, where SPEAKERS.TXT is there, sex and subset."""
    matches, excluded = named(tree, _NAME, "LibriSpeech name, such as 84/121123/84-121123-0001.flac")
    yield from excluded
    about = _speakers(tree)
    chapters = _chapters(tree)
    for name, match in matches:
        speaker, chapter, utterance = match.groups()
        group = f"{speaker}-{chapter}" if len(chapters[speaker]) > 1 else None
        meta = {"chapter": chapter, "utterance": utterance, **about.get(speaker, {})}
        yield Clip(name, tree.source(name), speaker, group=group, meta=meta)


def note(tree: Tree) -> str:
    """Say how many speakers have a single chapter, which must be divided."""
    chapters = _chapters(tree)
    single = sum(len(found) == 1 for found in chapters.values())
    if not single:
        return ""
    return f"{single} of {len(chapters)} speakers have one chapter only, whose utterances a split may part"


def _chapters(tree: Tree) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for _, match in named(tree, _NAME, "")[0]:
        found[match[1]].add(match[2])
    return found


def _speakers(tree: Tree) -> dict[str, dict[str, str]]:
    """What SPEAKERS.TXT tells of each speaker: number | sex | subset | minutes | name."""
    place = next((name for name in tree.names if name.rpartition("/")[2] == SPEAKERS), None)
    if place is None:
        return {}
    rows = (line.split("|") for line in tree.read_text(place).splitlines() if not line.startswith(";"))
    fields = ([cell.strip() for cell in row[:3]] for row in rows if len(row) >= 3)
    return {number: {"sex": SEXES.get(sex, sex), "subset": subset} for number, sex, subset in fields}
