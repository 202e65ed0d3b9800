"""Where rows go, and how an interrupted job resumes.

Lines go to standard output; or to a file, or a file for each recording in a folder, each complete or absent. Next to
an unfinished file is a journal: how much of it is valid, and the state that belongs to that. What follows the last
entry is done again, to the same bytes.
"""

import contextlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import IO, Any, Protocol

from auricle.errors import UsageError
from auricle.run_folder import atomic_write

# Syncing to disk takes milliseconds; what is lost between two entries is done again.
JOURNAL_SECONDS = 5.0
# File systems take 255 bytes; the ending and a number must fit too.
_NAME_BYTES = 200


class RowOutput(Protocol):
    """Where a job's rows go, as Output has it."""

    @property
    def state(self) -> dict[str, Any] | None: ...

    def begin(self, name: str, *, resumed: bool = False) -> None: ...

    def write(self, text: str) -> None: ...

    def end(self, *, failed: bool = False) -> None: ...

    def reserve(self, name: str) -> str: ...

    def checkpoint(self, state: object, *, now: bool = False) -> None: ...

    def finish(self) -> None: ...


class Output:
    """Rows for standard output (`out` None), a file, or with `ending` a folder that holds a file for each recording.

    `job` identifies the job: with `resume` only the same job is resumed, and `state` is what was given to `checkpoint`
    last, None where there is nothing to resume. Raises UsageError for another job, and for a file or folder that cannot
    be written.
    """

    def __init__(
        self, out: Path | None, heading: str, *, job: str, ending: str | None = None, resume: bool = False
    ) -> None:
        self.state: dict[str, Any] | None = None
        self._heading, self._job, self._ending = heading, job, ending
        self._out = out
        self._file: IO[bytes] | None = None
        self._target = self._partial = Path()
        self._finished: list[Path] = []  # files of a folder that are not yet synced to disk
        self._names: dict[str, int] = {}
        self._written = -float("inf")
        self._offset = 0
        if out is None:
            sys.stdout.write(heading)
            return
        try:
            if ending is not None:
                out.mkdir(exist_ok=True)
            self._journal = out.with_name(f".{out.name}.journal") if ending is None else out / ".auricle.journal"
            if resume:
                self._resume()
            if ending is None:
                self._open(out, resumed=self.state is not None)
        except OSError as error:
            raise UsageError(
                f"'{out}' cannot be written: {error.strerror}. Name a file in a folder that exists."
            ) from error

    def _resume(self) -> None:
        try:
            entry = json.loads(self._journal.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except ValueError as error:
            raise UsageError(
                f"'{self._journal}' is damaged ({error}). Run the command again without --resume."
            ) from error
        if entry["job"] != self._job:
            raise UsageError(
                f"--resume received another job than the one that started '{self._out}': other recordings, options, "
                "or another model. Give the same ones, or run it without --resume to start over."
            )
        self._offset, self.state = entry["offset"], entry["state"]

    def begin(self, name: str, *, resumed: bool = False) -> None:
        """The rows of a recording follow; `resumed` where some of them were written earlier."""
        if self._out is not None and self._ending is not None:
            self._open(self._out / self.reserve(name), resumed=resumed)

    def end(self, *, failed: bool = False) -> None:
        """A recording has no more rows. In a folder, one that failed has no file."""
        if self._ending is None or self._file is None:
            return
        self._file.close()
        self._file = None
        if failed:
            self._partial.unlink()
        else:
            os.replace(self._partial, self._target)
            self._finished.append(self._target)

    def reserve(self, name: str) -> str:
        """The name of a recording's file in the folder: safe, and given once. The order of calls decides it."""
        plain = re.sub(r"[^\w.+-]+", "_", Path(name).stem if name != "-" else "stdin").lstrip(".") or "recording"
        plain = plain.encode()[:_NAME_BYTES].decode(errors="ignore")
        number = self._names.get(plain.casefold(), 0) + 1
        while number > 1 and f"{plain}-{number}".casefold() in self._names:
            number += 1
        self._names[plain.casefold()] = number
        chosen = plain if number == 1 else f"{plain}-{number}"
        self._names.setdefault(chosen.casefold(), 1)
        return f"{chosen}{self._ending}"

    def write(self, text: str) -> None:
        if self._out is None:
            sys.stdout.write(text)
        elif self._file is not None:
            self._file.write(text.encode())

    def checkpoint(self, state: object, *, now: bool = False) -> None:
        """Save the state of the job as JSON, if it was not saved a short time ago. All that is written is of it."""
        if self._out is None:
            sys.stdout.flush()
            return
        if not now and time.monotonic() - self._written < JOURNAL_SECONDS:
            return
        offset = 0
        if self._file is not None:
            _sync(self._file)
            offset = self._file.tell()
        for path in self._finished:
            with path.open("rb") as file:
                _sync(file)
        self._finished = []
        with atomic_write(self._journal) as partial, partial.open("w", encoding="utf-8") as journal:
            json.dump({"job": self._job, "offset": offset, "state": state}, journal)
            _sync(journal)
        self._written = time.monotonic()

    def finish(self) -> None:
        """The job is done: give the file its name."""
        if self._out is None:
            sys.stdout.flush()
            return
        if self._file is not None:
            _sync(self._file)
            self._file.close()
            os.replace(self._partial, self._target)
        self._journal.unlink(missing_ok=True)

    def abandon(self, *, keep: bool) -> bool:
        """Close an unfinished job; returns whether it can be resumed, which takes `keep` and a journal."""
        if self._out is None:
            return False
        can_resume = keep and self._journal.is_file()
        if not can_resume:
            self._journal.unlink(missing_ok=True)
        if self._file is not None:
            with contextlib.suppress(OSError):  # of a full disk, which was reported
                self._file.close()
            if not can_resume:
                self._partial.unlink(missing_ok=True)
        return can_resume

    def _open(self, target: Path, *, resumed: bool) -> None:
        """Open a target's partial file, truncated to what its journal vouches for, or a new one."""
        self._target, self._partial = target, target.with_name(f".{target.name.lstrip('.')}.partial")
        if not resumed:
            self._file = self._partial.open("wb")
            self._file.write(self._heading.encode())
            return
        if not self._partial.is_file() or self._partial.stat().st_size < self._offset:
            raise UsageError(
                f"--resume received '{self._out}', whose unfinished file '{self._partial}' is gone or was cut. Run "
                "the command again without --resume."
            )
        self._file = self._partial.open("r+b")
        self._file.truncate(self._offset)
        self._file.seek(self._offset)


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
