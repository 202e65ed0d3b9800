"""Overlapping windows merged into events: what was heard, from when to when, and how surely.

In: Moments in order of time. Out: Events. The probability of a cell (one hop of time) is the mean over the windows that
cover its middle; an event begins where a class reaches `on`, and goes on until it falls below `off`. Unknown and quiet
cells hold no event. Memory does not grow with time, and the state can be written down as JSON and taken up again.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from auricle.errors import UsageError
from auricle.inference.predictor import LOWEST, ScoredWindow

# A place that falls short of a cell's edge by rounding alone is on it.
_TINY = 1e-6


@dataclass(frozen=True)
class EventRules:
    """When an event begins and ends, and which are kept.

    on, off: probabilities, `off` at most `on`. Events of one class with `gap_seconds` or less between them are one, and
    those shorter than `min_seconds` are dropped. Cells whose RMS level is below `floor` dBFS are quiet.
    """

    on: float = 0.5
    off: float = 0.3
    min_seconds: float = 0.5
    gap_seconds: float = 1.0
    floor: float = -60.0

    def __post_init__(self) -> None:
        if not 0.0 < self.off <= self.on <= 1.0:
            raise UsageError(
                f"An event received on {self.on:g} and off {self.off:g}. Allowed: 0 < off ≤ on ≤ 1; for example "
                "--on 0.5 --off 0.3."
            )
        if self.min_seconds < 0 or self.gap_seconds < 0:
            raise UsageError(
                f"An event received at least {self.min_seconds:g} s and gaps of {self.gap_seconds:g} s. "
                "Allowed: 0 or more seconds."
            )


@dataclass(frozen=True)
class Event:
    """What was heard from `start` to `end` seconds; `probability` is the mean over its cells."""

    label: str
    start: float
    end: float
    probability: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass
class _Open:
    """An event that has begun; `ended` once it is over, and only a gap may still be bridged."""

    place: int
    start: float
    end: float
    total: float
    cells: int
    ended: bool = False


@dataclass
class EventDetector:
    """Makes events of Moments that come one after the other.

    `threshold` is the probability below which the answer is unknown, None for never. The moments of one recording, all
    of one Cut, go to one Merger.
    """

    labels: Sequence[str]
    threshold: float | None
    rules: EventRules
    _next: int = 0  # the first cell that is not decided
    _end: float = 0.0  # how far the windows reach
    _hop: float = 0.0
    _sums: list[list[float]] = field(default_factory=list)  # from cell `_next` on: the sum over windows, by class
    _counts: list[int] = field(default_factory=list)
    _levels: list[float] = field(default_factory=list)
    _last: list[float] = field(default_factory=list)  # the probabilities of the last window
    _open: _Open | None = None

    @property
    def current(self) -> Event | None:
        """The event that goes on at the moment, as far as it is known and long enough to be kept."""
        going = self._open
        if going is None or going.ended or not self._is_long(going):
            return None
        return self._event(going)

    def add(self, moment: ScoredWindow) -> list[Event]:
        """Take the next window; returns the events that are over for good."""
        self._hop, self._end = moment.hop, max(self._end, moment.end)
        self._cover(moment)
        # The windows after this one begin a hop later, past the middle of its first cell.
        return self._decide(moment.cell + 1)

    def finish(self) -> list[Event]:
        """Say that no window follows; returns the events that were not over yet."""
        done = self._decide(self._next + len(self._sums))
        if self._open is not None and self._is_long(self._open):
            done.append(self._event(self._open))
        self._open = None
        return done

    def _cover(self, moment: ScoredWindow) -> None:
        """Add a window to the cells whose middle it covers."""
        row = self._last = moment.probabilities.tolist()
        for number, level in enumerate(moment.levels.tolist(), moment.cell):
            place = number - self._next
            if place < 0:
                continue
            while place >= len(self._sums):
                self._sums.append([0.0] * len(self.labels))
                self._counts.append(0)
                self._levels.append(LOWEST)
            self._levels[place] = max(self._levels[place], level)
            middle = (number + 0.5) * moment.hop
            if moment.start - _TINY <= middle < moment.end + _TINY:
                self._sums[place] = [sum + value for sum, value in zip(self._sums[place], row, strict=True)]
                self._counts[place] += 1

    def _decide(self, upto: int) -> list[Event]:
        """Settle the cells before number `upto`."""
        done: list[Event] = []
        while self._next < upto and self._sums:
            sums, count, level = self._sums.pop(0), self._counts.pop(0), self._levels.pop(0)
            start = self._next * self._hop
            end = min(start + self._hop, self._end)
            self._next += 1
            # Only a recording's last cell may be too short for any window to cover its middle.
            row = [sum / count for sum in sums] if count else self._last
            done += self._step(row if level >= self.rules.floor else None, start, end)
        return done

    def _step(self, row: list[float] | None, start: float, end: float) -> Iterator[Event]:
        """Take one cell's probabilities, None where it is quiet, and give the event that it ends for good."""
        least = self.threshold or 0.0
        best = int(np.argmax(row)) if row is not None else -1
        begins = row is not None and row[best] >= max(self.rules.on, least)
        going = self._open
        if going is not None:
            own = row[going.place] if row is not None else 0.0
            goes_on = own >= max(self.rules.off, least) and not (begins and best != going.place)
            bridged = going.ended and begins and start - going.end <= self.rules.gap_seconds + _TINY
            if goes_on and (not going.ended or bridged):
                going.end, going.total, going.cells, going.ended = end, going.total + own, going.cells + 1, False
                return
            going.ended = True
            if not begins and end - going.end < self.rules.gap_seconds + _TINY:
                return
            if self._is_long(going):
                yield self._event(going)
            self._open = None
        if begins and row is not None:
            self._open = _Open(best, start, end, row[best], 1)

    def _is_long(self, going: _Open) -> bool:
        return going.end - going.start >= self.rules.min_seconds - _TINY

    def _event(self, going: _Open) -> Event:
        return Event(self.labels[going.place], going.start, going.end, going.total / going.cells)

    def state(self) -> dict[str, Any]:
        """Everything that `from_state` needs to go on, as JSON can hold it."""
        going = self._open
        return {
            "next": self._next,
            "end": self._end,
            "hop": self._hop,
            "sums": [list(row) for row in self._sums],
            "counts": list(self._counts),
            "levels": list(self._levels),
            "last": list(self._last),
            "open": None if going is None else vars(going).copy(),
        }

    @classmethod
    def from_state(
        cls, state: dict[str, Any], labels: Sequence[str], threshold: float | None, rules: EventRules
    ) -> "EventDetector":
        """Take up what `state` wrote down; labels, threshold and rules must be the same."""
        return cls(
            labels,
            threshold,
            rules,
            int(state["next"]),
            float(state["end"]),
            float(state["hop"]),
            [list(row) for row in state["sums"]],
            list(state["counts"]),
            list(state["levels"]),
            list(state["last"]),
            None if state["open"] is None else _Open(**state["open"]),
        )


def events(
    moments: Iterable[ScoredWindow], labels: Sequence[str], threshold: float | None, rules: EventRules
) -> Iterator[Event]:
    """Merge all windows of one recording into events, in order of time."""
    merger = EventDetector(labels, threshold, rules)
    for moment in moments:
        yield from merger.add(moment)
    yield from merger.finish()
