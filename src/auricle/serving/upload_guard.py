"""A guard before Gradio: it limits what visitors may request and upload.

Only the routes that the page needs reach Gradio. Bodies are bounded, and a request can name no file or address except
an uploaded file. An upload stays in Gradio's folder only until it is read; one that is never read is removed.
"""

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse

from auricle.serving.local_server import Application, Message, Send

# The page, its assets, the login, uploads, and calls of the page's own functions.
ALLOWED = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|login|logout)/?|/(assets|static|svelte)/.+"
    r"|/gradio_api/(upload|upload_progress|queue/join|queue/data|heartbeat/\w+|startup-events|app_id|login_check|user"
    r"|token|run/predict|reset|cancel|theme\.css|info|stream/\w+(/close)?)/?"
)
UPLOAD = "/gradio_api/upload"
HEARTBEAT = "/gradio_api/heartbeat/"
STREAMS = (HEARTBEAT, "/gradio_api/queue/data")
# During shutdown pages still receive the answers that are ready within this time.
STREAM_SECONDS = 5.0
POLL_SECONDS = 0.25
MAX_CALL_BYTES = 1 << 20
EXPIRY_SECONDS = 120.0
MAX_UPLOADS = 64
UPLOAD_SECONDS = 120.0
# An upload may hold this many files of the largest size; all uploads in progress and on disk, three times as many.
MAX_FILES = 4
MAX_PENDING = 3


class _Refused(Exception):
    """A request is answered with this status and sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class UploadGuard:
    """An ASGI application before Gradio's, which stores uploads in `folder`. `max_file_bytes` is 0 for no uploads."""

    def __init__(self, app: Application, folder: Path, max_file_bytes: int, is_stopping: Callable[[], bool]) -> None:
        self.app = app
        self.folder = folder
        self.max_file_bytes = max_file_bytes
        self.is_stopping = is_stopping
        self.uploads = 0
        self.reserved_bytes = 0
        self.cleanup_scheduled = False

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            await self._answer(scope, receive, send)
        except _Refused as refused:
            response = PlainTextResponse(str(refused), refused.status, {"connection": "close"})
            await response(scope, receive, send)

    async def _answer(self, scope: Message, receive: Any, send: Send) -> None:
        if not ALLOWED.fullmatch(scope["path"]):
            raise _Refused(404, "This page does not exist.")
        if scope["path"].startswith(STREAMS):
            await self._stream(scope, receive, send)
        elif scope["method"] != "POST":
            await self.app(scope, receive, send)
        elif scope["path"].rstrip("/") == UPLOAD:
            await self._upload(scope, receive, send)
        else:
            await self._call(scope, receive, send)

    async def _upload(self, scope: Message, receive: Any, send: Send) -> None:
        """Pass on an upload, within its size and time, if it fits together with those in progress and on disk."""
        limit = MAX_FILES * self.max_file_bytes
        size = _content_length(scope) or limit
        if size > limit:
            raise _Refused(413, f"The upload is larger than {limit} bytes. Send fewer or smaller files.")
        received = 0

        async def counting_receive() -> Message:
            nonlocal received
            message: Message = await receive()
            received += len(message.get("body", b""))
            if received > size:
                raise _Refused(413, f"The upload is larger than {size} bytes.")
            return message

        # Reserve before the first await: other uploads arrive at the same time.
        self.uploads += 1
        self.reserved_bytes += size
        try:
            on_disk = await asyncio.to_thread(_bytes_in, self.folder)
            if self.uploads > MAX_UPLOADS or self.reserved_bytes + on_disk > MAX_PENDING * limit:
                raise _Refused(429, "The server's upload limit is reached; retry later.")
            async with asyncio.timeout(UPLOAD_SECONDS):
                await self.app(scope, counting_receive, send)
        except TimeoutError as error:
            raise _Refused(408, f"The upload took more than {UPLOAD_SECONDS:g} s.") from error
        finally:
            self.uploads -= 1
            self.reserved_bytes -= size
            if not self.cleanup_scheduled:
                self.cleanup_scheduled = True
                asyncio.get_running_loop().call_later(EXPIRY_SECONDS, self._clean_up)

    def _clean_up(self) -> None:
        """Remove expired files, and do so again later while any file is left."""
        remove_expired(self.folder)
        self.cleanup_scheduled = any(path.is_file() for path in self.folder.rglob("*"))
        if self.cleanup_scheduled:
            asyncio.get_running_loop().call_later(EXPIRY_SECONDS, self._clean_up)

    async def _stream(self, scope: Message, receive: Any, send: Send) -> None:
        """Keep an event stream open as long as its page is, but do not let it block a shutdown."""
        stream = asyncio.ensure_future(self.app(scope, receive, send))
        grace = 0.0 if scope["path"].startswith(HEARTBEAT) else STREAM_SECONDS
        try:
            while not stream.done() and grace >= 0:
                await asyncio.wait([stream], timeout=POLL_SECONDS)
                grace -= POLL_SECONDS if self.is_stopping() else 0.0
        finally:
            was_cancelled = stream.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await stream
        if was_cancelled:
            with contextlib.suppress(OSError, RuntimeError):  # the stream may have ended on its own meanwhile
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _call(self, scope: Message, receive: Any, send: Send) -> None:
        """Read the small body of a call, check that it names only uploaded files, and pass it on."""
        body, size = b"", _content_length(scope)
        try:
            chunks = Request(scope, receive).stream()
            while size <= MAX_CALL_BYTES and (chunk := await anext(chunks, b"")):
                body += chunk
                size = max(size, len(body))
        except ClientDisconnect:
            return
        if size > MAX_CALL_BYTES:
            raise _Refused(413, f"The request is larger than {MAX_CALL_BYTES} bytes.")
        # The login sends a form, and some calls have no body; everything else must be JSON.
        if body and not scope["path"].startswith("/login"):
            try:
                # Pass on the parsed JSON, so that Gradio cannot parse it differently.
                body = json.dumps(_checked(body, self.folder)).encode()
            except (ValueError, RecursionError) as error:
                raise _Refused(400, str(error)) from error
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def next_message() -> Message:
            message: Message = unread.pop() if unread else await receive()
            return message

        await self.app(scope, next_message, send)


async def read_upload(path: str) -> bytes:
    """Read an uploaded file and remove it. Raises FileNotFoundError if it was removed already."""
    return await asyncio.to_thread(_read_and_remove, Path(path))


def postpone_expiry(paths: Iterable[str]) -> None:
    """Restart the expiry time of files that are still to be read."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.utime(path)


def remove_expired(folder: Path, seconds: float = EXPIRY_SECONDS) -> None:
    """Remove files that were not read within this time, and empty folders."""
    oldest = time.time() - seconds
    for path in sorted(folder.rglob("*"), reverse=True):
        with contextlib.suppress(OSError):
            if path.is_dir():
                path.rmdir()  # only an empty one
            elif path.stat().st_ctime < oldest:
                path.unlink()


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


def _read_and_remove(path: Path) -> bytes:
    content = path.read_bytes()
    with contextlib.suppress(OSError):
        path.unlink()
        path.parent.rmdir()
    return content


def _content_length(scope: Message) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


def _checked(body: bytes, folder: Path) -> Any:
    """Parse a JSON body in which every 'path' lies in a folder. Raises ValueError for any other.

    A mounted Gradio does not check this: a visitor could make it read any file of the server, or any address.
    """
    content = json.loads(body)
    pending, allowed = [content], folder.resolve()
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if path is not None and not (isinstance(path, str) and Path(path).resolve().is_relative_to(allowed)):
                raise ValueError("A request may name only uploaded files.")
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return content
