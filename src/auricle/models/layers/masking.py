"""Which frames of a padded batch are real, and statistics over these.

A batch is padded on the right to its longest clip. Every layer that looks across time masks with these functions, so
that a clip's logits are the same alone and in a batch with longer clips.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auricle.models import ranks


def lengths(input_values: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Count the real samples of (batch, [channels,] samples) by mask (batch, samples): (batch,) int64; None is all."""
    if attention_mask is None:
        return torch.full((input_values.shape[0],), input_values.shape[-1], device=input_values.device)
    return attention_mask.sum(dim=-1, dtype=torch.int64)


def real(lengths: Tensor, size: int) -> Tensor:
    """Mark the first `lengths[i]` of `size` frames as real: (batch,) int64 → (batch, size) bool."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


def unsqueezed(mask: Tensor, values: Tensor) -> Tensor:
    """Give a mask (batch, frames) the dimensions of values (batch, …, frames), to be broadcast."""
    return mask.reshape(mask.shape[0], *[1] * (values.dim() - 2), mask.shape[1])


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Average (batch, channels, frames) over its real frames, mask (batch, frames) → (batch, channels)."""
    weight = mask[:, None, :].to(values.dtype)
    return (values * weight).sum(-1) / weight.sum(-1).clamp_min(1.0)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation (Ioffe and Szegedy 2015) whose statistics and output cover real frames only."""

    num_batches_tracked: Tensor

    def forward(self, values: Tensor, lengths: Tensor | None) -> Tensor:  # type: ignore[override]
        """Normalise (batch, channels, …, frames); zero beyond lengths (batch,); None is all real.

        Of several ranks the statistics cover the real frames of all.
        """
        together = self.training and ranks.count() > 1
        if lengths is None and not together:
            return super().forward(values)
        if lengths is None:
            lengths = torch.full((len(values),), values.shape[-1], device=values.device)
        mask = unsqueezed(real(lengths, values.shape[-1]), values)
        if not self.training:
            return super().forward(values) * mask
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        # Sums over thousands of cells need float32, also under bf16 autocast.
        wide, count = values.float(), lengths.sum() * values.shape[2:-1].numel()
        if values.device.type == "cpu" or together:
            apply: Any = RealFrameNorm.apply
            given = (lengths.tolist(), int(count), self.weight, self.bias, self.eps)
            normalized, mean, variance, count = apply(wide, mask.to(wide.dtype), *given)
        else:
            axes = [axis for axis in range(values.dim()) if axis != 1]
            mean = (wide * mask).sum(axes) / count
            variance = ((wide - per_channel(mean, wide)).square() * mask).sum(axes) / count
            scale = self.weight * torch.rsqrt(variance + self.eps)
            shift = self.bias - mean * scale
            normalized = (wide * per_channel(scale, wide) + per_channel(shift, wide)) * mask
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp_min(1), self.momentum)
        return cast(Tensor, normalized.to(values.dtype))

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes between channels and frames."""


class RealFrameNorm(torch.autograd.Function):
    """Batch normalisation over real frames by torch's own kernels, in a third of the passes over memory that the same
    takes step by step: a processor waits for memory here.

    In: values (batch, channels, …, frames), mask that broadcasts to them, the lengths of the clips, the number of real
    cells of a channel, weight and bias (channels,), eps. Out: normalised values, zero beyond the lengths, and the mean,
    the variance (channels,) and the number of the real cells of all ranks, through which no gradient flows.
    """

    @staticmethod
    def forward(
        context: Any,
        values: Tensor,
        mask: Tensor,
        lengths: Sequence[int],
        count: int,
        weight: Tensor,
        bias: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        masked = values * mask
        _, mean, inverse = torch.native_batch_norm(masked, None, None, None, None, True, 0.0, 0.0)
        # Those are of all cells, zeros beyond the lengths among them: their sums are those of the real ones.
        share = values.numel() / values.shape[1] / count
        # torch gives 0 as the inverse deviation of a channel without any, such as one that a ReLU silences.
        spread = torch.where(inverse > 0, inverse, torch.inf).double().pow(-2)
        square = (spread + mean.double().square()) * share
        mean, total = mean.double() * share, mean.new_tensor(count, dtype=torch.float64)
        if ranks.count() > 1:
            sums = ranks.all_reduce(torch.cat([mean * count, square * count, total[None]]))
            mean, square = (sums[:-1] / sums[-1]).chunk(2)
            total = sums[-1].clone()
        variance = (square - mean.square()).clamp_min(0.0).to(values.dtype)
        mean = mean.to(values.dtype)
        normalized = F.batch_norm(masked, mean, variance, weight, bias, eps=eps)
        context.save_for_backward(masked, mask, weight, mean, torch.rsqrt(variance + eps))
        context.lengths, context.count, context.eps = lengths, float(total), eps
        context.mark_non_differentiable(mean, variance, total)
        return _silenced(normalized, lengths), mean, variance, total

    @staticmethod
    def backward(context: Any, gradient: Tensor, *_: Tensor) -> tuple[Any, ...]:
        masked, mask, weight, mean, inverse = context.saved_tensors
        gradient = gradient * mask
        statistics = (None, None, mean, inverse, True, context.eps)
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, masked, weight, *statistics, [False, True, True]
        )
        # With s = weight * inverse: s * (gradient - (of_weight * (x - mean) * inverse + of_bias) / count), these of all
        # ranks; what this one's clips say about weight and bias is summed with all other gradients.
        scale, (sum_weight, sum_bias) = weight * inverse, ranks.all_reduce(torch.stack([of_weight, of_bias]))
        slope = -scale * inverse * sum_weight / context.count
        offset = -scale * sum_bias / context.count - slope * mean
        zeros = torch.zeros_like(mean)
        of_values = F.batch_norm(masked, zeros, zeros + 1.0, slope, offset, eps=0.0)
        of_values.addcmul_(gradient, per_channel(scale, gradient))
        return _silenced(of_values, context.lengths), None, None, None, of_weight, of_bias, None


def per_channel(vector: Tensor, values: Tensor) -> Tensor:
    """Give a vector (channels,) the dimensions of values (batch, channels, …), to be broadcast."""
    return vector.reshape(-1, *[1] * (values.dim() - 2))


def _silenced(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """Values whose frames beyond the lengths are set to zero, in place."""
    for clip, length in zip(values, lengths, strict=True):
        clip[..., length:].zero_()
    return values
