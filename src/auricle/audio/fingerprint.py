"""Near-duplicates: the same recording at another level, rate or codec, or cut, among thousands of clips.

In: samples. Out: a fingerprint per clip, about 1 kB per second, and the pairs that are one recording. An index of
spectral landmarks (Wang, "An Industrial-Strength Audio Search Algorithm", 2003) proposes pairs and their offset; the
signs of the waveforms below 2 kHz then decide. Similar recordings, such as two of rain or two takes of a word, share
landmarks but no waveform. Everything is relative to the clip's own level.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import soxr

from auricle.audio.decoders import LOUDEST

# Below 2 kHz is what every codec preserves and a telephone's rate can represent.
RATE = 4_000
# 64 ms windows 16 ms apart: fine enough for words of 0.2 s, coarse enough that a shift by half a hop moves few peaks.
_WINDOW, _HOP = 256, 64
# A fingerprint covers the first minutes only: 14 bits of frame number reach 262 s.
_MAX_FRAMES = 1 << 14
# A peak is the highest of its neighbourhood: 11 bins (170 Hz) by 13 frames (0.2 s), some 30 peaks a second in noise.
_REACH_BINS, _REACH_FRAMES = 5, 6
# Landmarks join a peak to the next few; more survive a codec that way than with its nearest neighbour alone.
_NEXT, _FAN = 8, 4
# Below this, relative to the loudest frame, a codec encodes noise rather than the recording.
_QUIET = 10.0**-4.0

# A landmark with so many equals is no evidence; among 10,000 clips, one has 20 equals by chance.
_COMMON = 200
# Three shared landmarks at one offset occur by chance, more often the more there are; a copy shares a fifth or more.
_MIN_VOTES, _PER_VOTE = 3, 50
# With so few landmarks, as in a word of a third of a second, two at one offset are compared.
_FEW = 20
# Signs agree by 0.8 where waveforms correlate by 0.95 (arcsine law), by 0.65 at 0.85. Among 3,000 spoken digits, half a
# second and less, two takes of a word agree by up to 0.81; no two recordings that share a second were above 0.52.
_SIMILAR_SHORT, _SIMILAR_LONG = 0.82, 0.65
# A periodic signal agrees with itself when shifted, so it must agree with another by clearly more.
_MARGIN = 0.1
# Half a sample off, two copies that are similar enough agree by a third or more; most proposed pairs by far less.
_HOPELESS = 0.25
_SELF_SHIFTS = (RATE // 20, RATE // 2)
_MIN_ACTIVE = RATE // 10
# Half a minute of signs is enough evidence.
_LONGEST = 1 << 17
# Bytes of unpacked signs in memory; 5 s take 20 kB.
_MAX_UNPACKED = 1 << 25
_MIN_OVERLAP = 0.6
_BLOCK_FRAMES = 48
_HANN = np.hanning(_WINDOW).astype(np.float32)


@dataclass(frozen=True)
class Match:
    """Clips `a` < `b` are one recording: `b` begins `offset_seconds` into `a`. `similarity` is 1 for equal signs."""

    a: int
    b: int
    similarity: float
    offset_seconds: float


def fingerprint(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Compute a clip's fingerprint: (channels, frames) int16 or float32 → (words,) uint32; empty for a silent one."""
    if not samples.size or not (samples.min() > -LOUDEST and samples.max() < LOUDEST):
        return np.zeros(0, np.uint32)
    mono = samples[0] if len(samples) == 1 else samples.mean(axis=0)
    mono = mono[: int(_MAX_FRAMES * _HOP / RATE * sample_rate)].astype(np.float32, copy=False)
    wave = np.diff(soxr.resample(mono, sample_rate, RATE, quality="LQ"))
    if len(wave) < _WINDOW:
        return np.zeros(0, np.uint32)
    power = _power(wave)
    level = power.sum(axis=1)
    if not 0.0 < level.max() < np.inf:
        return np.zeros(0, np.uint32)
    active, landmarks = level > level.max() * _QUIET, _landmarks(power, level.max())
    # Three counts, the landmarks, one bit per frame, one bit per sample.
    counts = np.array([len(landmarks), len(active), len(wave)], np.uint32)
    return np.concatenate([counts, landmarks, _to_words(active), _to_words(wave > 0.0)])


