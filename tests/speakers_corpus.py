"""A corpus of synthetic speakers in the layout of precomputed features: `python -m tests.speakers_corpus DIR`.

In: how many speakers and utterances, and a seed. Out: mapping.json, metadata.json, testdata.json, one tensor of 40-band
log-mel (natural logarithm, 100 frames/s of 16 kHz sound) for each utterance, and answers.csv, which names the speakers
of testdata.json for judging. Speakers differ in pitch, length of the vocal tract, vowels, tilt, breath and pace;
utterances of one speaker in words, channel, level and noise.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from auricle.models.layers.front_end import MelSpectrogram

RATE = 16_000
BANDS = 40
HOP, WINDOW = RATE // 100, 400
# Natural logarithm of power: digital silence is -20.7.
FLOOR = 1e-9
SECONDS = (1.0, 40.0)
_FFT, _STEP = 512, 160
_HZ = np.linspace(0, RATE / 2, _FFT // 2 + 1)
# Formants of ten vowels (Hz), after Peterson and Barney (1952), men.
_VOWELS = np.array(
    [
        *((270, 2290, 3010), (390, 1990, 2550), (530, 1840, 2480), (660, 1720, 2410), (730, 1090, 2440)),
        *((570, 840, 2410), (440, 1020, 2240), (300, 870, 2240), (640, 1190, 2390), (490, 1350, 1690)),
    ],
    dtype=np.float64,
)


@dataclass(frozen=True)
class Speaker:
    """A voice. `vowels` (10, 4) are formants in Hz, `tilt` is in dB an octave, `pace` in sounds a second."""

    pitch: float
    swing: float
    vowels: np.ndarray
    widths: np.ndarray
    tilt: float
    breath: float
    pace: float


def make(
    folder: Path,
    *,
    speakers: int = 50,
    utterances: int = 12,
    seed: int = 0,
    seconds: tuple[float, float] = SECONDS,
) -> None:
    """Write the corpus into `folder`: `utterances` to learn from for each speaker, and a third as many to be named."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"id{10001 + number}" for number in range(speakers)]
    mel = MelSpectrogram(RATE, WINDOW, HOP, BANDS)
    listed: dict[str, list[dict[str, object]]] = {}
    asked: list[tuple[dict[str, object], str]] = []
    for place, name in enumerate(names):
        voice = speaker(np.random.default_rng((seed, place)))
        rows = []
        for number in range(utterances + max(1, utterances // 3)):
            random = np.random.default_rng((seed, place, number))
            length = float(np.exp(random.uniform(*np.log(seconds))))
            frames = log_mel(mel, utter(voice, length, random))
            code = hashlib.blake2b(f"{seed} {place} {number}".encode(), digest_size=16).hexdigest()
            torch.save(frames, folder / f"uttr-{code}.pt")
            rows.append({"feature_path": f"uttr-{code}.pt", "mel_len": len(frames)})
        listed[name] = rows[:utterances]
        asked += [(row, name) for row in rows[utterances:]]
    order = np.random.default_rng(seed).permutation(len(asked))
    _write(folder, names, listed, [asked[place] for place in order])


def speaker(random: np.random.Generator) -> Speaker:
    """Draw a voice: short vocal tracts go with high pitch, loosely, as in people."""
    tract = random.uniform(0.0, 1.0)
    scale = 0.93 + 0.25 * tract
    own = random.normal(1.0, 0.035, (len(_VOWELS), 3))
    fourth = np.full((len(_VOWELS), 1), 3500 * scale * random.normal(1.0, 0.04))
    return Speaker(
        pitch=float(np.exp(np.log(105) + 0.65 * tract + random.normal(0, 0.14))),
        swing=random.uniform(0.06, 0.22),
        vowels=np.concatenate([_VOWELS * scale * own * random.normal(1.0, 0.03, 3), fourth], 1),
        widths=np.array([70, 100, 140, 200]) * random.uniform(0.8, 1.6, 4),
        tilt=random.uniform(-9.0, -3.0),
        breath=float(np.exp(random.uniform(np.log(0.02), np.log(0.3)))),
        pace=random.uniform(4.0, 8.0),
    )


def utter(voice: Speaker, seconds: float, random: np.random.Generator) -> np.ndarray:
    """Let a voice speak random vowels, hisses and pauses through a random channel: (samples,) float32."""
    size = max(_FFT, round(seconds * RATE))
    steps = size // _STEP + 1
    sounds = max(2, round(seconds * voice.pace * random.uniform(0.85, 1.15)))
    at = np.sort(random.uniform(0, steps, sounds))
    course = np.interp(np.arange(steps), at, np.arange(sounds))
    pitch = voice.pitch * np.exp(voice.swing * _smooth(random, steps, 2.0) - 0.1 * np.linspace(0, 1, steps))
    voiced = (random.uniform(size=sounds) > 0.15).astype(np.float64)
    loud = np.where(random.uniform(size=sounds) > 0.12, random.uniform(0.5, 1.0, sounds), 0.0)
    vowels = _vowel_gains(voice)
    kinds = random.integers(len(vowels), size=sounds)
    hiss = np.exp(-(((_HZ - random.uniform(3500, 6500, (sounds, 1))) / 1500) ** 2)) * 0.3
    gains = np.where(voiced[:, None] > 0, vowels[kinds], hiss) * loud[:, None]
    low = np.minimum(course.astype(int), sounds - 2)
    share = (course - low)[:, None]
    gains = ((1 - share) * gains[low] + share * gains[low + 1]).astype(np.float32)
    says = np.interp(course, np.arange(sounds), voiced)
    turns = np.cumsum(np.repeat(pitch, _STEP)[:size] / RATE)
    source = np.zeros(size, np.float32)
    source[1:][np.diff(np.floor(turns)) > 0] = np.sqrt(RATE / voice.pitch)
    noise = random.standard_normal(size, dtype=np.float32)
    rough = np.repeat(voice.breath * says + (1 - says), _STEP)[:size].astype(np.float32)
    source = source * np.repeat(says, _STEP)[:size].astype(np.float32) + rough * noise
    tilt = (np.maximum(_HZ, 100) / 500) ** (voice.tilt / 6.02)
    heard = _filtered(source, gains * tilt.astype(np.float32) * _channel(random))
    level = 10 ** (random.uniform(-26, -14) / 20) / (heard.std() + 1e-9)
    hum = _filtered(random.standard_normal(size, dtype=np.float32), _channel(random) * (300 / (300 + _HZ)))
    strength = 10 ** (-random.uniform(14, 36) / 20) * heard.std() / hum.std()
    spoken: np.ndarray = ((heard + strength * hum) * level).astype(np.float32)
    return spoken


def log_mel(mel: MelSpectrogram, samples: np.ndarray) -> torch.Tensor:
    """40-band log-mel of (samples,): (frames, 40) float32."""
    with torch.inference_mode():
        power = mel(torch.from_numpy(samples)[None])[0, :, : len(samples) // HOP]
    return torch.log(power + FLOOR).T.contiguous().clone()


def _vowel_gains(voice: Speaker) -> np.ndarray:
    """Resonances in a row, each peak as high as its formant is: (10, bins)."""
    gains = np.zeros((len(voice.vowels), len(_HZ)))
    for number, height in enumerate((1.0, 0.6, 0.3, 0.18)):
        centre, width = voice.vowels[:, number, None], voice.widths[number]
        gains += height / np.sqrt(1 + ((_HZ - centre) / width) ** 2)
    return gains


def _channel(random: np.random.Generator) -> np.ndarray:
    """A room and a microphone: a smooth gain over frequency within some 5 dB either way, and a low edge."""
    knots = random.normal(0, 2.5, 8)
    decibels = np.interp(np.linspace(0, 7, len(_HZ)), np.arange(8), knots)
    low = random.uniform(40, 200)
    gain: np.ndarray = 10 ** (decibels / 20) * (_HZ**2 / (_HZ**2 + low**2))
    return gain.astype(np.float32)


def _smooth(random: np.random.Generator, size: int, per_second: float) -> np.ndarray:
    """A random course of unit spread with so many turns a second, at 100 values a second."""
    points = max(2, int(size / 100 * per_second) + 2)
    return np.interp(np.linspace(0, points - 1, size), np.arange(points), random.normal(size=points))


def _filtered(samples: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Filter by gains that change, (steps, bins) with a row every 10 ms, or (bins,): windowed pieces are overlapped."""
    steps = len(samples) // _STEP + 1
    padded = np.zeros(steps * _STEP + _FFT, np.float32)
    padded[: len(samples)] = samples
    window = np.zeros(_FFT, np.float32)
    window[: 2 * _STEP] = np.hanning(2 * _STEP + 1)[:-1]
    pieces = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_STEP][:steps] * window
    spectrum = torch.fft.rfft(torch.from_numpy(pieces)) * torch.from_numpy(np.asarray(gains, np.float32))
    made = torch.fft.irfft(spectrum, _FFT).numpy()
    out = np.zeros(steps * _STEP + _FFT, np.float32)
    for part in range(0, _FFT, _STEP):
        block = made[:, part : part + _STEP]
        flat = out[part : part + steps * _STEP].reshape(steps, _STEP)
        flat[:, : block.shape[1]] += block
    return out[: len(samples)]


def _write(
    folder: Path,
    names: Sequence[str],
    listed: dict[str, list[dict[str, object]]],
    asked: Sequence[tuple[dict[str, object], str]],
) -> None:
    numbers = {name: place for place, name in enumerate(names)}
    mapping = {"speaker2id": numbers, "id2speaker": {str(place): name for name, place in numbers.items()}}
    (folder / "mapping.json").write_text(json.dumps(mapping, indent=1), encoding="utf-8")
    (folder / "metadata.json").write_text(json.dumps({"n_mels": BANDS, "speakers": listed}, indent=1), encoding="utf-8")
    test = {"n_mels": BANDS, "utterances": [row for row, _ in asked]}
    (folder / "testdata.json").write_text(json.dumps(test, indent=1), encoding="utf-8")
    lines = ["Id,Category", *(f"{row['feature_path']},{name}" for row, name in asked)]
    (folder / "answers.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a corpus of synthetic speakers as precomputed features.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--speakers", type=int, default=50)
    parser.add_argument("--utterances", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    make(options.folder, speakers=options.speakers, utterances=options.utterances, seed=options.seed)


if __name__ == "__main__":
    main()
