"""Overlapping windows merged into events: a label, from when to when, with its probability.

In: ScoredWindows in order of time. Out: Events. The probability of a cell (one hop of time) is the mean over the
windows that cover its middle; an event begins where a class reaches `onset`, and goes on until it falls below `offset`.
Unknown and quiet cells hold no event. Memory does not grow with time, and the state can be saved as JSON and restored.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
class _OpenEvent:
    """An event that has begun; `ended` once it is over, and only a gap may still be bridged."""

    label: int
    start: float
    end: float
    total: float
    cells: int
    ended: bool = False


@dataclass
class EventDetector:
    """Finds events in scored windows that come one after the other.

    `threshold` is the probability below which a window is unknown, None for never. The windows of one recording, all
    of one WindowSpec, go to one EventDetector.
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
    _open: _OpenEvent | None = None

    @property
    def current(self) -> Event | None:
        """The event that goes on now, as far as it is known and long enough to be reported."""
        current = self._open
        if current is None or current.ended or not self._is_long(current):
            return None
        return self._event(current)

    def add(self, window: "ScoredWindow") -> list[Event]:
        """Take the next window; returns the events that no later window can change."""
        self._hop, self._end = window.hop, max(self._end, window.end)
        self._cover(window)
        # The windows after this one begin a hop later, past the middle of its first cell.
        return self._decide(window.cell + 1)

    def finish(self) -> list[Event]:
        """Say that no window follows; returns the events that were not over yet."""
        done = self._decide(self._next + len(self._sums))
        if self._open is not None and self._is_long(self._open):
            done.append(self._event(self._open))
        self._open = None
        return done

    def _cover(self, window: "ScoredWindow") -> None:
        """Add a window to the cells whose middle it covers."""
        row = self._last = window.probabilities.tolist()
        for number, level in enumerate(window.levels.tolist(), window.cell):
            index = number - self._next
            if index < 0:
                continue
            while index >= len(self._sums):
                self._sums.append([0.0] * len(self.labels))
                self._counts.append(0)
                self._levels.append(MIN_LEVEL)
            self._levels[index] = max(self._levels[index], level)
            middle = (number + 0.5) * window.hop
            if window.start - _TINY <= middle < window.end + _TINY:
                self._sums[index] = [sum + value for sum, value in zip(self._sums[index], row, strict=True)]
                self._counts[index] += 1

    def _decide(self, upto: int) -> list[Event]:
        """Decide the cells before number `upto`."""
        done: list[Event] = []
        while self._next < upto and self._sums:
            sums, count, level = self._sums.pop(0), self._counts.pop(0), self._levels.pop(0)
            start = self._next * self._hop
            end = min(start + self._hop, self._end)
            self._next += 1
            # Only a recording's last cell may be too short for any window to cover its middle.
            row = [sum / count for sum in sums] if count else self._last
            done += self._step(row if level >= self.rules.min_level else None, start, end)
        return done

    def _step(self, row: list[float] | None, start: float, end: float) -> Iterator[Event]:
        """Take one cell's probabilities, None where it is quiet, and give the event that it completes."""
        least = self.threshold or 0.0
        best = row.index(max(row)) if row is not None else -1
        begins = row is not None and row[best] >= max(self.rules.onset, least)
        current = self._open
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
            if self._is_long(current):
                yield self._event(current)
            self._open = None
        if begins and row is not None:
            self._open = _OpenEvent(best, start, end, row[best], 1)

    def _is_long(self, current: _OpenEvent) -> bool:
        return current.end - current.start >= self.rules.min_seconds - _TINY

    def _event(self, current: _OpenEvent) -> Event:
        return Event(self.labels[current.label], current.start, current.end, current.total / current.cells)

    def state(self) -> dict[str, Any]:
        """Everything that `from_state` needs to continue, as JSON can hold it."""
        current = self._open
        return {
            "next": self._next,
            "end": self._end,
            "hop": self._hop,
            "sums": [list(row) for row in self._sums],
            "counts": list(self._counts),
            "levels": list(self._levels),
            "last": list(self._last),
            "open": None if current is None else vars(current).copy(),
        }

    @classmethod
    def from_state(
        cls, state: dict[str, Any], labels: Sequence[str], threshold: float | None, rules: EventRules
    ) -> "EventDetector":
        """Restore what `state` gave; labels, threshold and rules must be the same."""
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
            None if state["open"] is None else _OpenEvent(**state["open"]),
        )


def find_events(
    windows: Iterable["ScoredWindow"], labels: Sequence[str], threshold: float | None, rules: EventRules
) -> Iterator[Event]:
    """Merge all windows of one recording into events, in order of time."""
    detector = EventDetector(labels, threshold, rules)
    for window in windows:
        yield from detector.add(window)
    yield from detector.finish()
