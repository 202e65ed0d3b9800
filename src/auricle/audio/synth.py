"""The demo corpus: eight nameable sounds, six recording devices, and a few planted faults.

In: a folder and a seed. Out: a folder of audio per class, small and free of anyone's rights, hard enough to be worth a
model: sounds vary within a class, each device has its own colour, noise, level and rate, and names the file
(`phone_007.wav`), so that whole devices can be held out. What was planted is in `.planted.json`, to test the audit by.
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
_SECONDS = (1.5, 3.0)
# Lengths are multiples of this many samples: Fourier transforms of a prime length take ten times as long.
_GRAIN = 800
# Background noise below the sound, in dB: audible to clearly disturbing.
_SNR = (3.0, 24.0)


@dataclass(frozen=True)
class Device:
    """How one recorder colours sound: its pass band (Hz), a resonance, its own noise, its level and its files."""

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
    """What is wrong with the corpus on purpose: fault → relative paths; and what each copy was made from."""

    faults: Mapping[str, tuple[str, ...]]
    origins: Mapping[str, str]


def make(folder: Path, *, clips_per_class: int = 24, seed: int = 0) -> Planted:
    """Write the corpus into `folder`, one sub-folder per class, and `.planted.json` beside them.

    The same seed and count give the same samples. Besides the clips there are a dozen faulty files; they are numbered
    on, so that nothing but their content tells.
    """
    names = list(SOUNDS)
    devices = list(DEVICES)
    for name in names:
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
    """One sound of a class as one device hears it: (frames,) float32 in [-1, 1], and its sample rate."""
    size = int(generator.uniform(*_SECONDS) * RATE / _GRAIN) * _GRAIN
    sound = SOUNDS[name](generator, size)
    sound /= np.sqrt(np.mean(np.square(sound))) + 1e-9
    snr = generator.uniform(*_SNR)
    background = _noise(generator, size, generator.uniform(-8.0, 0.0)) * 10 ** (-snr / 20)
    hum = np.sin(2 * np.pi * generator.choice([50.0, 60.0]) * _time(size)) * 10 ** (-(snr + 6) / 20)
    recorder = DEVICES[device]
    heard = _shape(sound + background + hum, lambda hz: _colour(recorder, hz))
    heard = heard / np.abs(heard).max() * 10 ** ((recorder.peak_db + generator.uniform(-4.0, 0.0)) / 20)
    heard = heard + generator.normal(0.0, 10 ** (recorder.noise_db / 20), size)
    resampled = soxr.resample(heard.astype(np.float32), RATE, recorder.sample_rate, quality="HQ")
    return np.clip(resampled, -1.0, 1.0), recorder.sample_rate


def _generator(seed: int, name: str, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, list(SOUNDS).index(name), number])


def _write(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    path.write_bytes(_encode(samples, sample_rate, path.suffix))


def _encode(samples: np.ndarray, sample_rate: int, suffix: str) -> bytes:
    """Encode in memory: libsndfile syncs every file that it closes to the disk, which costs more than all the rest."""
    buffer = io.BytesIO()
    subtype = "VORBIS" if suffix == ".ogg" else "PCM_16"
    soundfile.write(buffer, samples, sample_rate, format=suffix[1:].upper(), subtype=subtype)
    return buffer.getvalue()


def _plant(folder: Path, count: int, seed: int) -> Planted:
    """Add the faulty files. Every class keeps its whole clips; faults come on top."""
    faults: dict[str, tuple[str, ...]] = {}
    origins: dict[str, str] = {}

    def place(name: str, device: str, number: int, suffix: str = ".wav") -> Path:
        return folder / name / f"{device}_{count + number:03d}{suffix}"

    def relative(*paths: Path) -> tuple[str, ...]:
        return tuple(path.relative_to(folder).as_posix() for path in paths)

    silent = place("rain", "field", 1), place("bird", "camera", 1)
    for path, level in zip(silent, (0.0, 2e-5), strict=True):
        _write(path, np.random.default_rng(seed).normal(0.0, level, 2 * RATE), RATE)
    truncated = place("engine", "phone", 1), place("voice", "laptop", 1)
    for path, name, device in zip(truncated, ("engine", "voice"), ("phone", "laptop"), strict=True):
        content = _encode(*record(name, device, _generator(seed, name, count + 1)), ".wav")
        path.write_bytes(content[: len(content) * 2 // 3])
    empty = place("siren", "camera", 1)
    empty.write_bytes(b"")

    wavs = {name: sorted((folder / name).glob("laptop_*.wav")) for name in ("bell", "knocking", "siren", "wind")}
    copies = {
        place("bell", "studio", 1, ".flac"): wavs["bell"][0],
        place("knocking", "field", 1, ".flac"): wavs["knocking"][0],
        place("wind", "phone", 1, ".wav"): wavs["siren"][0],
    }
    for copy, original in copies.items():
        samples, rate = soundfile.read(original, dtype="int16")
        _write(copy, samples, rate)
    quieter = place("wind", "radio", 2, ".ogg")
    samples, rate = soundfile.read(wavs["wind"][0], dtype="float32")
    _write(quieter, samples * 0.4, rate)
    copies[quieter] = wavs["wind"][0]
    origins = {relative(copy)[0]: relative(original)[0] for copy, original in copies.items()}
    exact = list(origins)

    mislabelled = place("rain", "laptop", 2), place("bell", "camera", 2)
    for path, name, device in zip(mislabelled, ("knocking", "bird"), ("laptop", "camera"), strict=True):
        _write(path, *record(name, device, _generator(seed, name, count + 2)))
    clipped = place("voice", "field", 2)
    loud, rate = record("voice", "field", _generator(seed, "voice", count + 2))
    _write(clipped, np.clip(loud * 40.0, -1.0, 1.0), rate)

    faults = {
        "silent": relative(*silent),
        "truncated": relative(*truncated),
        "empty": relative(empty),
        "duplicate": tuple(exact[:2]),
        "conflict": (exact[2],),
        "near_duplicate": (exact[3],),
        "mislabelled": relative(*mislabelled),
        "clipped": relative(clipped),
    }
    return Planted(faults, origins)


def _colour(device: Device, hz: np.ndarray) -> np.ndarray:
    """A device's gain at each frequency: second-order band edges, a tilt per octave around 1 kHz, one resonance."""
    low, high = device.band
    edges = 1.0 / (np.sqrt(1.0 + (low / hz) ** 4) * np.sqrt(1.0 + (hz / high) ** 4))
    octaves = np.log2(hz / 1_000.0)
    bump = device.resonance[1] * np.exp(-2.0 * np.log2(hz / device.resonance[0]) ** 2)
    gain: np.ndarray = edges * 10 ** ((device.tilt * octaves + bump) / 20)
    return gain


