"""Quality checks of a recording, with the finding kinds that the audit, the store and prediction share.

In: DecodedAudio and the name of its file. Out: findings, each of a kind in KINDS; and a hash that is equal for the same
samples in different file formats. A few passes over the samples, and no copies of them.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from auricle.audio import FULL_SCALE
from auricle.audio.decode import DecodedAudio
from auricle.audio.decoders import LOUDEST

KINDS: Mapping[str, str] = {
    "unreadable": "no decoder can read the content",
    "empty": "it has no samples",
    "truncated": "the content was cut short",
    "silent": "nothing is louder than -80 dBFS",
    "constant": "the signal is one constant value",
    "nan": "some samples are not finite, or implausibly large",
    "short": "it is shorter than the minimum",
    "long": "it is longer than the maximum",
    "clipped": "its peaks are clipped at full scale",
    "wrong_extension": "the content has another format than the file extension",
    "feature_mismatch": "the precomputed features have another type, width or length than declared",
}
# Not for training or testing. Clips that are clipped or have a wrong extension are still usable.
QUARANTINED = frozenset(KINDS) - {"clipped", "wrong_extension"}

# -80 dBFS: three steps of a 16-bit converter. Below it there is only dither and converter noise.
SILENT_PEAK = 1e-4
# Codecs and resamplers move a clipped peak by a fraction of a dB, so full scale starts at -0.1 dBFS.
CLIPPED_PEAK = 0.988
# A single sample at full scale is a well-set level; three in a row are a plateau.
PLATEAU = 3
# Rare plateaus are inaudible. From one sample in a thousand on, distortion is audible and visible in spectra.
CLIPPED_SHARE = 1e-3

# Samples converted to 16 bits at a time: small enough for the processor's cache.
_HASH_BLOCK = 16_384

# What files of these extensions may contain.
_CONTAINERS = {
    ".wav .wave": "wav",
    ".flac": "flac ogg-flac",
    ".ogg .oga": "ogg ogg-vorbis ogg-opus ogg-flac ogg-speex",
    ".opus": "ogg-opus",
    ".mp3": "mp3",
    ".aif .aiff .aifc": "aiff",
    ".au": "au",
    ".m4a .mp4 .mov .3gp": "m4a",
    ".aac": "aac m4a",
    ".webm .mkv .mka": "webm",
    ".wma": "wma",
    ".amr": "amr",
    ".avi": "avi",
    ".caf": "caf",
    ".w64": "w64",
}
_ALLOWED = {suffix: names.split() for suffixes, names in _CONTAINERS.items() for suffix in suffixes.split()}


@dataclass(frozen=True)
class Finding:
    """One quality problem of one recording: a kind of KINDS, and the measured detail."""

    kind: str
    detail: str


def check(audio: DecodedAudio, *, name: str, min_seconds: float, max_seconds: float) -> tuple[Finding, ...]:
    """Find every quality problem of a decoded recording; `name` is the file's, for its extension."""
    findings = []
    if audio.truncated:
        findings.append(Finding("truncated", audio.truncated))
    if audio.seconds < min_seconds:
        findings.append(Finding("short", f"{audio.seconds:.3f} s, the minimum is {min_seconds:g} s"))
    if audio.seconds > max_seconds:
        findings.append(Finding("long", f"{audio.seconds:.1f} s, the maximum is {max_seconds:g} s"))
    if audio.samples.shape[1]:
        # A signalling NaN, as damaged float files may have, makes any arithmetic warn; it is reported anyway.
        with np.errstate(invalid="ignore"):
            level = _level(audio.samples)
        if level:
            findings.append(level)
    allowed = _ALLOWED.get(PurePosixPath(name).suffix.lower())
    if allowed and audio.container not in allowed:
        findings.append(Finding("wrong_extension", f"'{name}' contains {audio.container}"))
    return tuple(findings)


def _level(samples: np.ndarray) -> Finding | None:
    """The problem that the extreme samples show, if any: nan, silent, constant or clipped, which exclude each other."""
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
        return Finding("constant", f"every sample is {peak:.4f} of full scale")
    if peak < CLIPPED_PEAK:
        return None
    share = _plateaus(samples, CLIPPED_PEAK / scale) / samples.size
    if share < CLIPPED_SHARE:
        return None
    return Finding("clipped", f"{share:.1%} of its samples lie on plateaus at full scale")


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


def audio_hash(audio: DecodedAudio) -> str:
    """Hash the samples, whatever their file format: 32 hexadecimal digits (SHA-256 over 16-bit samples, truncated)."""
    samples = audio.samples
    digest = hashlib.sha256(f"{audio.sample_rate} {len(samples)} ".encode())
    for channel in samples:
        for first in range(0, len(channel), _HASH_BLOCK):
            digest.update(_as_16_bit(channel[first : first + _HASH_BLOCK]).data)
    return digest.hexdigest()[:32]


def _as_16_bit(samples: np.ndarray) -> np.ndarray:
    """Samples (frames,) as little-endian int16, full scale at FULL_SCALE; NaN becomes 0."""
    if samples.dtype != np.int16:
        scaled = np.clip(samples, -1.0, 1.0)
        if np.isnan(scaled.max(initial=0.0)):
            scaled = np.nan_to_num(scaled)
        scaled *= FULL_SCALE
        np.rint(scaled, out=scaled)
        samples = np.minimum(scaled, FULL_SCALE - 1, out=scaled).astype(np.int16)
    return np.ascontiguousarray(samples, "<i2")
