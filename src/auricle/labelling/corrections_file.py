"""Marks that a listener makes, in a CSV that `auricle train --corrections` applies.

In: clips and their right labels. Out: the file, written whole at once after every mark. The file alone holds the marks:
a kill loses nothing, a second start goes on, and what is edited in it by hand meanwhile is kept.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows: two pages on one file are the user's own affair
    fcntl = None  # type: ignore[assignment]

from auricle.corpus import corrections
from auricle.corpus.clip import Clip, Index
from auricle.corpus.corrections import Fix, plain
from auricle.errors import UsageError


class Marks:
    """The marks on one corpus, in one file. Safe from several threads, and from several pages on one machine."""

    def __init__(self, path: Path, index: Index) -> None:
        """Raises DataError if the file is there and belongs to another corpus, UsageError if it cannot be written."""
        self.path = path
        self._index = index
        self._lock = threading.Lock()
        if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(
                f"--corrections received '{path}', which cannot be written. Name a CSV in a folder of yours."
            )
        self.all()

    def all(self) -> dict[str, Fix]:
        """Every mark by the clip's id, the oldest first. Raises DataError if the file was spoilt meanwhile."""
        if not self.path.exists():
            return {}
        found = corrections.read(self.path)
        corrections.check(self._index, found, self.path)
        return {fix.id: fix for fix in found}

    def put(self, clip: Clip, label: str, comment: str = "") -> Fix:
        """Mark a clip's right label, or, with an empty one, that it is to be left out.

        Raises UsageError for the label that the clip has, OSError if the file cannot be written.
        """
        fix = Fix(clip.id, plain(label), plain(clip.label), plain(comment))
        if fix.label == fix.was:
            raise UsageError(f"'{fix.was}' is the label that this clip has. Choose another, or undo its mark.")
        with self._alone():
            before = self.all()
            if clip.id in before:
                fix = replace(fix, others=before[clip.id].others)
            corrections.write(self.path, (before | {clip.id: fix}).values())
        return fix

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Between reading and writing nobody else may write: another thread, or another page on the same file."""
        with self._lock, contextlib.ExitStack() as held:
            if fcntl is not None:
                folder = os.open(self.path.resolve().parent, os.O_RDONLY)
                held.callback(os.close, folder)
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield

    def undo(self, id: str) -> bool:
        """Take a clip's mark back; False if it has none."""
        with self._alone():
            marks = self.all()
            if marks.pop(id, None) is None:
                return False
            corrections.write(self.path, marks.values())
        return True