def _time(size: int) -> np.ndarray:
    return np.arange(size) / RATE


def _shape(signal: np.ndarray, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Filter with zero phase by a gain over frequency (Hz, from 10 Hz up)."""
    spectrum = np.fft.rfft(signal)
    hz = np.maximum(np.linspace(0.0, RATE / 2, len(spectrum)), 10.0)
    shaped: np.ndarray = np.fft.irfft(spectrum * gain(hz), len(signal))
    return shaped


def _noise(generator: np.random.Generator, size: int, tilt: float) -> np.ndarray:
    """Noise of unit deviation that falls or rises by `tilt` dB an octave."""
    noise = _shape(generator.normal(size=size), lambda hz: (np.maximum(hz, 60.0) / 1_000.0) ** (tilt / 6.02))
    unit: np.ndarray = noise / noise.std()
    return unit


def _slow(generator: np.random.Generator, size: int, per_second: float) -> np.ndarray:
    """A smooth random course in [0, 1] with about so many turns a second."""
    points = max(int(size / RATE * per_second), 1) + 2
    course: np.ndarray = np.interp(np.linspace(0, points - 1, size), np.arange(points), generator.uniform(size=points))
    return course


def _harmonics(pitch: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum the harmonics of a moving pitch (Hz): weights (harmonics,) real or complex, or (harmonics, frames)."""
    turn = np.exp(2j * np.pi * np.cumsum(pitch) / RATE)
    power, total = np.ones_like(turn), np.zeros_like(turn)
    for weight in weights:
        power = power * turn
        total += weight * power
    return total.imag


def _add(signal: np.ndarray, start: float, burst: np.ndarray) -> None:
    """Add a burst at `start` seconds, as far as it fits."""
    at = int(start * RATE)
    piece = burst[: max(len(signal) - at, 0)]
    signal[at : at + len(piece)] += piece


def _bell(generator: np.random.Generator, size: int) -> np.ndarray:
    """Strikes of inharmonic partials that ring on, the high ones shortest (ratios of a church bell)."""
    signal = np.zeros(size)
    ratios = np.array([0.5, 1.0, 1.19, 1.5, 2.0, 2.74, 3.76]) * generator.normal(1.0, 0.01, 7)
    pitch, decay = generator.uniform(250, 1_300), generator.uniform(0.25, 1.2)
    time = _time(size).astype(np.float32)
    ring = np.zeros(size, np.float32)
    for ratio, level in zip(ratios.tolist(), generator.uniform(0.2, 1.0, 7).tolist(), strict=True):
        ring += level * np.exp(time * (-(ratio**0.7) / decay)) * np.sin(time * (2 * np.pi * ratio * pitch))
    for strike in np.arange(generator.uniform(0.0, 0.3), size / RATE, generator.uniform(0.35, 1.5)):
        _add(signal, strike, ring)
    return signal


def _siren(generator: np.random.Generator, size: int) -> np.ndarray:
    """A loud tone whose pitch swings, wails or alternates."""
    low = generator.uniform(380, 900)
    high = low * generator.uniform(1.25, 2.2)
    swing = np.sin(2 * np.pi * (generator.uniform(0.4, 4.0) * _time(size) + generator.uniform()))
    swing = np.tanh(swing * generator.choice([0.8, 2.0, 20.0])) * 0.5 + 0.5
    return _harmonics(low + (high - low) * swing, np.array([1.0, *generator.uniform(0.1, 0.6, 3)]))


def _rain(generator: np.random.Generator, size: int) -> np.ndarray:
    """A steady hiss and many single drops."""
    signal = _noise(generator, size, generator.uniform(-2.0, 3.0)) * (0.8 + 0.4 * _slow(generator, size, 2))
    for start in generator.uniform(0, size / RATE, int(generator.uniform(15, 50) * size / RATE)):
        time = _time(int(generator.uniform(0.004, 0.02) * RATE))
        tone = np.sin(2 * np.pi * generator.uniform(1_200, 6_000) * time)
        _add(signal, start, generator.exponential(3.0) * np.exp(-time * 300) * tone)
    return signal


def _engine(generator: np.random.Generator, size: int) -> np.ndarray:
    """Firing strokes: many harmonics of a low, wandering pitch, and combustion noise in time with them."""
    speed = generator.uniform(22, 95) * (1 + generator.uniform(0, 0.5) * (_slow(generator, size, 1) - 0.5))
    weights = generator.uniform(0.3, 1.0, 24) / np.arange(1, 25) ** generator.uniform(0.3, 0.9)
    beat = 1 + _harmonics(speed, np.ones(1))
    # Turned phases keep the strokes from being single clicks.
    strokes = _harmonics(speed, weights * np.exp(1j * np.arange(24.0) ** 2))
    signal: np.ndarray = strokes + _noise(generator, size, -3.0) * beat * generator.uniform(0.2, 0.7)
    return signal


def _bird(generator: np.random.Generator, size: int) -> np.ndarray:
    """Phrases of short, fast whistles."""
    signal = np.zeros(size)
    low, span = generator.uniform(1_500, 2_800), generator.uniform(-900, 1_200)
    length, trill = generator.uniform(0.04, 0.16), generator.uniform(0, 40)
    start = generator.uniform(0.0, 0.3)
    while start < size / RATE:
        for _ in range(generator.integers(1, 7)):
            time = _time(int(length * generator.uniform(0.8, 1.2) * RATE))
            course = np.linspace(0, 1, len(time))
            pitch = low + span * course + 150 * np.sin(2 * np.pi * trill * time)
            _add(signal, start, np.sin(np.pi * course) ** 2 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE))
            start += length * generator.uniform(1.1, 1.8)
        start += generator.uniform(0.1, 0.6)
    return signal


