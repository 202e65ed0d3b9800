"""From a request's bytes to what a model hears, within a service's limits.

In: the content of a file, known by its bytes alone, or raw PCM of a stated form. Out: samples as the model takes them,
with warnings; or Refused, with the fault's name. Runs in a thread: the decoders release the interpreter's lock.
"""

from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np

from auricle.audio import decode, quality
from auricle.audio.decode import DecodedAudio
from auricle.audio.inspect import DecodedClip, as_heard, open_clip
from auricle.audio.recordings import DEAF, Heard
from auricle.audio.settings import Settings
from auricle.corpus.clip import Clip
from auricle.errors import AudioError
from auricle.serving.limits import Limits, Refused

FORMS = {"s16le": "<i2", "s16be": ">i2", "f32le": "<f4"}
NAME_CHARACTERS = 200


@dataclass(frozen=True)
class Pcm:
    """Raw interleaved samples: `form` is one of FORMS."""

    sample_rate: int
    channels: int
    form: str


def hear(content: bytes, name: str, settings: Settings, limits: Limits, pcm: Pcm | None = None) -> Heard:
    """Decode content and bring it to a model's rate and channels.

    Raises Refused with the fault's kind for what cannot be heard, or is longer, wider or faster than allowed.
    """
    name = PurePath(name.replace("\\", "/")).name[:NAME_CHARACTERS]
    try:
        opened = _opened(content, name, settings, limits, pcm)
        if opened.sound is None or any(finding.kind in DEAF for finding in opened.findings):
            finding = next((one for one in opened.findings if one.kind in DEAF), opened.findings[0])
            raise Refused(finding.kind, finding.detail)
        if settings.num_features is None:
            _check(opened.sound, limits)
        samples = as_heard(opened.sound, settings)
    except AudioError as error:
        raise Refused(error.kind, error.detail) from error
    if not samples.shape[-1]:
        raise Refused("empty", "it holds no samples")
    return Heard(name, samples, tuple(f"{finding.kind}: {finding.detail}" for finding in opened.findings))


def _opened(content: bytes, name: str, settings: Settings, limits: Limits, pcm: Pcm | None) -> DecodedClip:
    if settings.num_features is not None:
        within = replace(settings, max_seconds=min(settings.max_seconds, limits.seconds))
        return open_clip(Clip(name, name, ""), within, content)
    if pcm is not None:
        sound = _raw(content, pcm, limits)
    else:
        sound = decode.decode(content, max_seconds=limits.seconds, max_values=limits.values)
    return DecodedClip(sound, quality.find(sound, name=name, min_seconds=0.0, max_seconds=limits.seconds))


def _check(sound: DecodedAudio, limits: Limits) -> None:
    if len(sound.samples) > limits.channels:
        raise Refused("channels", f"it has {len(sound.samples)} channels, and {limits.channels} are allowed")
    if sound.sample_rate > limits.sample_rate:
        raise Refused("rate", f"it has {sound.sample_rate} Hz, and {limits.sample_rate} Hz are allowed")


def _raw(content: bytes, pcm: Pcm, limits: Limits) -> DecodedAudio:
    """Raw PCM as a sound. A last frame that is not whole is left out."""
    kind = np.dtype(FORMS[pcm.form])
    frames = len(content) // (kind.itemsize * pcm.channels)
    if not frames:
        raise Refused("empty", f"{len(content)} bytes are less than one frame of {pcm.form}")
    if frames > limits.seconds * pcm.sample_rate:
        raise Refused("long", f"it lasts more than the {limits.seconds:g} s that are allowed")
    flat = np.frombuffer(content, kind, frames * pcm.channels).reshape(frames, pcm.channels)
    samples = np.ascontiguousarray(flat.T, kind.newbyteorder("="))
    return DecodedAudio(samples, pcm.sample_rate, "raw")
