"""Quality checks of a recording, with the finding kinds that the audit, the store and prediction share.

In: samples as they are stored, and as a model takes them. Out: findings, each of a kind in KINDS; and a hash that is
equal for the same samples in different file formats. A few passes over the samples, block by block.
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
    "not_fetched": "the file only points to content that was not fetched",
    "empty": "it has no samples",
    "truncated": "the content was cut short",
    "silent": "nothing in the model's input is louder than -80 dBFS",
    "constant": "the model's input is one constant value",
    "cancelling_channels": "its channels cancel in their mean, which is the model's input",
    "dead_channel": "one of its channels is silent, others are not",
    "band_lost": "most of its energy lies above what the model's sample rate can hold",
    "nan": "some samples are not finite, or implausibly large",
    "short": "it is shorter than the minimum",
    "long": "it is longer than the maximum",
    "clipped": "its peaks are clipped at full scale",
    "unfinished_header": "its header was never completed, and the samples behind it were read",
    "beyond_header": "the file holds more than its header declares, which was not read",
    "wrong_extension": "the content has another format than the file extension",
    "feature_mismatch": "the precomputed features have another type, width or length than declared",
}
# Clips with these are usable; all others are neither trained nor tested on.
USABLE = frozenset({"dead_channel", "band_lost", "clipped", "unfinished_header", "beyond_header", "wrong_extension"})
QUARANTINED = frozenset(KINDS) - USABLE

# -80 dBFS: three steps of a 16-bit converter. Below it there is only dither and converter noise.
SILENT_PEAK = 1e-4
# Codecs and resamplers move a clipped peak by a fraction of a dB, so full scale starts at -0.1 dBFS.
CLIPPED_PEAK = 0.988
# A single sample at full scale is a well-set level; three in a row are a plateau.
PLATEAU = 3
# Rare plateaus are inaudible. From one sample in a thousand on, distortion is audible and visible in spectra.
CLIPPED_SHARE = 1e-3
# The mean of unlike channels has 1 / channels of their mean power. With a tenth of that they are each other's negatives
# (for two of one level: a correlation below -0.9).
CANCELLED_SHARE = 0.1
# With more of its energy than this above the model's band, the model's input is not the recording's sound.
BAND_LOST_SHARE = 0.5
_FULL_SWING = 1.1

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


def check(
    audio: DecodedAudio, converted: np.ndarray | None, *, name: str, min_seconds: float, max_seconds: float, rate: int
) -> tuple[Finding, ...]:
    """Find every quality problem of a decoded recording; `name` is the file's, for its extension.

    `converted` is the recording as a model at `rate` hertz takes it, int16; None where samples are not finite.
    """
    findings = [Finding(*fault) for fault in audio.header]
    if audio.truncated:
        findings.append(Finding("truncated", audio.truncated))
    if audio.seconds < min_seconds:
        findings.append(Finding("short", f"{audio.seconds:.3f} s, the minimum is {min_seconds:g} s"))
    if audio.seconds > max_seconds:
        findings.append(Finding("long", f"{audio.seconds:.1f} s, the maximum is {max_seconds:g} s"))
    meter = Meter(audio.sample_rate, rate)
    meter.add_stored(audio.samples)
    if converted is not None:
        meter.add_converted(converted)
    return (*findings, *meter.findings(), *misnamed(name, audio.container))


def misnamed(name: str, container: str) -> tuple[Finding, ...]:
    """The finding that a file's extension stands for other containers than its content's, if it does."""
    allowed = _ALLOWED.get(PurePosixPath(name).suffix.lower())
    is_wrong = allowed is not None and container not in allowed
    return (Finding("wrong_extension", f"'{name}' contains {container}"),) if is_wrong else ()


class _Levels:
    """Extremes and, with `moments`, second moments of samples (channels, frames) that come in blocks."""

    def __init__(self) -> None:
        self.frames = 0
        self._low: np.ndarray = np.zeros(1)
        self._high: np.ndarray = np.zeros(1)
        self._near: np.ndarray = np.zeros((1, 1))
        self._sums: np.ndarray = np.zeros(1)
        self._products: np.ndarray = np.zeros((1, 1))

    def add(self, block: np.ndarray, *, moments: bool) -> None:
        scale = _scale(block)
        low, high = block.min(axis=1) * scale, block.max(axis=1) * scale
        is_first = not self.frames
        self._low = low if is_first else np.minimum(self._low, low)
        self._high = high if is_first else np.maximum(self._high, high)
        self.frames += block.shape[1]
        if moments:
            values = block.astype(np.float32)
            # Moments about a value near the mean keep the digits that a constant offset would take.
            self._near = values.mean(axis=1, keepdims=True) if is_first else self._near
            values -= self._near
            self._sums = self._sums + values.sum(axis=1, dtype=np.float64) * scale
            self._products = self._products + (values @ values.T).astype(np.float64) * scale**2

    @property
    def channels(self) -> int:
        return len(self._low)

    @property
    def peak(self) -> float:
        return float(max(self._high.max(), -self._low.min()))

    @property
    def swings(self) -> np.ndarray:
        """Half of the range of each channel."""
        return np.asarray((self._high - self._low) / 2)

    @property
    def covariance(self) -> np.ndarray:
        """Of the channels, without their constant part: (channels, channels)."""
        means = self._sums / self.frames
        return np.asarray(self._products / self.frames - np.outer(means, means))


class Meter:
    """Measures a recording, block by block, as it is stored and as the model takes it: mixed, at the model's rate."""

    def __init__(self, stored_rate: int, model_rate: int) -> None:
        self._rates = stored_rate, model_rate
        self._stored, self._converted = _Levels(), _Levels()
        self._values = self._plateaus = self._not_finite = 0

    def add_stored(self, block: np.ndarray) -> None:
        """Take samples (channels, frames) as the decoder gave them."""
        self._values += block.size
        if not block.size:
            return
        # A signalling NaN, as damaged float files may have, makes any arithmetic warn; it is reported anyway.
        with np.errstate(invalid="ignore"):
            if block.dtype != np.int16 and not (block.min() > -LOUDEST and block.max() < LOUDEST):
                self._not_finite += int(np.count_nonzero(~(np.abs(block) < LOUDEST)))
                return
        self._stored.add(block, moments=len(block) > 1 or self._rates[1] < self._rates[0])
        if self._stored.peak >= CLIPPED_PEAK:
            self._plateaus += _plateaus(block, CLIPPED_PEAK / _scale(block))

    def add_converted(self, block: np.ndarray) -> None:
        """Take int16 samples (channels, frames) in the model's form."""
        if block.size:
            self._converted.add(block, moments=self._rates[1] < self._rates[0])

    def findings(self) -> list[Finding]:
        """What is wrong with all that was taken. Of silence, its causes and clipping one is found, the first."""
        if self._not_finite:
            count = f"{self._not_finite} of {self._values} samples"
            return [Finding("nan", f"{count} are not finite, or beyond {LOUDEST:g} times full scale")]
        if not self._stored.frames:
            return []
        if not self._converted.frames:
            return [Finding("empty", f"nothing is left of its {self._stored.frames} samples at {self._rates[1]} Hz")]
        cancelling = self._cancelling()
        found = (cancelling or self._level(), self._dead_channel(), None if cancelling else self._band_lost())
        return [finding for finding in found if finding is not None]

    @property
    def _is_mixed(self) -> bool:
        return self._converted.channels < self._stored.channels

    def _cancelling(self) -> Finding | None:
        """The mean of channels that are each other's negatives is silent, or what is left of them."""
        channels = self._stored.channels
        covariance = self._stored.covariance
        if not self._is_mixed or self._stored.swings.max() < SILENT_PEAK or covariance.trace() <= 0:
            return None
        share = float(max(covariance.sum(), 0.0) / covariance.trace())
        if share >= CANCELLED_SHARE:
            return None
        powers = covariance.diagonal()
        loudest = int(np.argmax(powers > 0.99 * powers.max()))  # the first of equals
        left = float(covariance.sum() / covariance[loudest, loudest]) / channels**2
        quieter = f"{-10 * math.log10(left):.0f} dB quieter" if left > 1e-6 else "silent"
        both = "`--set audio.channels=2` keeps both; else " if channels == 2 else ""
        return Finding(
            "cancelling_channels",
            f"the mean of its {channels} channels is {quieter}; the loudest is channel {loudest + 1}: {both}keep that",
        )

    def _level(self) -> Finding | None:
        """The problem that the extreme samples show, if any: silent, constant or clipped, which exclude each other."""
        peak = self._converted.peak
        if peak < SILENT_PEAK:
            level = f"{20 * math.log10(peak):.0f} dBFS" if peak else "digital silence"
            return Finding("silent", f"its peak is {level}")
        if self._converted.swings.max() < SILENT_PEAK:
            return Finding("constant", f"every sample is {peak:.4f} of full scale")
        share = self._plateaus / self._values
        if share < CLIPPED_SHARE:
            return None
        return Finding("clipped", f"{share:.1%} of its samples lie on plateaus at full scale")

    def _dead_channel(self) -> Finding | None:
        dead, channels = np.flatnonzero(self._stored.swings < SILENT_PEAK), self._stored.channels
        if not 0 < len(dead) < channels:
            return None
        quieter = 20 * math.log10(channels / (channels - len(dead)))
        named = f"channel{'s' if len(dead) > 1 else ''} {', '.join(str(number + 1) for number in dead)}"
        mean = f"; the mean, the model's input, is {quieter:.0f} dB quieter than the others" if self._is_mixed else ""
        return Finding("dead_channel", f"nothing but silence in {named} of {channels}{mean}")

    def _band_lost(self) -> Finding | None:
        """What resampling took away is energy: no spectrum is needed. Beyond full scale, clipping took some too."""
        stored_rate, model_rate = self._rates
        if model_rate >= stored_rate or not SILENT_PEAK <= self._stored.swings.max() < _FULL_SWING:
            return None
        covariance = self._stored.covariance
        before = covariance.sum() / self._stored.channels**2 if self._is_mixed else covariance.trace()
        lost = 1 - float(self._converted.covariance.trace() / before) if before > 0 else 0.0
        if lost <= BAND_LOST_SHARE:
            return None
        return Finding(
            "band_lost",
            f"{lost:.0%} of its energy lies above {model_rate // 2} Hz, which the model's {model_rate} Hz cannot hold: "
            f"train with `--set audio.sample_rate={stored_rate}`",
        )


def _scale(samples: np.ndarray) -> float:
    """What makes full scale 1."""
    return 1 / FULL_SCALE if samples.dtype == np.int16 else 1.0


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
