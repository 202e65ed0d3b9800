"""The layers between features and pooling: conformer and transformer blocks, convolutional subsampling.

In: (batch, frames, hidden), and the batch's mask and rotary positions. Out: the same shape. Every layer that looks
across time sees zeros or nothing beyond a clip's last frame, so that a clip's frames do not depend on its batch.
"""

import itertools
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auricle.models.layers import masking
from auricle.models.layers.masking import BatchNorm

Count = TypeVar("Count", int, Tensor)

ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class BatchContext:
    """What all blocks of one batch share. `lengths` (batch,) and `real` (batch, frames) are None where no clip is
    padded; `cosine` and `sine` (frames, head_dim / 2) rotate queries and keys by their position.
    """

    lengths: Tensor | None
    real: Tensor | None
    cosine: Tensor
    sine: Tensor


def batch_context(lengths: Tensor, frames: int, head_dim: int) -> BatchContext:
    """The mask of clips of lengths (batch,) in a batch of so many frames, and rotary positions (Su et al. 2021)."""
    device = lengths.device
    rates = ROTARY_BASE ** -(torch.arange(0, head_dim, 2, device=device).float() / head_dim)
    angle = torch.arange(frames, device=device).float()[:, None] * rates[None, :]
    real = masking.real(lengths, frames)
    if not torch.compiler.is_compiling() and bool(real.all()):
        return BatchContext(None, None, angle.cos(), angle.sin())
    return BatchContext(lengths, real, angle.cos(), angle.sin())


class Dropout(nn.Dropout):
    """Dropout from 16 random bits a value, four values to a draw: on a processor it takes half the time of torch's."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or not self.p or values.device.type != "cpu":
            return super().forward(values)
        draws = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: values.numel()].view(values.shape)
        keep = bits >= round(self.p * 2**16) - 2**15
        return values * keep.to(values.dtype).mul_(1.0 / (1.0 - self.p))

    @classmethod
    def replace_in(cls, network: nn.Module) -> None:
        """Take the place of torch's in a network, which has the same weights then."""
        for parent in list(network.modules()):
            for name, child in parent.named_children():
                if type(child) is nn.Dropout:
                    setattr(parent, name, cls(child.p))


class FeedForward(nn.Module):
    """Layer norm, linear, SiLU, linear."""

    def __init__(self, hidden_size: int, intermediate_size: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.up = nn.Linear(hidden_size, intermediate_size)
        self.down = nn.Linear(intermediate_size, hidden_size)
        self.dropout = Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        inner = self.dropout(F.silu(self.up(self.norm(values))))
        return cast(Tensor, self.dropout(self.down(inner)))


class Attention(nn.Module):
    """Layer norm and self-attention over the real frames, with torch's fused kernels and rotary positions.

    Dropout is applied to the output: on the attention weights it would rule the fused kernels out.
    """

    def __init__(self, hidden_size: int, heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(hidden_size)
        self.project = nn.Linear(hidden_size, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, hidden_size)
        self.dropout = Dropout(dropout)

    def forward(self, values: Tensor, context: BatchContext) -> Tensor:
        batch, frames, _ = values.shape
        split = self.project(self.norm(values)).view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, content = split
        mask = None if context.real is None else context.real[:, None, None, :]
        mixed = F.scaled_dot_product_attention(
            rotated(queries, context), rotated(keys, context), content, attn_mask=mask
        )
        return cast(Tensor, self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, frames, -1))))


def rotated(values: Tensor, context: BatchContext) -> Tensor:
    """Rotate (batch, heads, frames, head_dim) by position."""
    first, second = values.chunk(2, -1)
    cosine, sine = context.cosine.to(values.dtype), context.sine.to(values.dtype)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


class Convolution(nn.Module):
    """Layer norm, gated pointwise, depthwise convolution over time, batch norm, SiLU, pointwise convolution."""

    def __init__(self, hidden_size: int, conv_expansion: int, conv_kernel_size: int, dropout: float) -> None:
        super().__init__()
        inner = conv_expansion * hidden_size
        self.layer_norm = nn.LayerNorm(hidden_size)
        self.gated = nn.Linear(hidden_size, 2 * inner)
        self.depthwise = nn.Conv1d(inner, inner, conv_kernel_size, padding=conv_kernel_size // 2, groups=inner)
        self.norm = BatchNorm(inner)
        self.out = nn.Linear(inner, hidden_size)
        self.dropout = Dropout(dropout)

    def forward(self, values: Tensor, context: BatchContext) -> Tensor:
        gated = F.glu(self.gated(self.layer_norm(values)), -1)
        if context.real is not None:
            gated = gated * context.real[..., None]
        convolved = F.silu(self.norm(self.depthwise(gated.transpose(1, 2)), context.lengths)).transpose(1, 2)
        return cast(Tensor, self.dropout(self.out(convolved)))


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, layer norm (Gulati et al. 2020)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        size, dropout = config.hidden_size, config.dropout
        self.feed_forward_1 = FeedForward(size, config.intermediate_size, dropout)
        self.attention = Attention(size, config.num_attention_heads, config.head_dim, dropout)
        self.convolution = Convolution(size, config.conv_expansion, config.conv_kernel_size, dropout)
        self.feed_forward_2 = FeedForward(size, config.intermediate_size, dropout)
        self.norm = nn.LayerNorm(size)

    def forward(self, values: Tensor, context: BatchContext) -> Tensor:
        values = values + 0.5 * self.feed_forward_1(values)
        values = values + self.attention(values, context)
        values = values + self.convolution(values, context)
        return cast(Tensor, self.norm(values + 0.5 * self.feed_forward_2(values)))


class TransformerBlock(nn.Module):
    """torch's own encoder layer: layer norm after attention and after the feed-forward, no positions."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        size, heads = config.hidden_size, config.num_attention_heads
        self.layer = nn.TransformerEncoderLayer(size, heads, config.intermediate_size, config.dropout, batch_first=True)

    def forward(self, values: Tensor, context: BatchContext) -> Tensor:
        padding = None if context.real is None else ~context.real
        return cast(Tensor, self.layer(values, src_key_padding_mask=padding))


class ConvSubsampling(nn.Module):
    """Two convolutions of stride 2 over features and frames: (batch, features, frames) → (batch, frames / 4, hidden).

    A frame every 10 ms is more than speech needs: blocks on a quarter of the frames cost a quarter.
    """

    def __init__(self, num_features: int, channels: int, hidden_size: int) -> None:
        super().__init__()
        sizes = [1, channels, channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False) for before, after in itertools.pairwise(sizes)
        )
        self.norms = nn.ModuleList(BatchNorm(channels) for _ in self.convolutions)
        self.out = nn.Linear(channels * subsampled(num_features), hidden_size)

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Subsample (batch, features, frames); values beyond each clip's lengths (batch,) count as zero."""
        values = values[:, None]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            lengths = (lengths + 1) // 2
            convolved = convolution(values)
            padded = torch.compiler.is_compiling() or int(lengths.min()) < convolved.shape[-1]
            values = F.silu(norm(convolved, lengths if padded else None))
        return cast(Tensor, self.out(values.flatten(1, 2).transpose(1, 2)))


def subsampled(size: Count) -> Count:
    """The number of frames or features that `ConvSubsampling` makes of so many."""
    return ((size + 1) // 2 + 1) // 2
