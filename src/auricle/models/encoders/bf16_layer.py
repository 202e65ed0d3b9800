"""A transformer layer like wav2vec 2.0's in bfloat16, for inference on a processor.

In: frames and the padding mask. Out: the output of the stock layer. The three projections of attention are one matrix,
and weights are converted once to oneDNN's layout; its products add the bias and apply GELU in one step. The residual
stream stays in float32: rounding it after every layer would be most of the avoidable error.
"""

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import GELUActivation

Linear = Callable[[Tensor], Tensor]

# The largest number of attention scores in memory.
MAX_SCORES = 1 << 24


def is_supported(weight: Tensor) -> bool:
    """Whether oneDNN supports bfloat16 products on the device of a weight."""
    return weight.device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def linear(weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Linear:
    """A linear layer (…, in) → (…, out) in bfloat16 with its weight in oneDNN's layout, and GELU after it if wished."""
    # The layout does not depend on the number of rows; the number is a hint.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(torch.bfloat16).contiguous(), 512)
    bias = None if bias is None else bias.detach().to(torch.bfloat16)
    activation = "gelu" if gelu else "none"

    def multiply(values: Tensor) -> Tensor:
        values = values.to(torch.bfloat16)
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(values, packed, bias, activation, [], "none"))

    return multiply


class Bf16Layer:
    """One stock layer in bfloat16. `stable` layers normalise before attention and feed-forward, others after."""

    def __init__(self, layer: Any, stable: bool) -> None:
        attention, feed_forward = layer.attention, layer.feed_forward
        self.heads = attention.num_heads
        self.stable = stable
        self.norm_1, self.norm_2 = copy.deepcopy(layer.layer_norm), copy.deepcopy(layer.final_layer_norm)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        scales = (attention.scaling, 1.0, 1.0)
        weight = torch.cat([one.weight * scale for one, scale in zip(projections, scales, strict=True)])
        bias = torch.cat([one.bias * scale for one, scale in zip(projections, scales, strict=True)])
        self.project = linear(weight, bias)
        self.out = linear(attention.out_proj.weight, attention.out_proj.bias)
        is_gelu = isinstance(feed_forward.intermediate_act_fn, nn.GELU | GELUActivation)
        self.activation = None if is_gelu else feed_forward.intermediate_act_fn
        self.up = linear(feed_forward.intermediate_dense.weight, feed_forward.intermediate_dense.bias, gelu=is_gelu)
        self.down = linear(feed_forward.output_dense.weight, feed_forward.output_dense.bias)

    def __call__(self, hidden: Tensor, padding: Tensor | None) -> Tensor:
        """Run the layer on hidden (batch, frames, width) float32; `padding` (batch, 1, 1, frames) marks it."""
        if self.stable:
            hidden = hidden + self._attend(self.norm_1(hidden), padding)
            return hidden + self._forward(self.norm_2(hidden))
        hidden = self.norm_1(hidden + self._attend(hidden, padding))
        return cast(Tensor, self.norm_2(hidden + self._forward(hidden)))

    def _forward(self, hidden: Tensor) -> Tensor:
        wide = self.up(hidden)
        return self.down(wide if self.activation is None else self.activation(wide))

    def _attend(self, hidden: Tensor, padding: Tensor | None) -> Tensor:
        batch, frames, width = hidden.shape
        split = self.project(hidden).view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, values = split.reshape(3, batch * self.heads, frames, -1)
        # Some queries at a time: all scores at once would grow with the square of a clip's length.
        size = max(1, MAX_SCORES // (batch * self.heads * frames))
        parts = [self._mix(part, keys, values, padding, batch) for part in queries.split(size, 1)]
        mixed = torch.cat(parts, 1).view(batch, self.heads, frames, -1)
        return self.out(mixed.transpose(1, 2).reshape(batch, frames, width))

    def _mix(self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None, batch: int) -> Tensor:
        scores = torch.bmm(queries, keys.transpose(1, 2))
        if padding is not None:
            scores.view(batch, self.heads, *scores.shape[1:]).masked_fill_(padding, -torch.inf)
        return torch.bmm(F.softmax(scores, -1), values)
