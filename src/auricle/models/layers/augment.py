"""What training does to a batch so that a model hears each clip differently every time.

In: waveforms or spectrograms with their real lengths, and a generator. Out: changed copies of the same shape; padding
stays zero. Pure functions: the same generator state gives the same result, whatever else the program draws.
"""

import numpy as np
import torch
from torch import Tensor

from auricle.models.layers import masking
from auricle.recipe import Augment


def changes(options: Augment) -> bool:
    """Whether the options change a waveform at all."""
    return bool(options.shift_fraction or options.gain_db or options.noise_fraction)


def waveform(values: Tensor, lengths: Tensor, options: Augment, generator: torch.Generator) -> Tensor:
    """Shift, scale and blur in noise, as far as the options ask: (batch, channels, samples) → the same."""
    if options.shift_fraction:
        values = shift(values, lengths, options.shift_fraction, generator)
    if options.gain_db:
        values = gain(values, options.gain_db, generator)
    if options.noise_fraction:
        values = noise(values, lengths, options.noise_fraction, generator)
    return values


def spectrogram(values: Tensor, lengths: Tensor, options: Augment, generator: torch.Generator) -> Tensor:
    """Hide bands and stretches of standardised spectrograms: (batch, channels, mels, frames) → the same.

    What is hidden becomes zero, the mean of the training split (SpecAugment, Park et al. 2019).
    """
    bands = torch.full_like(lengths, values.shape[-2])
    for _ in range(options.frequency_masks):
        values = values * _outside(bands, values.shape[-2], options.frequency_mask_fraction, generator)[:, None, :, None]
    for _ in range(options.time_masks):
        values = values * _outside(lengths, values.shape[-1], options.time_mask_fraction, generator)[:, None, None, :]
    return values


def shift(values: Tensor, lengths: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Turn each clip round by up to `share` of its own length; what leaves at its end comes back at its start."""
    return roll(values, lengths, draw(lengths * share, generator))


def draw(most: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one whole number per clip, from 0 up to most[i]: (batch,) int64."""
    return (_uniform(most, generator) * most).round().long()


def roll(values: Tensor, lengths: Tensor, steps: Tensor) -> Tensor:
    """Turn the first lengths[i] samples of clip i round by steps[i]; the rest is zero.

    Memory moves only: an index tensor would take longer to build than the network's first layer takes to run.
    """
    rolled = torch.empty_like(values)
    for clip, turned, length, step in zip(values, rolled, lengths.tolist(), steps.tolist(), strict=True):
        turned[..., step:length] = clip[..., : length - step]
        turned[..., :step] = clip[..., length - step : length]
        turned[..., length:] = 0.0
    return rolled


def gain(values: Tensor, decibels: float, generator: torch.Generator) -> Tensor:
    """Change each clip's level by up to so many dB, up or down."""
    change = (2.0 * _uniform(values, generator) - 1.0) * decibels
    return values * (10.0 ** (change / 20.0))[:, None, None]


def noise(values: Tensor, lengths: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Add white noise whose level is up to `share` of each clip's own."""
    real = masking.real(lengths, values.shape[-1])[:, None, :]
    level = (values.square().sum((1, 2)) / (lengths * values.shape[1])).sqrt()
    level = level * share * _uniform(values, generator)
    white = torch.randn(values.shape, generator=generator).to(values)
    return values + level[:, None, None] * white * real


def mixup(values: Tensor, targets: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Mix each clip with another of its batch, share ~ Beta(alpha, alpha) (Zhang et al. 2018).

    values (batch, ...), targets (batch, classes), each row summing to 1. Returns the mixed values, the mixed targets,
    and the partners (batch,), so that the caller can make lengths agree.
    """
    partners = torch.randperm(len(values), generator=generator).to(values.device)
    # torch draws no Beta from a generator of one's own; numpy does.
    seed = int(torch.randint(2**31, (), generator=generator))
    share = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, len(values))).to(values)
    ensemble_member = share.reshape(-1, *[1] * (values.dim() - 1))
    mixed = ensemble_member * values + (1.0 - ensemble_member) * values[partners]
    return mixed, share[:, None] * targets + (1.0 - share[:, None]) * targets[partners], partners


def _outside(lengths: Tensor, size: int, share: float, generator: torch.Generator) -> Tensor:
    """Draw one stretch per clip, up to `share` of its length; False inside it: (batch, size) bool."""
    width = draw(lengths * share, generator)
    start = draw(lengths - width, generator)
    places = torch.arange(size, device=lengths.device)[None, :]
    return (places < start[:, None]) | (places >= (start + width)[:, None])


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """One number in [0, 1) per clip of `like`, drawn where the generator lives, whatever device the clips are on."""
    return torch.rand(len(like), generator=generator).to(like.device)
