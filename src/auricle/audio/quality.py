"""What is wrong with a recording, in words that the audit, the store and prediction share.

In: DecodedAudio and the name of its file. Out: findings, each of a kind in KINDS; and a hash by which the same
samples in two containers are known as one. A few passes over the samples, and no copies of them.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType

import numpy as np

from auricle.audio.decode import DecodedAudio
from auricle.audio.decoders import LOUDEST

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "unreadable": "no decoder understands the content",
        "empty": "there are no samples",
        "truncated": "the content was cut short",
        "silent": "nothing is louder than -80 dBFS",
        "dc": "the signal is one constant value",
        "nan": "some samples are no finite numbers, or absurdly large",
        "short": "it is shorter than allowed",
        "long": "it is longer than allowed",
        "clipped": "peaks are cut off at full scale",
        "misnamed": "the content is not what the file's name says",
        "mismatch": "the content is not what the corpus says of it",
    }
)
# These teach nothing, or something false. A clipped or misnamed clip still holds its sound.
QUARANTINED = frozenset(KINDS) - {"clipped", "misnamed"}

# -80 dBFS: three steps of a 16-bit converter. Below it there is dither and converter noise, no recording.
SILENT_PEAK = 1e-4
# Codecs and resamplers move a cut-off peak by a fraction of a dB, so full scale is taken from -0.1 dBFS up.
FULL_SCALE = 0.988
# One lone sample at full scale is a well-set level; three in a row are a plateau.
PLATEAU = 3
# A plateau now and then is inaudible. From one sample in a thousand on, distortion is heard and seen in spectra.
CLIPPED_SHARE = 1e-3

# Samples brought to 16 bits at a time: small enough to stay in the processor's cache.
_HASH_BLOCK = 16_384

_WEBM = frozenset({"webm"})
_CONTAINERS: Mapping[str, frozenset[str]] = {
    ".wav": frozenset({"wav"}),
    ".wave": frozenset({"wav"}),
    ".flac": frozenset({"flac", "ogg-flac"}),
    ".ogg": frozenset({"ogg", "ogg-vorbis", "ogg-opus", "ogg-flac", "ogg-speex"}),
    ".oga": frozenset({"ogg", "ogg-vorbis", "ogg-opus", "ogg-flac", "ogg-speex"}),
    ".opus": frozenset({"ogg-opus"}),
    ".mp3": frozenset({"mp3"}),
    ".aif": frozenset({"aiff"}),
    ".aiff": frozenset({"aiff"}),
    ".aifc": frozenset({"aiff"}),
    ".au": frozenset({"au"}),
    ".m4a": frozenset({"m4a"}),
    ".mp4": frozenset({"m4a"}),
    ".mov": frozenset({"m4a"}),
    ".3gp": frozenset({"m4a"}),
    ".aac": frozenset({"aac", "m4a"}),
    ".webm": _WEBM,
    ".mkv": _WEBM,
    ".mka": _WEBM,
    ".wma": frozenset({"wma"}),
    ".amr": frozenset({"amr"}),
    ".avi": frozenset({"avi"}),
    ".caf": frozenset({"caf"}),
    ".w64": frozenset({"w64"}),
}


@dataclass(frozen=True)
class Finding:
    """One fault of one recording: its kind, in the words of KINDS, and what was seen."""

    kind: str
    detail: str


def find(sound: DecodedAudio, *, name: str, min_seconds: float, max_seconds: float) -> tuple[Finding, ...]:
    """Say everything that is wrong with a decoded recording; an empty tuple for a sound one.

    `name` is the file's name, for its extension. Durations are in seconds, the bounds themselves allowed.
    """
    findings = []
    if sound.truncated:
        findings.append(Finding("truncated", sound.truncated))
    if sound.seconds < min_seconds:
        findings.append(Finding("short", f"{sound.seconds:.3f} s, at least {min_seconds:g} s are asked for"))
    if sound.seconds > max_seconds:
        findings.append(Finding("long", f"{sound.seconds:.1f} s, at most {max_seconds:g} s are allowed"))
    if sound.samples.shape[1]:
        # A signalling NaN, as a damaged float file may hold, warns of any arithmetic; it is found all the same.
        with np.errstate(invalid="ignore"):
            level = _level(sound.samples)
        if level:
            findings.append(level)
    allowed = _CONTAINERS.get(PurePosixPath(name).suffix.lower())
    if allowed and sound.container not in allowed:
        findings.append(Finding("misnamed", f"'{name}' holds {sound.container}"))
    return tuple(findings)


def _level(samples: np.ndarray) -> Finding | None:
    """Name the fault that the extremes give away: nan, silent, dc or clipped; they exclude each other."""
    scale = 2.0**-15 if samples.dtype == np.int16 else 1.0
    low, high = samples.min(axis=1) * scale, samples.max(axis=1) * scale
    peak = float(max(high.max(), -low.min()))
    if not peak < LOUDEST:
        count = int(np.count_nonzero(~(np.abs(samples) < LOUDEST)))
        return Finding(
            "nan", f"{count} of {samples.size} samples are not finite, or beyond {LOUDEST:g} times full scale"
        )
    if peak < SILENT_PEAK:
        level = f"{20 * math.log10(peak):.0f} dBFS" if peak else "digital silence"
        return Finding("silent", f"its peak is {level}")
    if float((high - low).max()) / 2 < SILENT_PEAK:
        return Finding("dc", f"every sample is {peak:.4f} of full scale")
    if peak < FULL_SCALE:
        return None
    share = _plateaus(samples, FULL_SCALE / scale) / samples.size
    return (
        Finding("clipped", f"{share:.1%} of its samples lie on plateaus at full scale")
        if share >= CLIPPED_SHARE
        else None
    )


def _plateaus(samples: np.ndarray, full_scale: float) -> int:
    """Count the samples in runs of PLATEAU or more at full scale, of one sign."""
    count, frames = 0, samples.shape[1]
    if frames < PLATEAU:
        return 0
    for at_top in (samples >= full_scale, samples <= -full_scale):
        inside = np.zeros_like(at_top)
        starts = np.logical_and.reduce([at_top[:, k : frames - PLATEAU + 1 + k] for k in range(PLATEAU)])
        for k in range(PLATEAU):
            inside[:, k : frames - PLATEAU + 1 + k] |= starts
        count += int(np.count_nonzero(inside))
    return count


def sound_hash(sound: DecodedAudio) -> str:
    """Hash the samples, whatever container they came in: 32 hexadecimal digits (SHA-256 over 16-bit samples, cut).

    The same PCM in wav, flac or aiff gives the same hash; a lossy codec or another level does not.
    """
    samples = sound.samples
    digest = hashlib.sha256(f"{sound.sample_rate} {len(samples)} ".encode())
    for channel in samples:
        for first in range(0, len(channel), _HASH_BLOCK):
            digest.update(_as_16_bit(channel[first : first + _HASH_BLOCK]).data)
    return digest.hexdigest()[:32]


def _as_16_bit(samples: np.ndarray) -> np.ndarray:
    """Samples (frames,) as little-endian int16, full scale at 32768; what is no number becomes 0."""
    if samples.dtype != np.int16:
        scaled = np.clip(samples, -1.0, 1.0)
        if np.isnan(scaled.max(initial=0.0)):
            scaled = np.nan_to_num(scaled)
        scaled *= 32768.0
        np.rint(scaled, out=scaled)
        samples = np.minimum(scaled, 32767.0, out=scaled).astype(np.int16)
    return np.ascontiguousarray(samples, "<i2")
