"""Every error that auricle raises on purpose, in one small tree.

AuricleError            the root: one clear message, no traceback on the command line
├── UsageError          a wrong option, recipe or argument: what was received, what is allowed, what to do
├── DataError           a corpus that cannot be used (missing, empty, one class, no labels, unsafe archive)
├── AudioError          one recording that cannot be used: `kind` is one of `audio.quality.KINDS`
├── RunError            a run or model folder that is missing, incomplete or of another kind
└── MissingExtra        an optional dependency is missing: names the command that installs it
"""

import difflib
from collections.abc import Iterable


class AuricleError(Exception):
    """The root of all errors that a user can cause and fix."""


class UsageError(AuricleError):
    """A wrong option, recipe key or argument."""


class DataError(AuricleError):
    """A corpus that cannot be used."""


class RunError(AuricleError):
    """A run or model folder that cannot be used."""


class MissingExtra(AuricleError):
    """An optional dependency is not installed."""

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs the extra '{extra}'. Install it: pip install 'auricle[{extra}]'")


class AudioError(AuricleError):
    """One recording cannot be used. `kind` is one of `audio.quality.KINDS`."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


def unknown(what: str, received: str, known: Iterable[str]) -> str:
    """A message for an unknown name: the nearest known name, and all known names."""
    names = sorted(known)
    nearest = difflib.get_close_matches(received, names, n=1)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    return f"No {what} named '{received}'.{hint} Known: {', '.join(names)}."