def _power(wave: np.ndarray) -> np.ndarray:
    """Power spectra (frames, bins), a block of frames at a time: large temporaries cost more than the transform."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, _WINDOW)[::_HOP]
    power = np.empty((len(frames), _WINDOW // 2 + 1), np.float32)
    for first in range(0, len(frames), _BLOCK_FRAMES):
        spectrum = np.fft.rfft(frames[first : first + _BLOCK_FRAMES] * _HANN, axis=1)
        np.add(np.square(spectrum.real), np.square(spectrum.imag), out=power[first : first + _BLOCK_FRAMES])
    return power


def near_duplicates(fingerprints: Sequence[np.ndarray]) -> list[Match]:
    """Find the pairs that are one recording, in order of their numbers.

    Tuned against false positives: what agrees with itself at many shifts, such as a steady tone, is skipped. Memory is
    a few times that of the fingerprints; time is about linear up to tens of thousands of clips.
    """
    signs: dict[int, np.ndarray] = {}
    unpacked, matches = 0, []
    for a, candidates in _candidates([words[3 : 3 + words[0]] if len(words) else words for words in fingerprints]):
        for b, frames in candidates:
            for number in (a, b):
                if number not in signs:
                    signs[number] = _unpack_signs(fingerprints[number])
                    unpacked += signs[number].nbytes
            match = _compare(signs[a], signs[b], frames * _HOP)
            if match is not None:
                matches.append(Match(a, b, match[0], match[1] / RATE))
        if unpacked > _MAX_UNPACKED:
            signs.clear()
            unpacked = 0
    return matches


def _landmarks(power: np.ndarray, loudest: float) -> np.ndarray:
    """Pairs of nearby peaks as words: 7 bits of frequency, 6 of its step, 5 of the step in time, 14 of the frame."""
    highest = _running_max(_running_max(power, _REACH_FRAMES, axis=0), _REACH_BINS, axis=1)
    frame, band = np.nonzero((power == highest) & (power > loudest * _QUIET * 0.1))
    if len(frame) < 2:
        return np.zeros(0, np.uint32)
    later = np.arange(len(frame))[:, None] + np.arange(1, _NEXT + 1)
    inside = later < len(frame)
    later = np.minimum(later, len(frame) - 1)
    steps, rise = frame[later] - frame[:, None], band[later] - band[:, None]
    near = inside & (steps > 0) & (steps < 32) & (np.abs(rise) < 32)
    near &= np.cumsum(near, axis=1) <= _FAN
    first = np.nonzero(near)[0]
    key = np.minimum(band[first], 127) << 11 | (rise[near] + 32) << 5 | steps[near]
    return np.asarray(key << 14 | frame[first], dtype=np.uint32)


def _running_max(values: np.ndarray, reach: int, axis: int) -> np.ndarray:
    """The maximum over `reach` neighbours to either side, by doubling windows until two that overlap cover all."""
    values = values if axis == 0 else values.T
    size = len(values)
    result = np.pad(values, ((reach, reach), (0, 0)))
    width, window = 1, 2 * reach + 1
    while 2 * width <= window:
        result = np.maximum(result[: len(result) - width], result[width:])
        width *= 2
    result = np.maximum(result[:size], result[window - width : window - width + size])
    return np.asarray(result if axis == 0 else result.T)


def _to_words(bits: np.ndarray) -> np.ndarray:
    return np.packbits(np.pad(bits, (0, -len(bits) % 32))).view(np.uint32)


def _unpack_signs(words: np.ndarray) -> np.ndarray:
    """The signs of a waveform, 0 where it is too quiet to trust: int8."""
    landmarks, frames, samples = (int(count) for count in words[:3])
    at = 3 + landmarks
    end = at + (frames + 31) // 32
    active = np.unpackbits(words[at:end].view(np.uint8), count=frames)
    # The middle of a frame is one and a half hops after its beginning.
    blocks = np.concatenate([active[:1], active, np.repeat(active[-1:], samples // _HOP + 2 - frames)]).view(np.int8)
    signs = np.unpackbits(words[end:].view(np.uint8), count=samples).view(np.int8) * np.int8(2) - np.int8(1)
    return np.asarray(signs * np.repeat(blocks, _HOP)[:samples])


def _ambiguity(signs: np.ndarray) -> float:
    """The greatest agreement of a clip with itself, shifted by 50 to 500 ms: near 1 for whatever is periodic."""
    first, last = _SELF_SHIFTS[0], min(_SELF_SHIFTS[1], len(signs) // 2)
    if last <= first:
        return 0.0
    size = 1 << (len(signs) + last).bit_length()
    agreed = _self_products(signs, size)[first:last]
    compared = _self_products(np.abs(signs), size)[first:last]
    enough = compared > 0.3 * compared.max(initial=1.0)
    return float(np.max(np.abs(agreed[enough]) / compared[enough], initial=0.0))


def _self_products(values: np.ndarray, size: int) -> np.ndarray:
    spectrum = np.fft.rfft(values, size)
    return np.fft.irfft(np.square(np.abs(spectrum)), size)


def _compare(a: np.ndarray, b: np.ndarray, offset: int) -> tuple[float, int] | None:
    """Similarity and exact offset of clips near a proposed offset (samples); None where they are two recordings."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    reach = 3 * _HOP // 2
    low = max(-offset - reach, 0)
    query = b[low : max(len(a) - offset + reach, 0)][:_LONGEST]
    padded = _span(a, offset + low - reach, len(query) + 2 * reach)
    if not len(query):
        return None
    best = int(np.argmax(np.abs(np.correlate(padded, query, "valid"))))
    least = max(_MIN_ACTIVE, _MIN_OVERLAP * min(int(np.count_nonzero(a)), int(np.count_nonzero(b)), _LONGEST))
    similarity, compared = _agreement(padded, query, best, 0, least)
    if compared and similarity < _HOPELESS:
        return None
    similarity, compared = max(
        (similarity, compared), *(_agreement(padded, query, best, half, least) for half in (-1, 1))
    )
    if similarity < np.interp(compared / RATE, (0.5, 1.0), (_SIMILAR_SHORT, _SIMILAR_LONG)):
        return None
    if similarity < max(_ambiguity(a), _ambiguity(b)) + _MARGIN:
        return None
    return similarity, offset - reach + best


