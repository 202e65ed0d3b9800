"""The everyday-sounds tutorial as it was written: the reference of the benchmark `sound`.

In: paths of recordings and class indices. Out: timed epochs of training. It decodes a clip and computes its spectrogram
at every access, and keeps the tutorial's pitfalls (each batch is normalised by its own statistics). Two
simplifications make it faster than the original: soxr resamples, and window and mel filters are computed once.
"""

import random
import time
from collections.abc import Sequence
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from librosa.filters import mel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

SAMPLE_RATE = 44_100
CHANNELS = 2
# The tutorial counts 44 samples a millisecond: 344 frames, where 4 s exactly would be 345.
SAMPLES = SAMPLE_RATE // 1000 * 4000
SHIFT = 0.4
N_FFT, HOP, N_MELS = 1024, 512, 64
FLOOR, TOP_DB = 1e-10, 80.0
MASKS, MASK_SHARE = 2, 0.1
BATCH, LEARNING_RATE = 16, 1e-3


class SoundClips(Dataset[tuple[Tensor, int]]):
    """Clips as augmented spectrograms, made from the file at every access."""

    def __init__(self, paths: Sequence[str | Path], labels: Sequence[int]) -> None:
        self.paths = paths
        self.labels = labels
        self.window = torch.hann_window(N_FFT)
        filters: np.ndarray = mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS, htk=True, norm=None)
        self.filters = torch.from_numpy(filters.astype(np.float32))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        waveform = shift(pad_or_crop(load(self.paths[number])))
        return augment(self.spectrogram(waveform)), self.labels[number]

    def spectrogram(self, waveform: Tensor) -> Tensor:
        """Mel power in decibels: (2, samples) → (2, 64, frames)."""
        spectrum = torch.stft(waveform, N_FFT, HOP, window=self.window, return_complex=True)
        decibels = 10.0 * torch.log10((self.filters @ spectrum.abs().square()).clamp_min(FLOOR))
        return decibels.clamp_min(float(decibels.max()) - TOP_DB)


def load(path: str | Path) -> Tensor:
    """Decode, resample and convert to two channels: (2, samples)."""
    samples, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    waveform = samples.T
    if sample_rate != SAMPLE_RATE:
        waveform = librosa.resample(waveform, orig_sr=sample_rate, target_sr=SAMPLE_RATE)
    if len(waveform) != CHANNELS:
        waveform = np.repeat(waveform[:1], CHANNELS, axis=0)
    return torch.from_numpy(np.ascontiguousarray(waveform))


def pad_or_crop(waveform: Tensor) -> Tensor:
    """Crop to the first SAMPLES, or pad with zeros on both sides at a random offset."""
    missing = SAMPLES - waveform.shape[1]
    if missing <= 0:
        return waveform[:, :SAMPLES]
    before = random.randint(0, missing)
    return torch.cat([torch.zeros(CHANNELS, before), waveform, torch.zeros(CHANNELS, missing - before)], 1)


def shift(waveform: Tensor) -> Tensor:
    """Roll by up to SHIFT of the length."""
    return waveform.roll(int(random.random() * SHIFT * waveform.shape[1]), 1)


def augment(spectrogram: Tensor) -> Tensor:
    """Fill random bands and time spans with the mean."""
    mean = float(spectrogram.mean())
    for axis in (1, 2):
        size = spectrogram.shape[axis]
        for _ in range(MASKS):
            width = random.random() * MASK_SHARE * size
            start = random.random() * (size - width)
            positions = torch.arange(size)
            hidden = (positions >= int(start)) & (positions < int(start) + int(width))
            spectrogram = spectrogram.masked_fill(hidden[:, None] if axis == 1 else hidden, mean)
    return spectrogram


class AudioClassifier(nn.Module):
    """Four blocks of convolution, ReLU and batch norm; average pooling; a linear layer."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for before, after, kernel in ((CHANNELS, 8, 5), (8, 16, 3), (16, 32, 3), (32, 64, 3)):
            convolution = nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2)
            nn.init.kaiming_normal_(convolution.weight, a=0.1)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            blocks += [convolution, nn.ReLU(), nn.BatchNorm2d(after)]
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, classes)

    def forward(self, values: Tensor) -> Tensor:
        """Give logits: (batch, 2, 64, frames) → (batch, classes)."""
        pooled: Tensor = self.head(self.pool(self.blocks(values)).flatten(1))
        return pooled


class Training:
    """The tutorial's training loop; `epoch` runs one more."""

    def __init__(self, paths: Sequence[str | Path], labels: Sequence[int], classes: int, epochs: int) -> None:
        self.clips = SoundClips(paths, labels)
        self.loader = DataLoader(self.clips, batch_size=BATCH, shuffle=True, num_workers=0)
        self.model = AudioClassifier(classes)
        self.loss = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            max_lr=LEARNING_RATE,
            steps_per_epoch=len(self.loader),
            epochs=epochs,
            anneal_strategy="linear",
        )

    def epoch(self) -> float:
        """Train on every clip once; returns clips per second."""
        start = time.perf_counter()
        self.model.train()
        total, hits = 0.0, 0
        for values, labels in self.loader:
            values = (values - values.mean()) / values.std()
            self.optimizer.zero_grad()
            logits = self.model(values)
            loss = self.loss(logits, labels)
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            total += loss.item()
            hits += int((logits.argmax(1) == labels).sum())
        return len(self.clips) / (time.perf_counter() - start)

    def network_rate(self, steps: int = 60) -> float:
        """Clips per second of steps on one batch that is ready: what no loading, however fast, exceeds."""
        random = torch.Generator().manual_seed(0)
        values = torch.randn(BATCH, *self.clips[0][0].shape, generator=random)
        labels = torch.arange(BATCH) % self.model.head.out_features
        start = 0.0
        for step in range(2 * steps):
            if step == steps:
                start = time.perf_counter()
            self.optimizer.zero_grad()
            self.loss(self.model(values), labels).backward()
            self.optimizer.step()
        return steps * BATCH / (time.perf_counter() - start)
