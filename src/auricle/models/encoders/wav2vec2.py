"""Encoders like wav2vec 2.0: convolutions over the waveform, a positional convolution, transformer layers.

HuBERT and DistilHuBERT, wav2vec 2.0, WavLM, UniSpeech(-SAT), data2vec-audio. In: waveforms and lengths. Out: frames.
The stock modules' weights are used under their own names; the difference is that padding affects nothing: a group norm
over time covers the real frames only, and zeros follow the last one wherever a convolution looks further.
"""

import copy
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask

from auricle.models.encoders import bf16_layer, spectra
from auricle.models.encoders.bf16_layer import Bf16Layer
from auricle.models.layers import masking

# The keyword arguments of a stock layer.
LayerContext = dict[str, Any]
# Channels of a group; published checkpoints have 48 or more.
NARROW_GROUP = 16


def masked_mean(hidden: Tensor, frames: Tensor) -> Tensor:
    """Average (batch, frames, size) over real frames, in float32."""
    real = masking.real(frames, hidden.shape[1])
    total = hidden.masked_fill(~real[..., None], 0.0).sum(1, dtype=torch.float32)
    return total / frames[:, None]


class Wav2Vec2Encoder:
    """A stock model of this kind. Its features are the output of the convolutions: (batch, frames, channels)."""

    # A weighted sum of this kind of model uses the last layer without the final norm.
    sums_final_output = False

    def __init__(self, network: Any, extractor: Any) -> None:
        self.base = getattr(network, network.base_model_prefix)
        self.layers: Any = self.base.encoder.layers
        self.config = network.config
        self.normalizes = bool(extractor.do_normalize)
        self.convolutions = [
            (layer.conv, getattr(layer, "layer_norm", None), layer.activation)
            for layer in self.base.feature_extractor.conv_layers
        ]
        # The stride of all convolutions together, and the samples of one frame's receptive field.
        self.stride, self.min_samples = 1, 1
        for conv, _, _ in self.convolutions:
            self.min_samples += (conv.kernel_size[0] - 1) * self.stride
            self.stride *= conv.stride[0]
        self.layerdrop = float(getattr(self.config, "layerdrop", 0.0))
        prefix = network.base_model_prefix
        self.feature_encoder_name = f"{prefix}.feature_extractor"
        self.layers_name = f"{prefix}.encoder.layers"
        self.final_names: tuple[str, ...] = ()
        self.stable = type(self.base.encoder).__name__.endswith("StableLayerNorm")
        if self.stable:
            self.final_names = (f"{prefix}.encoder.layer_norm",)
        self.is_wavlm = self.config.model_type == "wavlm"
        self.has_bf16_layers = False
        # WavLM passes the weights of its attention to a function of torch: an adapter there would never be called.
        self.lora_targets = ("intermediate_dense", "output_dense") if self.is_wavlm else ("q_proj", "v_proj")

    def feature_size(self) -> int:
        return int(self.convolutions[-1][0].out_channels)

    def feature_frames(self, samples: Tensor) -> Tensor:
        frames = samples.clamp_min(self.min_samples)
        for conv, _, _ in self.convolutions:
            frames = (frames - conv.kernel_size[0]).div(conv.stride[0], rounding_mode="floor") + 1
        return frames

    frames = feature_frames

    def state_frames(self, samples: Tensor, depth: int) -> Tensor:
        return self.frames(samples)

    def features(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if self.normalizes:
            values = spectra.normalize(values, lengths)
        frames = self.feature_frames(lengths)
        # Every clip is padded to a multiple of the stride, so that the batch is one long row of frames at every layer:
        # frames across the border of two clips are beyond the real frames of the first.
        clips, samples = values.shape[0], spectra.padded_size(values.shape[-1], self.min_samples)
        padded = -(-samples // self.stride) * self.stride
        values = F.pad(values, (0, padded - values.shape[-1]))
        lengths = lengths.clamp_min(self.min_samples)
        hidden = self._first_convolution(values, lengths)
        for conv, norm, activation in self.convolutions[1:]:
            hidden = _strided_convolution(hidden, conv)
            hidden = activation(norm(hidden) if norm is not None else hidden)
        # An exported graph cannot branch on the longest clip: it includes the frames of the padding.
        if torch.compiler.is_compiling():
            size = samples
            for conv, _, _ in self.convolutions:
                size = (size - conv.kernel_size[0]) // conv.stride[0] + 1
        else:
            size = int(frames.max())
        return hidden.view(clips, -1, hidden.shape[-1])[:, :size], frames

    def _first_convolution(self, values: Tensor, lengths: Tensor) -> Tensor:
        """The convolution over the waveform, with its norm: (batch, samples) → (batch * frames, channels).

        A group norm over time with a group per channel is an affine map of the channel, and its mean and variance
        follow from the covariance of the convolution's inputs over the real frames. So it is folded into the kernel,
        one kernel per clip, which is exact and saves two passes over the longest activation of the model.
        """
        conv, norm, activation = self.convolutions[0]
        size, stride = conv.kernel_size[0], conv.stride[0]
        windows = F.pad(values, (0, size - stride)).unfold(-1, size, stride).contiguous()
        kernel = conv.weight[:, 0]
        # In a bfloat16 model this layer is in float32: with a group norm its kernels are computed for every clip.
        dtype = self.convolutions[-1][0].weight.dtype
        if not isinstance(norm, nn.GroupNorm):
            hidden = F.linear(windows.reshape(-1, size), kernel, conv.bias)
            return cast(Tensor, activation((norm(hidden) if norm is not None else hidden).to(dtype)))
        frames = (lengths - size).div(stride, rounding_mode="floor") + 1
        scale, shift = _group_norm_as_affine(windows, frames, kernel, conv.bias, norm)
        kernels = (kernel.float()[None] * scale[..., None]).transpose(1, 2)
        hidden = torch.baddbmm(shift[:, None].to(dtype), windows.to(dtype), kernels.to(dtype))
        return cast(Tensor, activation(hidden.flatten(0, 1)))

    def embed(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.base.feature_projection(features)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        if self.has_bf16_layers:
            hidden = hidden.float()
        real = masking.real(frames, hidden.shape[1])
        hidden = masked(hidden, real, self.base)
        encoder = self.base.encoder
        hidden = hidden + self._positions(hidden, real).to(hidden.dtype)
        if not self.stable:
            hidden = encoder.layer_norm(hidden)
        return encoder.dropout(hidden), frames

    def _positions(self, hidden: Tensor, real: Tensor) -> Tensor:
        embedding = self.base.encoder.pos_conv_embed
        padding = ~real[:, None]
        values = hidden.transpose(1, 2)
        if self.has_bf16_layers:
            values = values.to(torch.bfloat16)
        # data2vec stacks its positional convolutions: each needs zeros beyond the clip, as without padding.
        if hasattr(embedding, "layers"):
            for layer in embedding.layers:
                values = layer(values).masked_fill(padding, 0.0)
            return values.transpose(1, 2)
        if getattr(embedding, "batch_norm", None) is not None:
            values = embedding.batch_norm(values).masked_fill(padding, 0.0)
        if has_narrow_groups(embedding.conv):
            with torch.autocast(values.device.type, enabled=False):
                convolved = embedding.conv(values.float())
        else:
            convolved = embedding.conv(values)
        return cast(Tensor, embedding.activation(embedding.padding(convolved)).transpose(1, 2))

    def context(self, hidden: Tensor, frames: Tensor) -> LayerContext:
        size = hidden.shape[1]
        real = masking.real(frames, size)
        if self.has_bf16_layers:
            return {"padding": None if bool(real.all()) else ~real[:, None, None]}
        if self.is_wavlm and len(self.layers):
            # A bias of relative positions, which all layers share.
            bias = self.layers[0].attention.compute_bias(size, size)
            return {"attention_mask": real, "position_bias": bias.repeat(hidden.shape[0], 1, 1)}
        mask = create_bidirectional_mask(config=self.base.config, inputs_embeds=hidden, attention_mask=real)
        return {"attention_mask": mask}

    def to_bf16(self, network: Any) -> None:
        """Convert the network's weights to bfloat16, in oneDNN's layout where the processor supports it."""
        stock = self.layers
        # A probe may have chosen the embedding, which leaves no layer.
        if not self.is_wavlm and len(stock) and bf16_layer.is_supported(stock[0].attention.q_proj.weight):
            self.layers, self.layerdrop = [Bf16Layer(layer, self.stable) for layer in stock], 0.0
            self.has_bf16_layers = True
            stock.to("meta")
        norm = copy.deepcopy(self.base.encoder.layer_norm)
        network.to(torch.bfloat16)
        # With a group norm the first layer's kernels are computed for every clip.
        self.base.feature_extractor.conv_layers[0].float()
        embedding = self.base.encoder.pos_conv_embed
        if not hasattr(embedding, "layers") and has_narrow_groups(embedding.conv):
            embedding.conv.float()
        if self.has_bf16_layers:
            self.base.encoder.layer_norm = norm

    def real(self, hidden: Tensor, frames: Tensor) -> Tensor:
        return masking.real(frames, hidden.shape[1])

    def finish(self, hidden: Tensor) -> Tensor:
        return self.base.encoder.layer_norm(hidden) if self.stable else hidden

    pool = staticmethod(masked_mean)


def has_narrow_groups(conv: nn.Conv1d) -> bool:
    """Whether bfloat16 would give wrong results: oneDNN's AMX kernel fails on long kernels of narrow groups."""
    return bool(conv.in_channels // conv.groups < NARROW_GROUP)


def masked(hidden: Tensor, real: Tensor, base: Any) -> Tensor:
    """Projected features (batch, frames, size) with zeros beyond each clip, in training with masked spans."""
    if base.training and getattr(base.config, "apply_spec_augment", True):
        hidden = mask_spans(hidden, real, base)
    return hidden.masked_fill(~real[..., None], 0.0)


def mask_spans(hidden: Tensor, real: Tensor, base: Any) -> Tensor:
    """Mask spans of frames and channels in training, as the config defines (SpecAugment, Park et al. 2019).

    Draws come from torch's generator, which training seeds at every step; transformers' own come from numpy's.
    """
    config = base.config
    if config.mask_time_prob > 0:
        masked = _spans(real, config.mask_time_prob, config.mask_time_length)
        hidden = torch.where(masked[..., None], base.masked_spec_embed.to(hidden.dtype), hidden)
    if config.mask_feature_prob > 0:
        channels = real.new_ones(len(hidden), hidden.shape[-1])
        masked = _spans(channels, config.mask_feature_prob, config.mask_feature_length)
        hidden = hidden.masked_fill(masked[:, None], 0.0)
    return hidden


def _spans(real: Tensor, share: float, length: int) -> Tensor:
    """Draw masked positions: each real position starts a span with probability share / length."""
    starts = (torch.rand(real.shape) < share / length).to(real.device) & real
    ends = F.pad(starts.cumsum(1), (length, 0))[:, : real.shape[1]]
    return (starts.cumsum(1) > ends) & real


def _group_norm_as_affine(
    windows: Tensor, frames: Tensor, kernel: Tensor, bias: Tensor | None, norm: nn.GroupNorm
) -> tuple[Tensor, Tensor]:
    """Scale and shift (batch, channels) float32 that a group norm applies to the convolution without its bias.

    windows (batch, frames, taps) are the convolution's inputs. Sums in float64: a channel's variance may be a small
    difference of large covariances.
    """
    real = masking.real(frames, windows.shape[1])[..., None]
    wide = windows.double().masked_fill(~real, 0.0)
    count = frames[:, None].double()
    centre = wide.sum(1) / count
    centred = (wide - centre[:, None]).masked_fill(~real, 0.0)
    covariance = centred.transpose(1, 2) @ centred / count[..., None]
    taps = kernel.double()
    mean = centre @ taps.T
    variance = ((taps @ covariance) * taps).sum(-1)
    scale = norm.weight.double() * torch.rsqrt(variance + norm.eps)
    # The bias of the convolution shifts the mean too, and cancels out.
    return scale.float(), (norm.bias.double() - mean * scale).float()


def _strided_convolution(rows: Tensor, conv: nn.Conv1d) -> Tensor:
    """A strided convolution over rows (frames, channels) as matrix products: → (frames / stride, out channels).

    `stride` rows are read as one wider row, and a kernel longer than the stride reads its further taps from the rows
    after. The input is not copied; the last rows have no successor and are not real frames.
    """
    stride, channels = conv.stride[0], rows.shape[1]
    wide = rows.view(-1, stride * channels)
    kernel = conv.weight.transpose(1, 2).reshape(conv.out_channels, -1)
    parts = [kernel[:, first : first + wide.shape[1]] for first in range(0, kernel.shape[1], wide.shape[1])]
    output = F.linear(wide[:, : parts[0].shape[1]], parts[0], conv.bias)
    for shift, part in enumerate(parts[1:], start=1):
        later = wide[shift:, : part.shape[1]]
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            output = output + F.pad(F.linear(later, part), (0, 0, 0, shift))
        else:
            # Under autocast the first product has a narrower dtype than its factors, and adding in place does not cast.
            output[: len(later)].addmm_(later.to(output.dtype), part.T.to(output.dtype))
    return output
