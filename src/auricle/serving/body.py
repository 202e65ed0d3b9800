"""A request's body, in memory alone: read within bounds, whatever its head promises.

Nothing is written to a disk, and no name that a client sends is ever opened.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from auricle.audio.decoders import RATES
from auricle.serving.decode import Pcm, Upload
from auricle.serving.limits import Limits, RequestError
from auricle.serving.service import RequestSlot

FORM = "multipart/form-data"
L16 = "audio/l16"
FIELD = "file"
# What is plainly not audio; anything else is known by its content. `curl --data-binary` sends any file as urlencoded.
REJECTED_TYPES = ("text/", "image/", "font/", "application/json", "application/xml", "application/javascript")
FIELDS, FIELD_BYTES = 8, 1 << 16


async def read(request: Request, slot: RequestSlot, limits: Limits) -> Upload:
    """Read the body of a request. Raises RequestError for one that is too large, too slow, broken or no audio."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    media = kind.decode("latin-1").lower()
    if media.startswith(REJECTED_TYPES):
        raise RequestError(
            "media", f"'{media}' is not audio. Send an audio file as it is, or as '{FIELD}' of a {FORM}."
        )
    coding = request.headers.get("content-encoding", "identity").lower()
    if coding not in ("", "identity"):
        raise RequestError(
            "media", f"content-encoding received '{coding[:40]}', and none is allowed. Send the file as it is."
        )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.body_bytes:
        raise _too_large(limits)
    pcm = _l16(options) if media == L16 else None
    try:
        async with asyncio.timeout(limits.body_seconds):
            if media == FORM:
                return await _form(request, slot, limits)
            return Upload(b"".join([chunk async for chunk in _bounded(request, slot, limits)]), pcm=pcm)
    except TimeoutError as error:
        raise RequestError("slow", f"The body did not come within {limits.body_seconds:g} s.") from error
    except ClientDisconnect as error:
        raise RequestError("body", "The connection was closed before the body was whole.") from error


async def _bounded(request: Request, slot: RequestSlot, limits: Limits) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.body_bytes:
            raise _too_large(limits)
        slot.reserve(len(chunk))
        yield chunk


async def _form(request: Request, slot: RequestSlot, limits: Limits) -> Upload:
    """The file of a form. The parser would write long files to a disk; here none is long enough for that."""
    stream: Any = _bounded(request, slot, limits)
    parser = MultiPartParser(request.headers, stream, max_files=1, max_fields=FIELDS, max_part_size=FIELD_BYTES)
    parser.spool_max_size = limits.body_bytes + 1
    try:
        form = await parser.parse()
    except (MultiPartException, UnicodeError) as error:
        raise RequestError("body", f"The form cannot be read: {error}") from error
    try:
        file = form.get(FIELD)
        if not isinstance(file, UploadFile):
            raise RequestError("body", f"The form has no file named '{FIELD}'. Send one: curl -F {FIELD}=@audio.wav …")
        return Upload(await file.read(), file.filename or "")
    finally:
        await form.close()


def _l16(options: dict[bytes, bytes]) -> Pcm:
    """The encoding of raw PCM by RFC 2586: big-endian, one channel unless stated, and no default rate."""
    try:
        return pcm(int(options[b"rate"]), int(options.get(b"channels", b"1")), "s16be")
    except (KeyError, ValueError) as error:
        raise RequestError(
            "media", "audio/L16 states its rate and channels: audio/L16;rate=16000;channels=1"
        ) from error


def pcm(sample_rate: int, channels: int, encoding: str) -> Pcm:
    """The raw PCM that a client states. Raises RequestError for a rate or channels that no recording has."""
    if not RATES[0] <= sample_rate <= RATES[1] or not 1 <= channels <= 256:
        raise RequestError(
            "query",
            f"rate and channels received '{sample_rate}' and '{channels}'; rates from {RATES[0]} to {RATES[1]} Hz and "
            "1 to 256 channels are allowed.",
        )
    return Pcm(sample_rate, channels, encoding)


def _too_large(limits: Limits) -> RequestError:
    return RequestError("large", f"A body may have {limits.body_bytes} bytes.")
