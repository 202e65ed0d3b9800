"""From a request's bytes to a recording in the model's form, within a service's limits.

A file is known by its bytes alone. Runs in a thread: the decoders release the interpreter's lock.
"""

from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np

from auricle.audio import decode
from auricle.audio.decode import DecodedAudio
from auricle.audio.recordings import (
    FATAL,
    DecodedClip,
    DecodedRecording,
    Recording,
    check_clip,
    convert_clip,
    decode_recording,
)
from auricle.audio.settings import Settings
from auricle.errors import AudioError
from auricle.serving.limits import Limits, RequestError

ENCODINGS = {"s16le": "<i2", "s16be": ">i2", "f32le": "<f4"}
NAME_CHARACTERS = 200


@dataclass(frozen=True)
class Pcm:
    """Raw interleaved samples: `encoding` is one of ENCODINGS."""

    sample_rate: int
    channels: int
    encoding: str


@dataclass(frozen=True, eq=False)
class Upload:
    """The content of a file that was sent, its name if it has one, and its format if it is raw PCM."""

    content: bytes
    name: str = ""
    pcm: Pcm | None = None


def decode_request(upload: Upload, settings: Settings, limits: Limits) -> DecodedRecording:
    """Decode content in a model's form. Raises RequestError, with the fault's kind, also for what exceeds limits."""
    name = PurePath(upload.name.replace("\\", "/")).name[:NAME_CHARACTERS]
    try:
        clip = _decoded(upload, name, settings, limits)
        if clip.audio is None or any(finding.kind in FATAL for finding in clip.findings):
            finding = next((one for one in clip.findings if one.kind in FATAL), clip.findings[0])
            raise RequestError(finding.kind, finding.detail)
        channels, rate = len(clip.audio.samples), clip.audio.sample_rate
        if settings.is_audio and channels > limits.channels:
            raise RequestError("channels", f"it has {channels} channels, and {limits.channels} are allowed")
        if settings.is_audio and rate > limits.sample_rate:
            raise RequestError("rate", f"it has {rate} Hz, and {limits.sample_rate} Hz are allowed")
        recording = convert_clip(name, clip, settings)
    except AudioError as error:
        raise RequestError(error.kind, error.detail) from error
    if recording.error is not None:
        raise RequestError("empty", "it holds no samples")
    return recording


def _decoded(upload: Upload, name: str, settings: Settings, limits: Limits) -> DecodedClip:
    if not settings.is_audio:
        within = replace(settings, max_seconds=min(settings.max_seconds, limits.seconds))
        return decode_recording(Recording(name, name, content=upload.content), within)
    if upload.pcm is not None:
        audio = _raw(upload.content, upload.pcm, limits)
    else:
        audio = decode.decode(upload.content, max_seconds=limits.seconds, max_values=limits.values)
    return check_clip(audio, name, replace(settings, max_seconds=limits.seconds))


def _raw(content: bytes, pcm: Pcm, limits: Limits) -> DecodedAudio:
    """Decode raw PCM. A last frame that is not whole is left out."""
    dtype = np.dtype(ENCODINGS[pcm.encoding])
    frames = len(content) // (dtype.itemsize * pcm.channels)
    if not frames:
        raise RequestError("empty", f"{len(content)} bytes are less than one frame of {pcm.encoding}")
    if frames > limits.seconds * pcm.sample_rate:
        raise RequestError("long", f"it lasts more than the {limits.seconds:g} s that are allowed")
    flat = np.frombuffer(content, dtype, frames * pcm.channels).reshape(frames, pcm.channels)
    samples = np.ascontiguousarray(flat.T, dtype.newbyteorder("="))
    return DecodedAudio(samples, pcm.sample_rate, "raw")