def _agreement(padded: np.ndarray, query: np.ndarray, shift: int, half: int, least: float) -> tuple[float, float]:
    """Agreement at a shift, and the number of signs compared; with `half` (-1 or 1), half a sample to that side.

    There, signs count where both neighbours are equal. A cut rarely falls on the grid of RATE, and half a sample is a
    quarter of a period at its upper end.
    """
    reference = padded[shift : shift + len(query)]
    neighbour = padded[max(shift + half, 0) : shift + half + len(query)]
    if len(neighbour) < len(query):
        return 0.0, 0.0
    reference = (reference + neighbour) / 2 if half else reference
    certain = np.abs(reference) == 1.0
    compared = float(np.count_nonzero(query[certain]))
    if compared < (least / 2 if half else least):
        return 0.0, 0.0
    return float(abs(reference[certain] @ query[certain])) / compared, compared


def _span(values: np.ndarray, start: int, size: int) -> np.ndarray:
    """values[start : start + size], zero-padded outside."""
    inside = values[max(start, 0) : max(start + size, 0)]
    before = min(max(-start, 0), size)
    span = np.zeros(size, values.dtype)
    span[before : before + len(inside)] = inside
    return span


def _candidates(landmarks: list[np.ndarray]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """For each clip, later clips that share landmarks at one offset: (number, offset in frames)."""
    sizes = np.array([len(words) for words in landmarks], np.int64)
    words = np.concatenate(landmarks) if landmarks else np.zeros(0, np.uint32)
    clips = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    order = np.argsort(words >> 14, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    keys = (words >> 14)[order]
    bounds = np.flatnonzero(np.diff(keys, prepend=-1, append=1 << 18).astype(bool)) if len(keys) else np.zeros(1, int)
    count = np.diff(bounds)
    ends = np.repeat(np.where(count <= _COMMON, bounds[1:], 0), count)
    frames, owners = (words & _MAX_FRAMES - 1).astype(np.int32)[order], clips[order]
    stops = np.cumsum(sizes)
    for a, (stop, size) in enumerate(zip(stops, sizes, strict=True)):
        own = rank[stop - size : stop]
        lengths = np.maximum(ends[own] - own - 1, 0)
        hits = np.repeat(own + 1 - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        others = owners[hits]
        offsets = np.repeat(frames[own], lengths) - frames[hits]
        later = others > a
        counted = _votes(others[later], offsets[later])
        yield a, [(b, at) for b, at, votes in counted if votes >= _needed(min(size, int(sizes[b])))]


def _needed(landmarks: int) -> int:
    """How many votes a pair needs, by the landmarks of the clip with fewer."""
    return _MIN_VOTES - 1 if landmarks < _FEW else _MIN_VOTES + landmarks // _PER_VOTE


def _votes(others: np.ndarray, offsets: np.ndarray) -> list[tuple[int, int, int]]:
    """The best offset of each clip with enough hits at it or next to it: (number, offset, hits)."""
    keys, counts = np.unique(others.astype(np.int64) << 16 | (offsets + (1 << 15)), return_counts=True)
    adjacent = np.zeros_like(counts)
    neighbours = np.diff(keys) == 1
    adjacent[:-1] += counts[1:] * neighbours
    adjacent[1:] += counts[:-1] * neighbours
    total = counts + adjacent
    best: dict[int, tuple[int, int]] = {}
    for key, votes in zip(keys[total >= _MIN_VOTES - 1].tolist(), total[total >= _MIN_VOTES - 1].tolist(), strict=True):
        number, offset = key >> 16, (key & 0xFFFF) - (1 << 15)
        if votes > best.get(number, (0, 0))[0]:
            best[number] = (votes, offset)
    return [(number, offset, votes) for number, (votes, offset) in best.items()]
