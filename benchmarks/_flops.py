"""The floating-point operations of a speech encoder, and how many this machine reaches.

A multiply-add counts as two operations. Matrix products and convolutions count, for frames without padding; norms,
activations and softmax do not, as is usual.
"""

import itertools
import time
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

PROBE_SIZE = 2048
PROBE_SECONDS = 1.0


@dataclass(frozen=True)
class ForwardFlops:
    """The operations of one forward pass of one clip: below the top layers, and in these with the head."""

    below: float
    top: float

    @property
    def total(self) -> float:
        return self.below + self.top


def forward_flops(config: PreTrainedConfig, samples: int, top: int) -> ForwardFlops:
    """Count one forward pass of a HuBERT-like classifier over `samples`, divided below its `top` last layers.

    With T frames, width d and inner width f, per layer: 4 projections of T d², attention 2 T² d, feed-forward 2 T d f.
    """
    width, inner = config.hidden_size, config.intermediate_size
    below, frames, channels = 0.0, samples, 1
    for outputs, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        frames = (frames - kernel) // stride + 1
        below += 2.0 * frames * outputs * channels * kernel
        channels = outputs
    below += 2.0 * frames * channels * width
    # The positional convolution pads both ends; an even kernel gives one frame more.
    kernel = config.num_conv_pos_embeddings
    below += 2.0 * (frames + 1 - kernel % 2) * width * (width // config.num_conv_pos_embedding_groups) * kernel
    layer = 2.0 * (4 * frames * width**2 + 2 * frames**2 * width + 2 * frames * width * inner)
    head = 2.0 * (frames * width * config.classifier_proj_size + config.classifier_proj_size * config.num_labels)
    return ForwardFlops(below + (config.num_hidden_layers - top) * layer, top * layer + head)


def matrix_peak(dtype: torch.dtype) -> float:
    """Operations per second of the fastest product of two large matrices within about a second."""
    left = torch.randn(PROBE_SIZE, PROBE_SIZE).to(dtype)
    right = torch.randn(PROBE_SIZE, PROBE_SIZE).to(dtype)
    torch.mm(left, right)
    best, end = float("inf"), time.perf_counter() + PROBE_SECONDS
    for round_ in itertools.count():
        start = time.perf_counter()
        if start > end and round_ >= 3:
            break
        torch.mm(left, right)
        best = min(best, time.perf_counter() - start)
    return 2.0 * PROBE_SIZE**3 / best
