"""LibriSpeech: chapters of audio books, read by volunteers.

In: <speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac below any folders of subsets, or the same without the
folders of chapters. Out: clips with the speaker as label and the chapter, one session, as group; the clips of a speaker
with one chapter have no group, because a split by chapter would leave nothing of that speaker to train on.
"""

import re
from collections.abc import Iterator

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.layout import find_file, match_names, names_match, sessions_by_speaker, single_session_note
from auricle.corpus.tree import Tree

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
    """Whether the recordings have LibriSpeech names, in its folders."""
    return names_match(tree, _NAME)


def read(tree: Tree) -> Iterator[Clip | Excluded]:
    """Yield the clips. Metadata: chapter, utterance, and, with a SPEAKERS.TXT, sex and subset."""
    matches, excluded = _matches(tree)
    yield from excluded
    speakers, chapters = _speakers(tree), sessions_by_speaker((match[1], match[2]) for _, match in matches)
    for name, match in matches:
        speaker, chapter, utterance = match.groups()
        group = f"{speaker}-{chapter}" if len(chapters[speaker]) > 1 else None
        meta = {"chapter": chapter, "utterance": utterance, **speakers.get(speaker, {})}
        yield Clip(name, tree.source(name), speaker, group=group, meta=meta)


def note(tree: Tree) -> str:
    """How many speakers have a single chapter, which a split must divide."""
    return single_session_note(sessions_by_speaker((match[1], match[2]) for _, match in _matches(tree)[0]), "chapter")


def _matches(tree: Tree) -> tuple[list[tuple[str, re.Match[str]]], list[Excluded]]:
    return match_names(tree, _NAME, "LibriSpeech name, such as 84/121123/84-121123-0001.flac")


def _speakers(tree: Tree) -> dict[str, dict[str, str]]:
    """Sex and subset of each speaker, from SPEAKERS.TXT: number | sex | subset | minutes | name, without a header."""
    name = find_file(tree, SPEAKERS)
    if name is None:
        return {}
    rows = (line.split("|") for line in tree.read_text(name).splitlines() if not line.startswith(";"))
    fields = ([cell.strip() for cell in row[:3]] for row in rows if len(row) >= 3)
    return {number: {"sex": SEXES.get(sex, sex), "subset": subset} for number, sex, subset in fields}
