"""Progress in a notebook: one output with the latest messages, a bar and the latest epoch.

It needs nothing but IPython, which a notebook has; elsewhere nothing is shown.
"""

import html
import sys
import time
from typing import Any

from auricle.training.progress import Epoch

SHOWN_MESSAGES = 6
_MIN_SECONDS = 0.2


def in_notebook() -> bool:
    """Whether this is a Jupyter kernel. IPython is asked only where it runs already."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


class NotebookProgress:
    """Replaces one output as work goes on; at most a few times a second."""

    def __init__(self) -> None:
        from IPython.display import display

        self._messages: list[str] = []
        self._bar = ""
        self._shown = 0.0
        show: Any = display  # untyped
        self._output: Any = show(self, display_id=True)

    def message(self, text: str) -> None:
        self._messages.append(text)
        self._bar = ""
        self._update()

    def progress(self, done: int, total: int) -> None:
        self._bar = f"<progress value='{done}' max='{total}'></progress> {done} of {total}" if done < total else ""
        if not self._bar or time.monotonic() - self._shown > _MIN_SECONDS:
            self._update()

    def epoch(self, fold: str, epoch: Epoch) -> None:
        """One line for the latest epoch of a fold, under a bar of all its epochs."""
        accuracy = f", validation accuracy {epoch.valid['accuracy']:.3f}" if epoch.valid else ""
        named = f"{html.escape(fold)}: " if fold else ""
        self._bar = (
            f"<progress value='{epoch.epoch}' max='{epoch.epochs}'></progress> "
            f"{named}epoch {epoch.epoch} of {epoch.epochs}, loss {epoch.loss:.3f}{accuracy}"
        )
        self._update()

    def _repr_html_(self) -> str:
        lines = [html.escape(message) for message in self._messages[-SHOWN_MESSAGES:]]
        return "<br>".join([*lines, self._bar] if self._bar else lines) or "…"

    def _update(self) -> None:
        self._shown = time.monotonic()
        self._output.update(self)
