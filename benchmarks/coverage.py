"""How often the 95 % interval of a mean holds the truth, on simulated corpora, and whether it is called reliable.

Clips of a group share its accuracy, which varies between groups such that clips correlate as stated (beta-binomial).
Intervals are those of auricle.evaluation.intervals. The design cells chose its constants; the check cells have other
sizes. Where at least half of a cell's corpora are called reliable, the intervals of those should cover the truth in 92
to 97 % of cases. In other cells those are the extreme corpora, so only how many of all corpora mislead is of interest.
The last line is the lowest coverage.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from auricle.evaluation.intervals import mean_interval
from benchmarks._environment import Screen

ACCURACIES, CORRELATIONS = (0.5, 0.9, 0.99), (0.0, 0.05, 0.2)
# Groups, clips in each, and the spread of these; clips as units are groups of one.
SIZES = {
    "design": ((5, 10, 30, 200), (20, 1), (0.0,)),
    "check": ((5, 15, 80), (5, 60), (0.0,)),
    "check, clips": ((15, 50, 80, 100, 400), (1,), (0.0,)),
    "check, unequal": ((6, 10, 30, 80), (20,), (0.5, 0.8)),
}
BOUNDS = (0.92, 0.97)
MIN_SHARE = 0.5


@dataclass(frozen=True)
class Cell:
    """Corpora of `units` groups of `clips` clips with a true `accuracy`, where clips of a group are correlated.

    Sizes of groups are log-normal around `clips`, with the standard deviation `spread` of their logarithm.
    """

    units: int
    clips: int
    accuracy: float
    correlation: float
    spread: float = 0.0


@dataclass(frozen=True)
class Coverage:
    """Shares of corpora: covered by their interval, called reliable, of these covered, and reliable but not covered."""

    covered: float
    reliable: float
    reliable_covered: float
    misleading: float

    @property
    def counts(self) -> bool:
        return self.reliable >= MIN_SHARE


def cells(part: str) -> Iterator[Cell]:
    """The cells of one part of SIZES; a clip on its own has no correlation."""
    units, clips, spreads = SIZES[part]
    for spread, size, correlation, count, accuracy in product(spreads, clips, CORRELATIONS, units, ACCURACIES):
        if size > 1 or not correlation:
            yield Cell(count, size, accuracy, correlation, spread)


def measure(cell: Cell, corpora: int, seed: int = 0) -> Coverage:
    """Simulate corpora of one cell and take the interval of each one's accuracy."""
    random = np.random.default_rng(seed)
    covered, reliable = np.zeros(corpora, bool), np.zeros(corpora, bool)
    for number in range(corpora):
        sizes = np.full(cell.units, float(cell.clips)) * np.exp(random.normal(0.0, cell.spread, cell.units))
        unit_of = np.repeat(np.arange(cell.units), np.maximum(1, np.round(sizes)).astype(int))
        accuracy = np.full(cell.units, cell.accuracy)
        if cell.correlation:
            concentration = 1 / cell.correlation - 1
            accuracy = random.beta(cell.accuracy * concentration, (1 - cell.accuracy) * concentration, cell.units)
        interval = mean_interval(random.random(len(unit_of)) < accuracy[unit_of], unit_of)
        covered[number] = interval.low <= cell.accuracy <= interval.high
        reliable[number] = interval.reliable
    among = float(covered[reliable].mean()) if reliable.any() else float("nan")
    return Coverage(float(covered.mean()), float(reliable.mean()), among, float((reliable & ~covered).mean()))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpora", type=int, default=6000, metavar="N", help="simulated corpora of each cell")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Print the coverage of each cell, then how many are within the bounds."""
    screen.machine()
    lowest, inside, counted = 1.0, 0, 0
    rows = [
        (
            "cells",
            "units",
            "clips",
            "spread",
            "correlation",
            "accuracy",
            "covered",
            "reliable",
            "of these",
            "misleading",
        )
    ]
    for part in SIZES:
        for cell in cells(part):
            found = measure(cell, options.corpora)
            shares = (found.covered, found.reliable, found.reliable_covered, found.misleading)
            sizes = (
                str(cell.units),
                str(cell.clips),
                f"{cell.spread:g}",
                f"{cell.correlation:g}",
                f"{cell.accuracy:g}",
            )
            rows.append((part, *sizes, *(f"{share:.3f}" for share in shares)))
            screen.record("coverage", part=part, **vars(cell), **vars(found))
            if found.counts:
                counted, lowest = counted + 1, min(lowest, found.reliable_covered)
                inside += BOUNDS[0] <= found.reliable_covered <= BOUNDS[1]
    screen.table(rows)
    screen.say(
        f"Within {BOUNDS[0]:g} to {BOUNDS[1]:g}: {inside} of the {counted} cells where at least half of the "
        f"{options.corpora} corpora are called reliable."
    )
    screen.result("coverage", "lowest", lowest)
