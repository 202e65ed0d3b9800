"""Download one file so that nothing is lost or wrong: interrupted downloads resume, and the finished file is verified.

In: a URL, with the size and hash that its publisher states. Out: the file, complete. A file of another size or hash is
deleted, and UsageError gives both hashes. What arrived of an interrupted one remains next to it as `NAME.incomplete`.
"""

import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import WeakFileLock, build_hf_headers, get_session, hf_raise_for_status, httpx

from auricle.errors import UsageError
from auricle.preparation.formatting import file_size

# Called with the bytes that are here and those of the whole file.
Progress = Callable[[int, int], None]
ATTEMPTS = 5
RETRY_SECONDS = 1.0
_PARTIAL, _RANGE_NOT_SATISFIABLE = 206, 416


@dataclass(frozen=True)
class RemoteFile:
    """A file as its publisher lists it: its size in bytes, and its sha256 or git hash, None where unknown."""

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def hash(self) -> str | None:
        """The hash that a download is verified by; the Hub names files in its cache by it."""
        return self.sha256 or self.git_sha1


def download(file: RemoteFile, path: Path, lock: Path, progress: Progress | None = None) -> Path:
    """Download a file to `path`, resuming an earlier attempt; one process at a time holds `lock`.

    Raises UsageError for a full disk, a download that stopped, and a file of another size or hash, which is deleted;
    HfHubHTTPError where the publisher refuses it.
    """
    if path.exists() and file.size in (None, path.stat().st_size):
        return path
    for folder in (path.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if path.exists() and file.size in (None, path.stat().st_size):
            return path
        partial = path.with_name(f"{path.name}.incomplete")
        _check_disk(file, partial)
        error = _receive(file, partial, progress)
        received = partial.stat().st_size if partial.exists() else 0
        if error is not None or (file.size is not None and received < file.size):
            total = f" of {file_size(file.size)}" if file.size is not None else ""
            raise UsageError(
                f"The download of '{file.name}' stopped at {file_size(received)}{total} ({_reason(error)}). Repeat the "
                "command: it resumes there."
            )
        verify(file, partial)
        partial.replace(path)
    return path


def verify(file: RemoteFile, path: Path) -> str:
    """Compare a local file with what its publisher states; returns its sha256.

    Deletes the file and raises UsageError if its size or hash is another.
    """
    size, sha256 = path.stat().st_size, file_sha256(path)
    received = sha256 if file.sha256 is not None or file.git_sha1 is None else _git_sha1(path)
    if received != (file.hash or received) or size != (file.size if file.size is not None else size):
        for damaged in {path.resolve(), path}:
            damaged.unlink(missing_ok=True)
        raise UsageError(
            f"'{file.name}' was deleted: it has {size} bytes and the hash {received}, and its publisher states "
            f"{file.size if file.size is not None else 'no number of'} bytes and {file.hash or 'no hash'}. Repeat the "
            "command; if that does not help, a proxy or mirror on the way changes the file."
        )
    return sha256


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _receive(file: RemoteFile, partial: Path, progress: Progress | None) -> Exception | None:
    """Append to the partial file until it is complete; returns the last error if it is not."""
    attempts, error = 0, None
    while attempts < ATTEMPTS:
        before = partial.stat().st_size if partial.exists() else 0
        if file.size is not None and before > file.size:
            partial.unlink()
        elif file.size is not None and before == file.size:
            return None
        try:
            _append(file, partial, progress)
            return None
        except OfflineModeIsEnabled as failure:
            return failure
        except httpx.TransportError as failure:
            error = failure
        after = partial.stat().st_size if partial.exists() else 0
        attempts = attempts + 1 if after <= before else 0
        time.sleep(RETRY_SECONDS)
    return error


def _append(file: RemoteFile, partial: Path, progress: Progress | None) -> None:
    start = partial.stat().st_size if partial.exists() else 0
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"} if _is_hub(file.url) else {}
    if start:
        headers["Range"] = f"bytes={start}-"
    with get_session().stream("GET", file.url, headers=headers, timeout=HF_HUB_DOWNLOAD_TIMEOUT) as response:
        if response.status_code == _RANGE_NOT_SATISFIABLE:
            # The partial file is not a part of this one.
            partial.unlink()
            raise httpx.RemoteProtocolError("the server has no such range")
        hf_raise_for_status(response)
        resumes = response.status_code == _PARTIAL
        done = start if resumes else 0
        with partial.open("ab" if resumes else "wb") as out:
            # Of chunks of a fixed size, an interruption would lose the last one.
            for chunk in response.iter_bytes():
                out.write(chunk)
                done += len(chunk)
                if progress is not None and file.size:
                    progress(done, file.size)


def _check_disk(file: RemoteFile, partial: Path) -> None:
    needed = (file.size or 0) - (partial.stat().st_size if partial.exists() else 0)
    free = shutil.disk_usage(partial.parent).free
    if needed > free:
        raise UsageError(
            f"'{file.name}' needs {file_size(needed)}, and '{partial.parent}' has {file_size(free)} free. Name a "
            "folder on a larger disk in the environment variable HF_HOME."
        )


def _is_hub(url: str) -> bool:
    """Whether the user's Hub token may go to this URL."""
    from huggingface_hub import constants

    return url.startswith(f"{constants.ENDPOINT}/")


def _reason(error: Exception | None) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {HF_HUB_DOWNLOAD_TIMEOUT} s"
    return str(error).partition("\n")[0] or type(error).__name__ if error is not None else "the server sent no more"


def _git_sha1(path: Path) -> str:
    """The hash by which git names a file's content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    digest.update(path.read_bytes())
    return digest.hexdigest()
