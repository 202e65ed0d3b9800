"""Overlapping windows merged into events: a label, from when to when, with its probability.

The probability of a cell (one hop of time) is the mean over the windows that cover its middle; an event begins where a
class reaches `onset`, and goes on until it falls below `offset`. Unknown and quiet cells hold no event. Memory does not
grow with time, and the state can be saved and restored.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from auricle.errors import UsageError

if TYPE_CHECKING:
    from auricle.inference.predictor import ScoredWindow

# The level of digital silence in dBFS, and of anything below it: half a bit of a 20-bit converter.
MIN_LEVEL = -120.0
# A time that falls short of a cell's edge by rounding alone is on it.
_TINY = 1e-6


@dataclass(frozen=True)
class EventRules:
    """When an event begins and ends, and which are reported.

    onset, offset: probabilities, `offset` at most `onset`. Events of one class with `max_gap` seconds or less between
    them are one, and those shorter than `min_seconds` are dropped. Cells whose RMS level is below `min_level` dBFS are
    quiet.
    """

    onset: float = 0.5
    offset: float = 0.3
    min_seconds: float = 0.5
    max_gap: float = 1.0
    min_level: float = -60.0

    def __post_init__(self) -> None:
        if not 0.0 < self.offset <= self.onset <= 1.0:
            raise UsageError(
                f"Events received onset {self.onset:g} and offset {self.offset:g}. Allowed: 0 < offset ≤ onset ≤ 1; "
                "for example --onset 0.5 --offset 0.3."
            )
        if self.min_seconds < 0 or self.max_gap < 0:
            raise UsageError(
                f"Events received a shortest length of {self.min_seconds:g} s and gaps of {self.max_gap:g} s. "
                "Allowed: 0 or more seconds."
            )


@dataclass(frozen=True)
class Event:
    """A class detected from `start` to `end` seconds; `probability` is the mean over its cells."""

    label: str
    start: float
    end: float
    probability: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass
class OpenEvent:
    """An event that has begun; `ended` once it is over, and only a gap may still be bridged."""

    label: int
    start: float
    end: float
    total: float
    cells: int
    ended: bool = False


@dataclass
class Cell:
    """One hop of time that is not decided: the sum over the windows that cover it, by class, their count, its level."""

    sums: list[float]
    count: int = 0
    level: float = MIN_LEVEL


@dataclass
class DetectorState:
    """All that an EventDetector remembers, as JSON can hold it."""

    next: int = 0  # the first cell that is not decided
    end: float = 0.0  # how far the windows reach
    hop: float = 0.0
    cells: list[Cell] = field(default_factory=list)  # from `next` on
    last: list[float] = field(default_factory=list)  # the probabilities of the last window
    open: OpenEvent | None = None


@dataclass
class EventDetector:
    """Finds events in scored windows that come one after the other.

    `threshold` is the probability below which a window is unknown, None for never. The windows of one recording, all
    of one WindowSpec, go to one EventDetector; with the state of another, of the same rules, it continues that one.
    """

    labels: Sequence[str]
    threshold: float | None
    rules: EventRules
    state: DetectorState = field(default_factory=DetectorState)

    @property
    def current(self) -> Event | None:
        """The event that goes on now, as far as it is known and long enough to be reported."""
        current = self.state.open
        return None if current is None or current.ended else self._event(current)

    def add(self, window: "ScoredWindow") -> list[Event]:
        """Take the next window; returns the events that no later window can change."""
        state = self.state
        state.hop, state.end = window.hop, max(state.end, window.end)
        row = state.last = window.probabilities.tolist()
        for number, level in enumerate(window.levels.tolist(), window.cell):
            if number < state.next:
                continue
            while number >= state.next + len(state.cells):
                state.cells.append(Cell([0.0] * len(self.labels)))
            cell = state.cells[number - state.next]
            cell.level = max(cell.level, level)
            if window.start - _TINY <= (number + 0.5) * window.hop < window.end + _TINY:
                cell.sums = [sum + value for sum, value in zip(cell.sums, row, strict=True)]
                cell.count += 1
        # The windows after this one begin a hop later, past the middle of its first cell.
        return self._decide(window.cell + 1)

    def finish(self) -> list[Event]:
        """Say that no window follows; returns the events that were not over yet."""
        done = self._decide(self.state.next + len(self.state.cells))
        if self.state.open is not None and (last := self._event(self.state.open)):
            done.append(last)
        self.state.open = None
        return done

    def _decide(self, upto: int) -> list[Event]:
        state = self.state
        done: list[Event] = []
        while state.next < upto and state.cells:
            cell = state.cells.pop(0)
            start = state.next * state.hop
            state.next += 1
            # Only a recording's last cell may be too short for any window to cover its middle.
            row = [sum / cell.count for sum in cell.sums] if cell.count else state.last
            is_loud = cell.level >= self.rules.min_level
            done += self._step(row if is_loud else None, start, min(start + state.hop, state.end))
        return done

    def _step(self, row: list[float] | None, start: float, end: float) -> Iterator[Event]:
        """Take one cell's probabilities, None where it is quiet, and give the event that it completes."""
        least = self.threshold or 0.0
        best = row.index(max(row)) if row is not None else -1
        begins = row is not None and row[best] >= max(self.rules.onset, least)
        current = self.state.open
        if current is not None:
            own = row[current.label] if row is not None else 0.0
            continues = own >= max(self.rules.offset, least) and not (begins and best != current.label)
            bridged = current.ended and begins and start - current.end <= self.rules.max_gap + _TINY
            if continues and (not current.ended or bridged):
                current.end, current.ended = end, False
                current.total += own
                current.cells += 1
                return
            current.ended = True
            if not begins and end - current.end < self.rules.max_gap + _TINY:
                return
            if event := self._event(current):
                yield event
            self.state.open = None
        if begins and row is not None:
            self.state.open = OpenEvent(best, start, end, row[best], 1)

    def _event(self, current: OpenEvent) -> Event | None:
        """The event so far; None where it is too short to be reported."""
        if current.end - current.start < self.rules.min_seconds - _TINY:
            return None
        return Event(self.labels[current.label], current.start, current.end, current.total / current.cells)


def find_events(
    windows: Iterable["ScoredWindow"], labels: Sequence[str], threshold: float | None, rules: EventRules
) -> Iterator[Event]:
    """Merge all windows of one recording into events, in order of time."""
    detector = EventDetector(labels, threshold, rules)
    for window in windows:
        yield from detector.add(window)
    yield from detector.finish()
