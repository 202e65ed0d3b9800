"""The wav2vec 2.0 way: convolutions over the waveform, a positional convolution, transformer layers.

HuBERT and DistilHuBERT, wav2vec 2.0, WavLM, UniSpeech(-SAT), data2vec-audio. In: waveforms and lengths. Out: frames.
The stock modules' own weights are used under their own names; what differs is that padding is kept out of everything:
a group norm over time knows the real frames alone, and zeros follow the last one wherever a convolution looks further.
"""

import copy
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask

from auricle.models.encoders import bf16_layer, spectra
from auricle.models.encoders.bf16_layer import PackedLayer
from auricle.models.layers import masking

# Channels of a group; published checkpoints have 48 and more.
NARROW = 16


class Waves:
    """How one stock model of this kind is run in parts; see the package for what each part takes and gives."""

    def __init__(self, network: Any, extractor: Any) -> None:
        self.network = network
        self.base = getattr(network, network.base_model_prefix)
        self.config = network.config
        self.standardise = bool(extractor.do_normalize)
        self.convolutions = [
            (layer.conv, _norm(layer), layer.activation) for layer in self.base.feature_extractor.conv_layers
        ]
        self.stride, self.least_samples = _reach([conv for conv, _, _ in self.convolutions])
        self.layerdrop = float(getattr(self.config, "layerdrop", 0.0))
        prefix = network.base_model_prefix
        self.front_name = f"{prefix}.feature_extractor"
        self.layers_name = f"{prefix}.encoder.layers"
        self.ending_names: tuple[str, ...] = ()
        self.stable = type(self.base.encoder).__name__.endswith("StableLayerNorm")
        if self.stable:
            self.ending_names = (f"{prefix}.encoder.layer_norm",)
        self.is_wavlm = self.config.model_type == "wavlm"
        self.packed: list[PackedLayer] | None = None
        # WavLM hands the weights of its attention to a function of torch: an adapter there would never be called.
        self.lora_targets = ("intermediate_dense", "output_dense") if self.is_wavlm else ("q_proj", "v_proj")

    @staticmethod
    def longest(extractor: Any) -> int | None:
        """The most samples that a clip may have: any number."""
        return None

    @property
    def layers(self) -> nn.ModuleList:
        found: nn.ModuleList = self.base.encoder.layers
        return found

    def feature_width(self) -> int:
        return int(self.convolutions[-1][0].out_channels)

    def feature_frames(self, samples: Tensor) -> Tensor:
        """Count the frames that the convolutions make of so many samples; too few samples count as the fewest."""
        frames = samples.clamp_min(self.least_samples)
        for conv, _, _ in self.convolutions:
            frames = (frames - conv.kernel_size[0]).div(conv.stride[0], rounding_mode="floor") + 1
        return frames

    def frames(self, samples: Tensor) -> Tensor:
        """Count the frames that the transformer sees."""
        return self.feature_frames(samples)

    def features(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Run the convolutions: (batch, samples) → (batch, frames, channels), and the real frames of each clip."""
        if self.standardise:
            values = spectra.standardised(values, lengths)
        frames = self.feature_frames(lengths)
        # Every clip takes a whole number of strides, so that the batch is one long row of frames at every layer: what
        # runs over the border of two clips lies beyond the real frames of the first.
        clips, heard = values.shape[0], spectra.enough(values.shape[-1], self.least_samples)
        whole = -(-heard // self.stride) * self.stride
        values = F.pad(values, (0, whole - values.shape[-1]))
        lengths = lengths.clamp_min(self.least_samples)
        hidden = self._first(values, lengths)
        for conv, norm, activation in self.convolutions[1:]:
            hidden = _convolved(hidden, conv)
            hidden = activation(norm(hidden) if norm is not None else hidden)
        # A graph cannot ask for the longest clip: it keeps the frames of the padding.
        most = self._count(heard) if torch.compiler.is_compiling() else int(frames.max())
        return hidden.view(clips, -1, hidden.shape[-1])[:, :most], frames

    def _count(self, samples: int) -> int:
        """The frames in so many samples, of which there are enough for one."""
        for conv, _, _ in self.convolutions:
            samples = (samples - conv.kernel_size[0]) // conv.stride[0] + 1
        return samples

    def _first(self, values: Tensor, lengths: Tensor) -> Tensor:
        """The convolution that hears the waveform, with its norm: (batch, samples) → (batch * frames, channels).

        A group norm over time with a group per channel is an affine map of the channel, and its mean and variance
        follow from the covariance of the convolution's inputs over the real frames. So it is folded into the kernel,
        one kernel per clip, which is exact and saves two passes over the longest activation of the model.
        """
        conv, norm, activation = self.convolutions[0]
        size, stride = conv.kernel_size[0], conv.stride[0]
        heard = F.pad(values, (0, size - stride)).unfold(-1, size, stride).contiguous()
        kernel = conv.weight[:, 0]
        # Of a model in bfloat16 this layer is in float32: with a group norm its kernels are made for every clip.
        dtype = self.convolutions[-1][0].weight.dtype
        if not isinstance(norm, nn.GroupNorm):
            flat = F.linear(heard.reshape(-1, size), kernel, conv.bias)
            first: Tensor = activation((norm(flat) if norm is not None else flat).to(dtype))
            return first
        frames = (lengths - size).div(stride, rounding_mode="floor") + 1
        scale, shift = _folded(heard, frames, kernel, conv.bias, norm)
        kernels = (kernel.float()[None] * scale[..., None]).transpose(1, 2)
        hidden = torch.baddbmm(shift[:, None].to(dtype), heard.to(dtype), kernels.to(dtype))
        heard_by_clip: Tensor = activation(hidden.flatten(0, 1))
        return heard_by_clip

    def embed(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Project the features, add the positions: (batch, frames, channels) → (batch, frames, width)."""
        hidden = self.base.feature_projection(features)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        if self.packed is not None:
            hidden = hidden.float()
        real = masking.real(frames, hidden.shape[1])
        if self.base.training and getattr(self.config, "apply_spec_augment", True):
            hidden = hidden_spans(hidden, real, self.base)
        hidden = hidden.masked_fill(~real[..., None], 0.0)
        encoder = self.base.encoder
        hidden = hidden + self._positions(hidden, real).to(hidden.dtype)
        if not self.stable:
            hidden = encoder.layer_norm(hidden)
        return encoder.dropout(hidden), frames

    def _positions(self, hidden: Tensor, real: Tensor) -> Tensor:
        embedding = self.base.encoder.pos_conv_embed
        beyond = ~real[:, None]
        values = hidden.transpose(1, 2)
        if self.packed is not None:
            values = values.to(torch.bfloat16)
        # data2vec stacks its positional convolutions: each must find zeros beyond the clip, as it does alone.
        if hasattr(embedding, "layers"):
            for layer in embedding.layers:
                values = layer(values).masked_fill(beyond, 0.0)
            return values.transpose(1, 2)
        if getattr(embedding, "batch_norm", None) is not None:
            values = embedding.batch_norm(values).masked_fill(beyond, 0.0)
        if is_narrow(embedding.conv):
            with torch.autocast(values.device.type, enabled=False):
                convolved = embedding.conv(values.float())
        else:
            convolved = embedding.conv(values)
        positions: Tensor = embedding.activation(embedding.padding(convolved))
        return positions.transpose(1, 2)

    def context(self, hidden: Tensor, frames: Tensor) -> dict[str, Any]:
        """What every layer is told beside its input: the mask, and WavLM's bias of relative positions."""
        size = hidden.shape[1]
        real = masking.real(frames, size)
        if self.packed is not None:
            return {"beyond": None if bool(real.all()) else ~real[:, None, None]}
        if self.is_wavlm:
            attention: Any = self.layers[0].attention
            bias = attention.compute_bias(size, size)
            return {"attention_mask": real, "position_bias": bias.repeat(hidden.shape[0], 1, 1)}
        mask = create_bidirectional_mask(config=self.base.config, inputs_embeds=hidden, attention_mask=real)
        return {"attention_mask": mask}

    def layer(self, number: int, hidden: Tensor, context: dict[str, Any]) -> Tensor:
        """Run one transformer layer: (batch, frames, width) → the same."""
        if self.packed is not None:
            return self.packed[number](hidden, context["beyond"])
        if not self.is_wavlm:
            given: Tensor = self.layers[number](hidden, **context)
            return given
        with warnings.catch_warnings():
            # transformers hands torch one mask of booleans and one of numbers, which torch will not take for ever.
            warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask", UserWarning)
            biased: Tensor = self.layers[number](hidden, **context)[0]
        return biased

    def to_bf16(self) -> None:
        """Turn the weights into bfloat16 for answering, and lay the layers out for the processor where it allows it."""
        layers: Any = list(self.layers)
        if not self.is_wavlm and bf16_layer.usable(layers[0].attention.q_proj.weight):
            self.packed = [bf16_layer.PackedLayer(layer, self.stable) for layer in layers]
            for layer in layers:
                layer.to("meta")
        norm = copy.deepcopy(self.base.encoder.layer_norm)
        self.network.to(torch.bfloat16)
        # With a group norm the first layer's kernels are made anew for every clip.
        self.base.feature_extractor.conv_layers[0].float()
        embedding = self.base.encoder.pos_conv_embed
        if not hasattr(embedding, "layers") and is_narrow(embedding.conv):
            embedding.conv.float()
        if self.packed is not None:
            self.base.encoder.layer_norm = norm

    def last(self, hidden: Tensor) -> Tensor:
        """Finish the encoder after its last layer."""
        return self.base.encoder.layer_norm(hidden) if self.stable else hidden

    def summary(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """Average over the real frames: (batch, frames, width) → (batch, width) float32."""
        return mean(hidden, frames)

    # In this kind of model a weighted sum takes the last layer as it is, before the final norm.
    sums_last = False

    def classify(self, vector: Tensor) -> Tensor:
        """From the pooled vector (batch, width) to logits: a mean before a linear projector is one after it."""
        return projected(self.network, vector)


def is_narrow(conv: nn.Conv1d) -> bool:
    """Whether bfloat16 would give a wrong answer: oneDNN's kernel for AMX fails on long kernels of narrow groups."""
    return bool(conv.in_channels // conv.groups < NARROW)


def mean(hidden: Tensor, frames: Tensor) -> Tensor:
    """Average (batch, frames, width) over real frames, in float32."""
    real = masking.real(frames, hidden.shape[1])
    total = hidden.masked_fill(~real[..., None], 0.0).sum(1, dtype=torch.float32)
    return total / frames[:, None]


def projected(network: Any, vector: Tensor) -> Tensor:
    """The head of stock sequence classifiers: a projection and a linear classifier."""
    logits: Tensor = network.classifier(network.projector(vector.to(network.projector.weight.dtype)))
    return logits


def hidden_spans(hidden: Tensor, real: Tensor, base: Any) -> Tensor:
    """Hide spans of frames and channels in training, as the config asks (SpecAugment, Park et al. 2019).

    Draws come from torch's generator, which training seeds at every step; transformers' own come from numpy's.
    """
    config = base.config
    if config.mask_time_prob > 0:
        covered = _spans(real, config.mask_time_prob, config.mask_time_length)
        hidden = torch.where(covered[..., None], base.masked_spec_embed.to(hidden.dtype), hidden)
    if config.mask_feature_prob > 0:
        channels = real.new_ones(len(hidden), hidden.shape[-1])
        covered = _spans(channels, config.mask_feature_prob, config.mask_feature_length)
        hidden = hidden.masked_fill(covered[:, None], 0.0)
    return hidden


def _spans(real: Tensor, share: float, length: int) -> Tensor:
    """Draw which places are hidden: each real place starts a span with probability share / length."""
    starts = (torch.rand(real.shape) < share / length).to(real.device) & real
    ends = F.pad(starts.cumsum(1), (length, 0))[:, : real.shape[1]]
    return (starts.cumsum(1) > ends) & real


def _folded(
    heard: Tensor, frames: Tensor, kernel: Tensor, bias: Tensor | None, norm: nn.GroupNorm
) -> tuple[Tensor, Tensor]:
    """Scale and shift (batch, channels) float32 that a group norm applies to the convolution without its bias.

    heard (batch, frames, taps) are the convolution's inputs. Sums in float64: a channel's variance may be a small
    difference of large covariances.
    """
    real = masking.real(frames, heard.shape[1])[..., None]
    wide = heard.double().masked_fill(~real, 0.0)
    count = frames[:, None].double()
    centre = wide.sum(1) / count
    centred = (wide - centre[:, None]).masked_fill(~real, 0.0)
    covariance = centred.transpose(1, 2) @ centred / count[..., None]
    taps = kernel.double()
    mean = centre @ taps.T
    variance = ((taps @ covariance) * taps).sum(-1)
    scale = norm.weight.double() * torch.rsqrt(variance + norm.eps)
    # The bias of the convolution moves the mean along, and so cancels out.
    return scale.float(), (norm.bias.double() - mean * scale).float()


def _convolved(rows: Tensor, conv: nn.Conv1d) -> Tensor:
    """A strided convolution over rows (frames, channels) as matrix products: → (frames / stride, out channels).

    `stride` rows are read as one wider row, and a kernel longer than the stride takes its further taps from the rows
    after. No copy of the input is made; the last rows lack a successor and are no real frames.
    """
    stride, channels = conv.stride[0], rows.shape[1]
    wide = rows.view(-1, stride * channels)
    kernel = conv.weight.transpose(1, 2).reshape(conv.out_channels, -1)
    parts = [kernel[:, first : first + wide.shape[1]] for first in range(0, kernel.shape[1], wide.shape[1])]
    given = F.linear(wide[:, : parts[0].shape[1]], parts[0], conv.bias)
    for shift, part in enumerate(parts[1:], start=1):
        later = wide[shift:, : part.shape[1]]
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            given = given + F.pad(F.linear(later, part), (0, 0, 0, shift))
        else:
            # Under autocast the first product is narrower than its factors, and adding in place casts nothing.
            given[: len(later)].addmm_(later.to(given.dtype), part.T.to(given.dtype))
    return given


def _norm(layer: nn.Module) -> nn.Module | None:
    norm = getattr(layer, "layer_norm", None)
    assert not isinstance(norm, nn.GroupNorm) or norm.num_groups == norm.num_channels, "stock models norm each channel"
    return norm


def _reach(convolutions: list[nn.Conv1d]) -> tuple[int, int]:
    """The stride of all convolutions together, and the samples that one frame sees."""
    stride, reach = 1, 1
    for conv in convolutions:
        reach += (conv.kernel_size[0] - 1) * stride
        stride *= conv.stride[0]
    return stride, reach
