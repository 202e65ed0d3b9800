"""The layers between frames and pooling: conformer blocks, plain transformer blocks, and a front that thins frames out.

In: (batch, frames, width), the real frames of each clip, and the rotation of positions. Out: the same shape. Whatever
looks across time sees zeros or nothing beyond a clip's last frame, so that a clip's frames do not depend on its batch.
"""

import itertools
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auricle.models.layers import masking
from auricle.models.layers.masked_batch_norm import BatchNorm

Count = TypeVar("Count", int, Tensor)

ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class Places:
    """What all blocks of one batch share. `lengths` (batch,) and `real` (batch, frames) are None where no clip is
    padded; `cosine` and `sine` (frames, head width / 2) turn queries and keys by their position.
    """

    lengths: Tensor | None
    real: Tensor | None
    cosine: Tensor
    sine: Tensor


def places(lengths: Tensor, frames: int, head_width: int) -> Places:
    """Mark the real ones of so many frames and give the positions' rotation (Su et al. 2021)."""
    device = lengths.device
    rates = ROTARY_BASE ** -(torch.arange(0, head_width, 2, device=device).float() / head_width)
    angle = torch.arange(frames, device=device).float()[:, None] * rates[None, :]
    real = masking.real(lengths, frames)
    if not torch.compiler.is_compiling() and bool(real.all()):
        return Places(None, None, angle.cos(), angle.sin())
    return Places(lengths, real, angle.cos(), angle.sin())


class FeedForward(nn.Module):
    """Norm, a wide layer, SiLU, and back."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        inner = self.dropout(F.silu(self.up(self.norm(values))))
        given: Tensor = self.dropout(self.down(inner))
        return given


class Attention(nn.Module):
    """Norm and self-attention over the real frames, by torch's fused kernels; positions are rotations.

    Dropout falls on what comes out: on the shares themselves it would rule the fused kernels out.
    """

    def __init__(self, width: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor, at: Places) -> Tensor:
        batch, frames, _ = values.shape
        split = self.project(self.norm(values)).view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, content = split
        mask = None if at.real is None else at.real[:, None, None, :]
        mixed = F.scaled_dot_product_attention(turned(queries, at), turned(keys, at), content, attn_mask=mask)
        given: Tensor = self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, frames, -1)))
        return given


def turned(values: Tensor, at: Places) -> Tensor:
    """Rotate (batch, heads, frames, head width) by position."""
    first, second = values.chunk(2, -1)
    cosine, sine = at.cosine.to(values.dtype), at.sine.to(values.dtype)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


class Convolution(nn.Module):
    """Norm, a gated pointwise layer, a depthwise convolution over time, batch norm, SiLU, and back."""

    def __init__(self, width: int, expansion: int, kernel: int, dropout: float) -> None:
        super().__init__()
        inner = expansion * width
        self.layer_norm = nn.LayerNorm(width)
        self.gated = nn.Linear(width, 2 * inner)
        self.depthwise = nn.Conv1d(inner, inner, kernel, padding=kernel // 2, groups=inner)
        self.norm = BatchNorm(inner)
        self.out = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor, at: Places) -> Tensor:
        gated = F.glu(self.gated(self.layer_norm(values)), -1)
        if at.real is not None:
            gated = gated * at.real[..., None]
        heard = F.silu(self.norm(self.depthwise(gated.transpose(1, 2)), at.lengths)).transpose(1, 2)
        given: Tensor = self.dropout(self.out(heard))
        return given


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, norm (Gulati et al. 2020)."""

    def __init__(
        self, width: int, heads: int, head_width: int, inner: int, expansion: int, kernel: int, dropout: float
    ) -> None:
        super().__init__()
        self.first = FeedForward(width, inner, dropout)
        self.attention = Attention(width, heads, head_width, dropout)
        self.convolution = Convolution(width, expansion, kernel, dropout)
        self.second = FeedForward(width, inner, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, values: Tensor, at: Places) -> Tensor:
        """Run the block on (batch, frames, width)."""
        values = values + 0.5 * self.first(values)
        values = values + self.attention(values, at)
        values = values + self.convolution(values, at)
        given: Tensor = self.norm(values + 0.5 * self.second(values))
        return given


class TransformerBlock(nn.Module):
    """torch's own encoder layer: norm after attention and after the feed-forward, no positions."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(width, heads, inner, dropout, batch_first=True)

    def forward(self, values: Tensor, at: Places) -> Tensor:
        """Run the layer on (batch, frames, width)."""
        beyond = None if at.real is None else ~at.real
        given: Tensor = self.layer(values, src_key_padding_mask=beyond)
        return given


class Thinning(nn.Module):
    """Two convolutions of stride 2 over bands and frames: (batch, bands, frames) → (batch, frames / 4, width).

    A frame every 10 ms is more than speech needs: blocks behind a quarter of the frames cost a quarter.
    """

    def __init__(self, bands: int, width: int, channels: int) -> None:
        super().__init__()
        widths = [1, channels, channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False) for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(BatchNorm(channels) for _ in self.convolutions)
        self.out = nn.Linear(channels * thinned(bands), width)

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Thin (batch, bands, frames) out; beyond each clip's lengths (batch,) all is taken as zero."""
        values = values[:, None]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            lengths = (lengths + 1) // 2
            heard = convolution(values)
            padded = torch.compiler.is_compiling() or int(lengths.min()) < heard.shape[-1]
            values = F.silu(norm(heard, lengths if padded else None))
        given: Tensor = self.out(values.flatten(1, 2).transpose(1, 2))
        return given


def thinned(size: Count) -> Count:
    """How many of so many frames or bands are left by `Thinning`."""
    return ((size + 1) // 2 + 1) // 2
