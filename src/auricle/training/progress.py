"""How a run reports its progress: messages, shares of long work, epochs. Imports nothing heavy."""

from collections.abc import Callable
from dataclasses import dataclass

from auricle.parallel import Progress


def _ignore(*_: object) -> None:
    return None


@dataclass(frozen=True)
class Epoch:
    """One line of history.jsonl. `valid` holds the validation metrics, None without a validation part."""

    epoch: int
    epochs: int
    loss: float
    learning_rate: float
    valid: dict[str, float] | None
    seconds: float
    clips_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class ProgressReporter:
    """What receives a run's progress. `epoch` gets the name of the fold and the epoch that ended."""

    message: Callable[[str], None] = _ignore
    progress: Progress = _ignore
    epoch: Callable[[str, Epoch], None] = _ignore
