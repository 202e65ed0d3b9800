"""Recordings cut into pieces, by their names: files whose names differ only in a running number at the end.

In: paths of recordings. Out: for each its stem, and pairs of neighbouring numbers. A class folder of cat_001, cat_002
looks the same: whether neighbours are pieces of one recording is for the sound to say (audio.continuity).
"""

import itertools
import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

_RUNNING = re.compile(r"(?P<stem>.*?)[\W_]*(?P<number>\d+)(?P<end>\D*)")


@dataclass(frozen=True)
class Pieces:
    """`stems` has one for each path; `neighbours` are positions of files with neighbouring numbers, `others` for each
    pair the positions of some more files of the same stem, or of other stems where it has no more.
    """

    stems: tuple[str, ...]
    neighbours: tuple[tuple[int, int], ...]
    others: tuple[tuple[int, ...], ...]


def find_pieces(paths: Sequence[str], most_others: int = 12) -> Pieces:
    """The stems of paths, and the neighbours among them: numbers that differ by the smallest step of their stem."""
    stems = list(paths)
    numbered: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for position, path in enumerate(paths):
        match = _RUNNING.fullmatch(posixpath.splitext(path)[0])
        if match is not None and "/" not in match["end"]:
            numbered[match["stem"], match["end"]].append((int(match["number"]), position))
    neighbours: list[tuple[int, int]] = []
    others: list[tuple[int, ...]] = []
    for (stem, end), files in numbered.items():
        files.sort()
        if len(files) < 2:
            continue
        for _, position in files:
            stems[position] = f"{stem}{end}" or posixpath.dirname(paths[position])
        pairs = list(itertools.pairwise(files))
        step = min(after - before for (before, _), (after, _) in pairs)
        for place, ((before, one), (after, two)) in enumerate(pairs):
            if after - before != step or not step:
                continue
            # The others are taken evenly from those after the pair, around to those before it.
            rest = len(files) - 2
            spread = [files[(place + 2 + number) % len(files)][1] for number in range(0, rest, 1 + rest // most_others)]
            strangers = [number for number in range(0, len(paths), 1 + len(paths) // most_others)]
            neighbours.append((one, two))
            others.append(tuple(spread) if len(spread) > 3 else tuple(p for p in strangers if p not in (one, two)))
    return Pieces(tuple(stems), tuple(neighbours), tuple(others))
