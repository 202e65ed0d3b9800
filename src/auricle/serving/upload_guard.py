"""What of Gradio's own doors stays open, and how much may come in by them.

In: requests to the page. Out: the few routes that the page needs reach Gradio; its other routes do not exist, a body
has a bound, and a request names no file or address of its own choosing. What is sent lies in Gradio's folder only until
it is read; what nobody reads is swept away.
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

from auricle.serving.local_server import Application, Message, Send

# The page itself, what it is built of, signing in, sending a file, and asking for an answer.
OPEN = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|login|logout)/?|/(assets|static|svelte)/.+"
    r"|/gradio_api/(upload|upload_progress|queue/join|queue/data|heartbeat/\w+|startup-events|app_id|login_check|user"
    r"|token|run/predict|reset|cancel|theme\.css|info|stream/\w+(/close)?)/?"
)
UPLOAD = "/gradio_api/upload"
HEARTBEAT = "/gradio_api/heartbeat/"
STREAMS = (HEARTBEAT, "/gradio_api/queue/data")
# A service that stops lets pages have the answers that they wait for, if they come within so long.
STREAM_SECONDS = 5.0
STEP_SECONDS = 0.25
QUESTION_BYTES = 1 << 20
KEPT_SECONDS = 120.0
MOST_UPLOADS = 64
UPLOAD_SECONDS = 120.0
# So many of the largest files may be sent at once; and so many times that may be on its way and lie there to be read.
UPLOADED_BODIES = 4
UPLOADED_AND_LYING = 3


class _TooMuch(Exception):
    """More was sent than was promised."""


class Gate:
    """An ASGI application before Gradio's, whose files lie in `folder`. A file may have `body_bytes`, 0 for none."""

    def __init__(self, app: Application, folder: Path, body_bytes: int, is_stopping: Callable[[], bool]) -> None:
        self.app = app
        self.folder = folder
        self.body_bytes = body_bytes
        self.is_stopping = is_stopping
        self.uploads = 0
        self.promised = 0
        self.is_sweeping = False

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif not OPEN.fullmatch(scope["path"]):
            await _say(send, 404, "There is no such page.")
        elif scope["path"].startswith(STREAMS):
            await self._stream(scope, receive, send)
        elif scope["method"] != "POST":
            await self.app(scope, receive, send)
        elif scope["path"].rstrip("/") == UPLOAD:
            await self._upload(scope, receive, send)
        else:
            await self._question(scope, receive, send)

    async def _upload(self, scope: Message, receive: Any, send: Send) -> None:
        """Let files pass while they fit: one by one, together, beside others under way and those that wait."""
        most = UPLOADED_BODIES * self.body_bytes
        promised = _declared(scope) or most
        if promised > most:
            await _say(send, 413, f"More than {most} bytes were sent at once.")
            return
        # Room is taken before anything is waited for: others ask at the same time.
        self.uploads += 1
        self.promised += promised
        try:
            lying = await asyncio.to_thread(_bytes_in, self.folder)
            if self.uploads > MOST_UPLOADS or self.promised + lying > UPLOADED_AND_LYING * most:
                await _say(send, 429, "Too many files are being sent just now. Try again.")
            else:
                await self._within(promised, scope, receive, send)
        finally:
            self.uploads -= 1
            self.promised -= promised

    async def _within(self, promised: int, scope: Message, receive: Any, send: Send) -> None:
        """Let no more bytes in than were promised, nor for longer than allowed."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message: Message = await receive()
            size += len(message.get("body", b""))
            if size > promised:
                raise _TooMuch
            return message

        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                await self.app(scope, counted, send)
        except _TooMuch:
            await _say(send, 413, "More bytes were sent than there is room for.")
        except TimeoutError:
            await _say(send, 408, f"The files did not come within {UPLOAD_SECONDS:g} s.")
        finally:
            if not self.is_sweeping:
                self.is_sweeping = True
                asyncio.get_running_loop().call_later(KEPT_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Sweep, and once more later while anything lies there."""
        sweep(self.folder)
        self.is_sweeping = any(path.is_file() for path in self.folder.rglob("*"))
        if self.is_sweeping:
            asyncio.get_running_loop().call_later(KEPT_SECONDS, self._sweep)

    async def _stream(self, scope: Message, receive: Any, send: Send) -> None:
        """Let a page listen for as long as it is open, but not keep a service that stops from ending."""
        answer = asyncio.ensure_future(self.app(scope, receive, send))
        patience = 0.0 if scope["path"].startswith(HEARTBEAT) else STREAM_SECONDS
        try:
            while not answer.done() and patience >= 0:
                await asyncio.wait([answer], timeout=STEP_SECONDS)
                patience -= STEP_SECONDS if self.is_stopping() else 0.0
        finally:
            was_cut = answer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answer
        if was_cut:
            with contextlib.suppress(OSError, RuntimeError):  # the answer may have ended on its own after all
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _question(self, scope: Message, receive: Any, send: Send) -> None:
        """Read a small body in whole, see that it names only files that were sent, and hand it on."""
        if _declared(scope) > QUESTION_BYTES:
            await _say(send, 413, f"A question may have {QUESTION_BYTES} bytes.")
            return
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > QUESTION_BYTES:
                await _say(send, 413, f"A question may have {QUESTION_BYTES} bytes.")
                return
        try:
            # Handed on as it was understood here, so that Gradio cannot read it otherwise.
            asked = json.dumps(_checked(body, self.folder)).encode() if _is_json(scope, body) else bytes(body)
        except (ValueError, RecursionError) as error:
            await _say(send, 400, str(error))
            return
        unread: list[Message] = [{"type": "http.request", "body": asked, "more_body": False}]
        await self.app(scope, lambda: _next(unread, receive), send)


async def taken(path: str) -> bytes:
    """The content of a file that was sent; it is gone from the folder. Raises FileNotFoundError for one that is."""
    return await asyncio.to_thread(_take, Path(path))


def keep(paths: Iterable[str]) -> None:
    """Say that files are still to be read: the broom passes them over for a while."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.utime(path)


def sweep(folder: Path, seconds: float = KEPT_SECONDS) -> None:
    """Remove what nobody has read for so long, and empty folders."""
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


def _take(path: Path) -> bytes:
    content = path.read_bytes()
    with contextlib.suppress(OSError):
        path.unlink()
        path.parent.rmdir()
    return content


async def _next(unread: list[Message], receive: Any) -> Message:
    message: Message = unread.pop() if unread else await receive()
    return message


def _declared(scope: Message) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


def _is_json(scope: Message, body: bytearray) -> bool:
    """Signing in is a form, and some questions are empty; everything else is JSON, or nothing that is understood."""
    return bool(body) and not scope["path"].startswith("/login")


def _checked(body: bytearray, folder: Path) -> Any:
    """A JSON body in which every 'path' lies in a folder. Raises ValueError for any other.

    A mounted Gradio does not look at this itself: a visitor could have any file of the server read, or any address.
    """
    asked = json.loads(body)
    pending, inside = [asked], folder.resolve()
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            path = one.get("path")
            if path is not None and not (isinstance(path, str) and Path(path).resolve().is_relative_to(inside)):
                raise ValueError("A question may name files that were sent, and nothing else.")
            pending.extend(one.values())
        elif isinstance(one, list):
            pending.extend(one)
    return asked


async def _say(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
