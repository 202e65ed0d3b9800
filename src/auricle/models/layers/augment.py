"""Augmentation of training batches.

In: waveforms or spectrograms with their real lengths, and a generator. Out: changed copies of the same shape; padding
stays zero. Pure functions: the same generator state gives the same result, whatever else the program draws.
"""

import numpy as np
import torch
from torch import Tensor

from auricle.models.layers import masking
from auricle.recipe import Augment


def step_generator() -> torch.Generator:
    """A generator for one training step, from torch's global one, seeded at every step: resuming is exact."""
    return torch.Generator().manual_seed(int(torch.randint(2**31, ())))


def changes_waveform(options: Augment) -> bool:
    """Whether the options change a waveform at all."""
    return bool(options.shift_fraction or options.gain_db or options.noise_fraction)


def waveform(values: Tensor, lengths: Tensor, options: Augment, generator: torch.Generator) -> Tensor:
    """Shift, change the gain and add noise, as the options say: (batch, channels, samples) → the same."""
    if options.shift_fraction:
        values = shift(values, lengths, options.shift_fraction, generator)
    if options.gain_db:
        values = gain(values, options.gain_db, generator)
    if options.noise_fraction:
        values = noise(values, lengths, options.noise_fraction, generator)
    return values


def spectrogram(values: Tensor, lengths: Tensor, options: Augment, generator: torch.Generator) -> Tensor:
    """Mask bands and time spans of standardised (batch, channels, features, frames) by their mean, zero."""
    num_features = torch.full_like(lengths, values.shape[-2])
    if options.frequency_masks:
        share = options.frequency_mask_fraction
        spans = [
            _outside_span(num_features, values.shape[-2], share, generator) for _ in range(options.frequency_masks)
        ]
        values = values * torch.stack(spans).all(0)[:, None, :, None].to(values.dtype)
    if options.time_masks:
        share = options.time_mask_fraction
        spans = [_outside_span(lengths, values.shape[-1], share, generator) for _ in range(options.time_masks)]
        values = values * torch.stack(spans).all(0)[:, None, None, :].to(values.dtype)
    return values


def shift(values: Tensor, lengths: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Roll each clip by up to `share` of its own length; the samples past its end return at its start."""
    return roll(values, lengths, random_int(lengths * share, generator))


def roll_frames(values: Tensor, lengths: Tensor, room: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Roll each clip's frames by up to its `room` (batch,), and by up to `share` of its length."""
    if not share and not bool(room.any()):
        return values
    steps = random_int(room, generator) + random_int(lengths * share, generator)
    return roll(values, lengths, steps % lengths)


def random_int(maximum: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one integer per clip, from 0 to maximum[i]: (batch,) int64."""
    return (_uniform(maximum, generator) * maximum).round().long()


def roll(values: Tensor, lengths: Tensor, steps: Tensor) -> Tensor:
    """Roll the first lengths[i] samples of clip i by steps[i]; the rest is zero. Indexing would take far longer."""
    rolled = torch.empty_like(values)
    for clip, result, length, step in zip(values, rolled, lengths.tolist(), steps.tolist(), strict=True):
        result[..., step:length] = clip[..., : length - step]
        result[..., :step] = clip[..., length - step : length]
        result[..., length:] = 0.0
    return rolled


def gain(values: Tensor, decibels: float, generator: torch.Generator) -> Tensor:
    """Change each clip's gain by up to so many decibels, up or down."""
    return values * (10.0 ** (gain_change(values, decibels, generator) / 20.0))[:, None, None]


def gain_change(like: Tensor, decibels: float, generator: torch.Generator) -> Tensor:
    """Draw a change of up to so many decibels, up or down, for each clip of `like`: (batch,)."""
    return (2.0 * _uniform(like, generator) - 1.0) * decibels


def noise(values: Tensor, lengths: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Add white noise with an RMS amplitude of up to `share` of each clip's own."""
    real = masking.real(lengths, values.shape[-1])[:, None, :]
    amplitude = (values.square().sum((1, 2)) / (lengths * values.shape[1])).sqrt()
    amplitude = amplitude * share * _uniform(values, generator)
    white = torch.randn(values.shape, generator=generator).to(values)
    return values + amplitude[:, None, None] * white * real


def mixup(values: Tensor, targets: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Mix each clip with another of its batch, share ~ Beta(alpha, alpha) (Zhang et al. 2018).

    values (batch, ...), targets (batch, classes) summing to 1. Returns both mixed, and the partners (batch,).
    """
    partners = torch.randperm(len(values), generator=generator).to(values.device)
    # torch draws no Beta from a generator of one's own; numpy does.
    seed = int(torch.randint(2**31, (), generator=generator))
    share = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, len(values))).to(values)
    weight = share.reshape(-1, *[1] * (values.dim() - 1))
    mixed = weight * values + (1.0 - weight) * values[partners]
    return mixed, share[:, None] * targets + (1.0 - share[:, None]) * targets[partners], partners


def _outside_span(lengths: Tensor, size: int, share: float, generator: torch.Generator) -> Tensor:
    """Draw one span per clip, up to `share` of its length; False inside it: (batch, size) bool."""
    width = random_int(lengths * share, generator)
    start = random_int(lengths - width, generator)
    index = torch.arange(size, device=lengths.device)[None, :]
    return (index < start[:, None]) | (index >= (start + width)[:, None])


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """One number in [0, 1) per clip of `like`, drawn on the generator's device, moved to the clips' device."""
    return torch.rand(len(like), generator=generator).to(like.device)
