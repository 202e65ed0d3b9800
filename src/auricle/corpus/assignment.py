"""Clips that stay together, and their assignment to parts that each get a share of every class.

In: clips, their groups and sets of duplicates. Out: units, and units assigned to training, validation and test.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from auricle.corpus.clip import Clip


def units_of(clips: Sequence[Clip], duplicate_groups: Iterable[set[str]]) -> list[list[Clip]]:
    """Clips that must stay together: those of a group, or duplicates without a group.

    Duplicates of two groups do not join these: a few copies would make one unit of half the corpus.
    """
    parent = {clip.id: clip.id for clip in clips}

    def root(id: str) -> str:
        while parent[id] != id:
            parent[id] = parent[parent[id]]
            id = parent[id]
        return id

    grouped = {clip.id for clip in clips if clip.group is not None}
    first_of: dict[str, str] = {}
    for clip in clips:
        if clip.group is not None:
            parent[root(clip.id)] = root(first_of.setdefault(clip.group, clip.id))
    for ids in duplicate_groups:
        present = sorted(id for id in ids if id in parent and id not in grouped)
        for id in present[1:]:
            parent[root(id)] = root(present[0])
    units: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        units[root(clip.id)].append(clip)
    return list(units.values())


def assign_stratified(
    units: Sequence[Sequence[Clip]], shares: Sequence[float], seed: int, needed: Iterable[int]
) -> list[list[Clip]]:
    """Assign units to parts so that each part gets its share of every class.

    Large units go first, to the part where they raise the sum of squared fill ratios least (the convex potential whose
    minimum is an even fill). Parts in `needed` are empty only where there are too few units. The seed breaks ties.
    """
    classes = {label: number for number, label in enumerate(sorted({clip.label for unit in units for clip in unit}))}
    counts = np.zeros((len(units), len(classes)))
    for row, unit in zip(counts, units, strict=True):
        for clip in unit:
            row[classes[clip.label]] += 1
    totals = counts.sum(0)
    shuffled = np.random.default_rng(seed).permutation(len(units))
    order = sorted(shuffled, key=lambda number: -counts[number].sum())
    open_parts = [part for part, share in enumerate(shares) if share > 0]
    filled = np.zeros((len(shares), len(classes)))
    members: list[list[int]] = [[] for _ in shares]
    wanted = [part for part in needed if part in open_parts]
    for left, number in zip(range(len(order), 0, -1), order, strict=True):
        empty = [part for part in wanted if not members[part]]
        choice = empty if len(empty) >= left else open_parts
        ratio = counts[number] / totals
        costs = [float((2 * filled[part] * ratio + ratio**2 / shares[part]).sum()) for part in choice]
        part = choice[int(np.argmin(costs))]
        members[part].append(int(number))
        filled[part] += ratio / shares[part]
    _share_rare_classes(members, counts, wanted)
    return [[clip for number in sorted(part) for clip in units[number]] for part in members]


def _share_rare_classes(members: list[list[int]], counts: np.ndarray, needed: Sequence[int]) -> None:
    """Move a unit of a class to a part that needs one and has none, from a part that has two or more.

    members: the unit numbers of each part; counts (units, classes). Only units of that class alone are moved.
    """
    for label in range(counts.shape[1]):
        for part in needed:
            if any(counts[number, label] for number in members[part]):
                continue
            for other in sorted(range(len(members)), key=lambda other: -len(members[other])):
                units = [number for number in members[other] if counts[number, label]]
                pure = [number for number in units if counts[number].sum() == counts[number, label]]
                if len(units) > 1 and pure and len(members[other]) > 1:
                    smallest = min(pure, key=lambda number: counts[number, label])
                    members[other].remove(smallest)
                    members[part].append(smallest)
                    break
