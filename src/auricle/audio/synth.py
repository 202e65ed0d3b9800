"""The demo corpus: eight whistled calls, six recording devices, and a few planted faults.

In: a folder and a seed. Out: a folder of audio per class, free of others' rights. A call is short, at a random position
in a longer noisy clip, and its class is the contour of its pitch, such as rising or falling. Statistics over a clip can
hardly distinguish these, a network over time and frequency can. Devices differ in band, noise, level and rate, and each
file is named after its device (`phone_007.wav`). `.planted.json` lists what was planted, to test the audit.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

RATE = 16_000
_CLIP_SECONDS, _CALL_SECONDS = (2.0, 3.0), (0.4, 0.8)
# Lengths are multiples of this many samples: Fourier transforms of a prime length take ten times as long.
_BLOCK = 800
# Noise below the call, in dB: audible to clearly disturbing.
_SNR = (4.0, 16.0)
_MAX_CLICKS = 4


@dataclass(frozen=True)
class Device:
    """A recorder: its pass band (Hz), tilt (dB an octave), resonance (Hz, dB), noise and peak (dBFS), and file type."""

    sample_rate: int
    band: tuple[float, float]
    tilt: float
    resonance: tuple[float, float]
    noise_db: float
    peak_db: float
    suffix: str = ".wav"


DEVICES: Mapping[str, Device] = {
    "camera": Device(32_000, (120, 9_000), -1.0, (2_500, 5.0), -50, -6),
    "field": Device(22_050, (40, 10_000), 0.0, (90, 4.0), -62, -14),
    "laptop": Device(16_000, (250, 7_000), 1.5, (900, 8.0), -44, -10),
    "phone": Device(11_025, (250, 4_500), 1.5, (1_800, 6.0), -42, -4),
    "radio": Device(16_000, (150, 5_000), -2.5, (600, 7.0), -38, -8, ".ogg"),
    "studio": Device(16_000, (30, 8_000), 0.0, (5_000, 1.0), -75, -3, ".flac"),
}


@dataclass(frozen=True)
class Planted:
    """The planted faults: relative paths by kind of fault; and the original of each copy."""

    faults: Mapping[str, tuple[str, ...]]
    origins: Mapping[str, str]


def make(folder: Path, *, clips_per_class: int = 24, seed: int = 0) -> Planted:
    """Write the corpus into `folder`, one sub-folder per class, and `.planted.json`; the seed fixes all samples.

    A dozen faulty files are added, numbered like the rest, so that only their content shows the fault.
    """
    devices = list(DEVICES)
    for name in CALLS:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(clips_per_class):
            device = devices[number % len(devices)]
            path = folder / name / f"{device}_{number + 1:03d}{DEVICES[device].suffix}"
            _write(path, *record(name, device, _generator(seed, name, number)))
    planted = _plant(folder, clips_per_class, seed)
    content = {"faults": dict(planted.faults), "origins": dict(planted.origins)}
    (folder / ".planted.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return planted


def record(name: str, device: str, generator: np.random.Generator) -> tuple[np.ndarray, int]:
    """A clip with one call, as a device records it: (frames,) float32 in [-1, 1], and its sample rate."""
    size = _samples(generator.uniform(*_CLIP_SECONDS))
    call = _call(name, generator)
    start = int(generator.integers(0, size - len(call) + 1))
    snr = generator.uniform(*_SNR)
    clip = _background(generator, size) * 10 ** (-snr / 20)
    clip += np.sin(2 * np.pi * generator.choice([50.0, 60.0]) * np.arange(size) / RATE) * 10 ** (-(snr + 6) / 20)
    clip[start : start + len(call)] += call
    recorder = DEVICES[device]
    clip = _filter(clip, lambda hz: _response(recorder, hz))
    clip = clip / np.abs(clip).max() * 10 ** ((recorder.peak_db + generator.uniform(-4.0, 0.0)) / 20)
    clip = clip + generator.normal(0.0, 10 ** (recorder.noise_db / 20), size)
    resampled = soxr.resample(clip.astype(np.float32), RATE, recorder.sample_rate, quality="HQ")
    return np.clip(resampled, -1.0, 1.0), recorder.sample_rate


def _call(name: str, generator: np.random.Generator) -> np.ndarray:
    """A whistle of unit power whose pitch follows the class, in a random register, over a random range."""
    time = np.linspace(0.0, 1.0, _samples(generator.uniform(*_CALL_SECONDS)))
    low = generator.uniform(700.0, 2_500.0)
    pitch = low * (1.0 + generator.uniform(0.35, 0.9) * CALLS[name](time, generator))
    edges = np.clip(np.minimum(time, 1.0 - time) * 20.0, 0.0, 1.0)
    whistle = edges * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
    return np.asarray(whistle / np.sqrt(np.mean(np.square(whistle))))


def _background(generator: np.random.Generator, size: int) -> np.ndarray:
    """Wind that comes and goes, and a few clicks."""
    tilt = generator.uniform(-8.0, 0.0)
    noise = _filter(generator.normal(size=size), lambda hz: (np.maximum(hz, 60.0) / 1_000.0) ** (tilt / 6.02))
    points = size // RATE + 3
    level = 0.5 + np.interp(np.linspace(0, points - 1, size), np.arange(points), generator.uniform(size=points))
    background: np.ndarray = noise / noise.std() * level
    for _ in range(generator.integers(0, _MAX_CLICKS + 1)):
        length = int(generator.uniform(0.02, 0.2) * RATE)
        click = generator.normal(size=length) * np.exp(-4.0 * np.arange(length) / length)
        start = int(generator.integers(0, size - length))
        background[start : start + length] += click * generator.uniform(0.5, 2.0)
    return background


def _samples(seconds: float) -> int:
    return int(seconds * RATE / _BLOCK) * _BLOCK


def _generator(seed: int, name: str, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, list(CALLS).index(name), number])


def _write(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    path.write_bytes(_encode(samples, sample_rate, path.suffix))


def _encode(samples: np.ndarray, sample_rate: int, suffix: str) -> bytes:
    """Encode in memory: libsndfile syncs every file that it closes to the disk, which costs more than all the rest."""
    buffer = io.BytesIO()
    subtype = "VORBIS" if suffix == ".ogg" else "PCM_16"
    soundfile.write(buffer, samples, sample_rate, format=suffix[1:].upper(), subtype=subtype)
    return buffer.getvalue()


def _plant(folder: Path, count: int, seed: int) -> Planted:
    faults: dict[str, tuple[str, ...]] = {}
    origins: dict[str, str] = {}

    def new(fault: str, name: str, device: str, number: int, suffix: str = ".wav") -> Path:
        path = folder / name / f"{device}_{count + number:03d}{suffix}"
        faults[fault] = (*faults.get(fault, ()), path.relative_to(folder).as_posix())
        return path

    for name, device, level in (("rising", "field", 0.0), ("falling", "camera", 2e-5)):
        _write(new("silent", name, device, 1), np.random.default_rng(seed).normal(0.0, level, 2 * RATE), RATE)
    for name, device in (("arch", "phone"), ("dip", "laptop")):
        content = _encode(*record(name, device, _generator(seed, name, count + 1)), ".wav")
        new("truncated", name, device, 1).write_bytes(content[: len(content) * 2 // 3])
    new("empty", "rising-twice", "camera", 1).write_bytes(b"")
    for fault, name, device, number, suffix, source in (
        ("duplicate", "trill", "studio", 1, ".flac", "trill"),
        ("duplicate", "falling-twice", "field", 1, ".flac", "falling-twice"),
        ("conflict", "flat", "phone", 1, ".wav", "rising-twice"),
        ("near_duplicate", "flat", "radio", 2, ".ogg", "flat"),
    ):
        original = min((folder / source).glob("laptop_*.wav"))
        is_exact = fault != "near_duplicate"
        samples, rate = soundfile.read(original, dtype="int16" if is_exact else "float32")
        _write(new(fault, name, device, number, suffix), samples if is_exact else samples * 0.4, rate)
        origins[faults[fault][-1]] = original.relative_to(folder).as_posix()
    for name, device, actual in (("rising", "laptop", "falling-twice"), ("trill", "camera", "falling")):
        _write(new("mislabelled", name, device, 2), *record(actual, device, _generator(seed, actual, count + 2)))
    loud, rate = record("dip", "field", _generator(seed, "dip", count + 2))
    _write(new("clipped", "dip", "field", 2), np.clip(loud * 40.0, -1.0, 1.0), rate)
    return Planted(faults, origins)


def _response(device: Device, hz: np.ndarray) -> np.ndarray:
    """A device's gain at each frequency: second-order band edges, a tilt per octave around 1 kHz, one resonance."""
    low, high = device.band
    edges = 1.0 / (np.sqrt(1.0 + (low / hz) ** 4) * np.sqrt(1.0 + (hz / high) ** 4))
    octaves = np.log2(hz / 1_000.0)
    bump = device.resonance[1] * np.exp(-2.0 * np.log2(hz / device.resonance[0]) ** 2)
    return np.asarray(edges * 10 ** ((device.tilt * octaves + bump) / 20))


def _filter(signal: np.ndarray, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Filter with zero phase by a gain over frequency (Hz, from 10 Hz up)."""
    spectrum = np.fft.rfft(signal)
    hz = np.maximum(np.linspace(0.0, RATE / 2, len(spectrum)), 10.0)
    return np.asarray(np.fft.irfft(spectrum * gain(hz), len(signal)))


# Pitch over time, both from 0 to 1; the range of pitches is drawn for each call.
CALLS: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "arch": lambda time, generator: 1.0 - np.abs(2.0 * time - 1.0),
    "dip": lambda time, generator: np.abs(2.0 * time - 1.0),
    "falling": lambda time, generator: 1.0 - time,
    "falling-twice": lambda time, generator: 1.0 - 2.0 * time % 1.0,
    "flat": lambda time, generator: np.full_like(time, 0.5),
    "rising": lambda time, generator: time,
    "rising-twice": lambda time, generator: 2.0 * time % 1.0,
    "trill": lambda time, generator: 0.5 + 0.5 * np.sin(2.0 * np.pi * generator.uniform(4.0, 7.0) * time),
}
