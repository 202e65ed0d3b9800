"""A transformer layer of the wav2vec 2.0 kind, laid out for answering on a processor in bfloat16.

In: frames and which of them are real. Out: what the stock layer gives. The three projections of attention are one
matrix, and weights are laid out once as oneDNN wants them; its products add the bias and bend by GELU as they write.
What is added up from layer to layer stays in float32: rounding it every time is most of the error that can be avoided.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import GELUActivation

Product = Callable[[Tensor], Tensor]

# Numbers in the largest table of attention scores.
SCORES = 1 << 24


def usable(weight: Tensor) -> bool:
    """Whether weights like this can be laid out for oneDNN in bfloat16 here."""
    return weight.device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def product(weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Product:
    """A linear layer (…, in) → (…, out) in bfloat16 with its weight laid out once; bent by GELU where asked."""
    # The layout does not depend on how many rows there will be; the number is a hint.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(torch.bfloat16).contiguous(), 512)
    bias = None if bias is None else bias.detach().to(torch.bfloat16)
    bend = "gelu" if gelu else "none"

    def multiply(values: Tensor) -> Tensor:
        narrow = values.to(torch.bfloat16)
        given: Tensor = torch.ops.mkldnn._linear_pointwise(narrow, packed, bias, bend, [], "none")
        return given

    return multiply


class PackedLayer:
    """One stock layer, packed. `stable` layers norm what goes into attention and products, others what comes out."""

    def __init__(self, layer: Any, stable: bool) -> None:
        attention, forward = layer.attention, layer.feed_forward
        self.heads = attention.num_heads
        self.stable = stable
        self.first, self.second = copy.deepcopy(layer.layer_norm), copy.deepcopy(layer.final_layer_norm)
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        scales = (attention.scaling, 1.0, 1.0)
        weight = torch.cat([one.weight * scale for one, scale in zip(projections, scales, strict=True)])
        bias = torch.cat([one.bias * scale for one, scale in zip(projections, scales, strict=True)])
        self.project = product(weight, bias)
        self.out = product(attention.out_proj.weight, attention.out_proj.bias)
        is_gelu = isinstance(forward.intermediate_act_fn, nn.GELU | GELUActivation)
        self.bend = None if is_gelu else forward.intermediate_act_fn
        self.up = product(forward.intermediate_dense.weight, forward.intermediate_dense.bias, gelu=is_gelu)
        self.down = product(forward.output_dense.weight, forward.output_dense.bias)

    def __call__(self, hidden: Tensor, beyond: Tensor | None) -> Tensor:
        """Run the layer on hidden (batch, frames, width) float32; `beyond` (batch, 1, 1, frames) marks padding."""
        if self.stable:
            hidden = hidden + self._attend(self.first(hidden), beyond)
            return hidden + self._forward(self.second(hidden))
        hidden = self.first(hidden + self._attend(hidden, beyond))
        given: Tensor = self.second(hidden + self._forward(hidden))
        return given

    def _forward(self, hidden: Tensor) -> Tensor:
        wide = self.up(hidden)
        return self.down(wide if self.bend is None else self.bend(wide))

    def _attend(self, hidden: Tensor, beyond: Tensor | None) -> Tensor:
        batch, frames, width = hidden.shape
        split = self.project(hidden).view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, values = split.reshape(3, batch * self.heads, frames, -1)
        # Some queries at a time: the table of all against all would grow with the square of a clip's length.
        size = max(1, SCORES // (batch * self.heads * frames))
        parts = [self._mix(part, keys, values, beyond, batch) for part in queries.split(size, 1)]
        mixed = torch.cat(parts, 1).view(batch, self.heads, frames, -1)
        return self.out(mixed.transpose(1, 2).reshape(batch, frames, width))

    def _mix(self, queries: Tensor, keys: Tensor, values: Tensor, beyond: Tensor | None, batch: int) -> Tensor:
        scores = torch.bmm(queries, keys.transpose(1, 2))
        if beyond is not None:
            scores.view(batch, self.heads, *scores.shape[1:]).masked_fill_(beyond, -torch.inf)
        return torch.bmm(F.softmax(scores, -1), values)
