"""Label corrections in a CSV that `auricle train --corrections` applies, written atomically after every correction.

Only the file holds the corrections: a kill loses nothing, a second start continues, and edits made by hand meanwhile
are kept.
"""

import os
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from auricle.corpus import corrections
from auricle.corpus.clip import Clip, Index
from auricle.corpus.corrections import Correction, normalize_text
from auricle.errors import UsageError


class CorrectionsFile:
    """The corrections of one corpus in one file. Safe with several threads, and with several pages on one machine."""

    def __init__(self, path: Path, index: Index) -> None:
        """Raises DataError if the file exists and belongs to another corpus, UsageError if it cannot be written."""
        self.path = path
        self._index = index
        if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(
                f"--corrections received '{path}', which cannot be written. Name a CSV file in a folder of yours."
            )
        # Links to one file share its lock. It excludes other threads as well as other processes.
        target = path.resolve()
        self._lock = FileLock(target.with_name(f".{target.name}.lock"))
        self.read()

    def read(self) -> dict[str, Correction]:
        """All corrections by clip id, the oldest first. Raises DataError if the file was damaged meanwhile."""
        if not self.path.exists():
            return {}
        rows = corrections.read(self.path)
        corrections.check(self._index, rows, self.path)
        return {row.id: row for row in rows}

    def save(self, clip: Clip, label: str, comment: str = "") -> Correction:
        """Save a clip's correct label; an empty label excludes the clip.

        Raises UsageError for the label that the clip has already, OSError if the file cannot be written.
        """
        correction = Correction(clip.id, normalize_text(label), normalize_text(clip.label), normalize_text(comment))
        if correction.label == correction.was:
            raise UsageError(
                f"This clip already has the label '{correction.was}'. Choose another, or undo its correction."
            )
        with self._lock:
            saved = self.read()
            if clip.id in saved:
                correction = replace(correction, others=saved[clip.id].others)
            corrections.write(self.path, (saved | {clip.id: correction}).values())
        return correction

    def undo(self, id: str) -> bool:
        """Remove a clip's correction; False if it has none."""
        with self._lock:
            saved = self.read()
            if saved.pop(id, None) is None:
                return False
            corrections.write(self.path, saved.values())
        return True