def _knocking(generator: np.random.Generator, size: int) -> np.ndarray:
    """Knuckles on wood: damped low modes and a click, in groups."""
    signal = np.zeros(size)
    modes = generator.uniform(90, 900, 4)
    damping = generator.uniform(25, 70)
    start, pace = generator.uniform(0.0, 0.3), generator.uniform(0.11, 0.45)
    while start < size / RATE:
        time = _time(int(0.2 * RATE))
        body = np.sin(2 * np.pi * modes[:, None] * time).sum(axis=0)
        click = generator.normal(size=len(time)) * np.exp(-time * 400) * 2
        _add(signal, start, generator.uniform(0.5, 1.0) * (body * np.exp(-time * damping) + click))
        start += pace * generator.uniform(0.9, 1.1) + (0.5 if generator.uniform() < 0.15 else 0.0)
    return signal


def _voice(generator: np.random.Generator, size: int) -> np.ndarray:
    """Vowels sung on a gliding pitch: harmonics under three moving formants, in syllables."""
    pitch = generator.uniform(85, 300) * (1 + 0.25 * (_slow(generator, size, 2) - 0.5))
    first = 300 + 500 * _slow(generator, size, 3)
    second = 850 + 1_300 * _slow(generator, size, 3)
    # Formants move slowly: their gains are worked out every 5 ms and interpolated.
    at = np.arange(0, size, RATE // 200)
    hz = np.arange(1, int(3_800 / pitch.mean()) + 1)[:, None] * pitch[at]
    gains = 1 / (1 + ((hz - first[at]) / 90) ** 2) + 0.6 / (1 + ((hz - second[at]) / 130) ** 2)
    gains += 0.15 / (1 + ((hz - 2_800) / 250) ** 2)
    signal = _harmonics(pitch, np.stack([np.interp(np.arange(size), at, gain) for gain in gains]))
    syllables = np.clip(np.sin(2 * np.pi * generator.uniform(1.5, 4) * _time(size)) + 0.5, 0, 1)
    return signal * syllables


def _wind(generator: np.random.Generator, size: int) -> np.ndarray:
    """Gusts: noise whose loudness and one broad whistle come and go."""
    gust = _slow(generator, size, 2) ** 2
    centre, width = generator.uniform(250, 1_400), generator.uniform(0.15, 0.5)
    whistle = _shape(generator.normal(size=size), lambda hz: np.exp(-((np.log2(hz / centre) / width) ** 2)))
    rumble = _noise(generator, size, generator.uniform(-9.0, -4.0))
    whistling = whistle / whistle.std() * generator.uniform(0.3, 1.5)
    signal: np.ndarray = rumble * (0.2 + gust) + whistling * gust
    return signal


SOUNDS: Mapping[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "bell": _bell,
    "bird": _bird,
    "engine": _engine,
    "knocking": _knocking,
    "rain": _rain,
    "siren": _siren,
    "voice": _voice,
    "wind": _wind,
}
