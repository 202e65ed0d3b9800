"""EfficientAT's `mn`: a small MobileNetV3 for everyday sounds, with its front end inside.

In: waveforms of 32 kHz and their mask. Out: logits of AudioSet's classes, which do not exclude each other; a clip
embedding; statistics of every block. Layers and tensor names are those published under the MIT licence by Schmid,
Koutini and Widmer, "Efficient large-scale audio tagging via transformer-to-CNN knowledge distillation" (2023). Every
layer sees zeros beyond a clip's end, so a clip's answers are the same alone and in a padded batch.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.audio_utils import mel_filter_bank, window_function
from transformers.modeling_outputs import SequenceClassifierOutput

from auricle.models.encoders.spectra import PREEMPHASIS
from auricle.models.features import fourier
from auricle.models.layers import masking
from auricle.models.layers.front_end import passthrough_extractor
from auricle.models.layers.masking import BatchNorm

LOG_FLOOR = 1e-5
# Published in place of statistics: the input is (log-mel + 4.5) / 5.
LOG_MEAN, LOG_SCALE = -4.5, 5.0
LAST_CHANNELS = 1280
# How finely `layer_statistics` divides the bands: the last layers have four.
QUARTERS = 4
# A transform of this many frames at a time stays in the processor's cache.
_FRAMES_AT_ONCE = 512


class Row(NamedTuple):
    """One inverted residual block at width 1: a row of table 1 of Howard et al., "Searching for MobileNetV3" (2019)."""

    kernel: int
    expanded: int
    channels: int
    squeeze: bool
    hardswish: bool
    stride: int


STEM_CHANNELS = 16
ROWS = (
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2),
    Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2),
    Row(5, 120, 40, True, False, 1),
    Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2),
    Row(3, 200, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1),
    Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2),
    Row(5, 960, 160, True, True, 1),
    Row(5, 960, 160, True, True, 1),
)


@strict
class Config(PreTrainedConfig):
    """The settings; labels are in id2label.

    width: multiplies the channels of every layer; sample_rate: hertz; n_mels: mel bands from f_min to f_max hertz, a
    multiple of 128; window_length, hop_length, n_fft: samples.
    """

    model_type = "auricle-efficientat"

    width: float = 1.0
    sample_rate: int = 32_000
    channels: int = 1
    n_mels: int = 128
    f_min: float = 0.0
    f_max: float = 15_000.0
    window_length: int = 800
    hop_length: int = 320
    n_fft: int = 1024
    problem_type: str | None = "multi_label_classification"


def scaled(channels: float, width: float = 1.0) -> int:
    """Channels at a width: the nearest multiple of 8, the next one where that loses more than a tenth."""
    exact = channels * width
    nearest = max(8, int(exact + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * exact else nearest


class FrontEnd(nn.Module):
    """Log-mel with pre-emphasis: (batch, samples) → (batch, mels, 1 + (samples - 1) // hop_length).

    Window and filters are not saved: the model's `_init_weights` calls `reset`.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window", torch.empty(config.window_length), persistent=False)
        self.register_buffer("filters", torch.empty(config.n_fft // 2 + 1, config.n_mels), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Compute window and filters from the settings."""
        config = self.config
        with torch.device("cpu"):
            self.window.copy_(torch.from_numpy(window_function(config.window_length, "hann", periodic=False)))
            filters = mel_filter_bank(
                num_frequency_bins=config.n_fft // 2 + 1,
                num_mel_filters=config.n_mels,
                min_frequency=config.f_min,
                max_frequency=config.f_max,
                sampling_rate=config.sample_rate,
                mel_scale="kaldi",
                triangularize_in_mel_space=True,
            )
            self.filters.copy_(torch.from_numpy(filters))

    def frames(self, samples: Tensor) -> Tensor:
        """The frames of clips of so many samples, one at least."""
        return 1 + (samples - 1).div(self.config.hop_length, rounding_mode="floor")

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Log-mel of waveforms that are zero beyond lengths (batch,); frames beyond `frames(lengths)` are undefined."""
        # As published, pre-emphasis drops a sample; a clip of one sample gets a zero after it.
        emphasized = F.pad(waveform[:, 1:], (0, 1)) - PREEMPHASIS * waveform
        reflected = self._reflected(emphasized, (lengths - 1).clamp_min(1))
        frames = reflected.unfold(-1, self.config.window_length, self.config.hop_length)
        frames = frames[:, : 1 + (waveform.shape[-1] - 1) // self.config.hop_length]
        if torch.compiler.is_compiling():
            mel = fourier.power(frames * self.window, self.config.n_fft, len(self.filters)) @ self.filters
        else:
            mel = torch.cat([self._mel(part) for part in frames.split(_FRAMES_AT_ONCE, 1)], 1)
        return (torch.log(mel + LOG_FLOOR).transpose(1, 2) - LOG_MEAN) / LOG_SCALE

    def _mel(self, frames: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(frames * self.window, self.config.n_fft)
        with torch.autocast(frames.device.type, enabled=False):
            return torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag) @ self.filters

    def _reflected(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Extend each clip (batch, samples) by half a window on both sides, reflected at its own first and last sample.

        A clip shorter than half a window is reflected several times.
        """
        half = self.config.window_length // 2
        index = torch.arange(-half, values.shape[-1] + half, device=values.device)[None, :]
        last = lengths[:, None] - 1
        period = 2 * last.clamp_min(1)
        index = index.remainder(period)
        return values.gather(1, torch.minimum(torch.minimum(index, period - index), last))


class ConvNorm(nn.Sequential):
    """Convolution, normalisation and activation; the first two are named 0 and 1, as published."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, activation: Any = None
    ) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, BatchNorm(outputs, eps=1e-3, momentum=0.01))
        self.kernel, self.stride = kernel, stride
        self.activation = activation

    def forward(self, values: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        """(batch, channels, bands, frames) and which frames (batch, frames) are real, None if all are → the same.

        What is beyond a clip's end is zero for a kernel that reaches there, and no part of training statistics.
        """
        if real is not None and self.kernel > 1:
            values = values * masking.unsqueezed(real, values)
        values = self[0](values)
        if real is not None and self.stride > 1:
            real = masking.real((real.sum(1) - 1).div(self.stride, rounding_mode="floor") + 1, values.shape[-1])
        values = self[1](values, real.sum(1) if self.training and real is not None else None)
        return values if self.activation is None else self.activation(values), real


class SqueezeExcitation(nn.Module):
    """Scale channels by what their mean over bands and real frames is (Hu et al. 2018), named as published."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = scaled(channels // 4)
        layers = {"fc1": nn.Linear(channels, squeezed), "fc2": nn.Linear(squeezed, channels)}
        self.conc_se_layers = nn.ModuleList([nn.ModuleDict(layers)])

    def forward(self, values: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor | None]:
        layers: Any = self.conc_se_layers[0]
        scale = layers["fc2"](F.relu(layers["fc1"](_mean(values, real)))).sigmoid()
        return values * scale[..., None, None], real


class Block(nn.Module):
    """An inverted residual block (Sandler et al. 2018): expand, convolve each channel, squeeze, project, add."""

    def __init__(self, inputs: int, row: Row, width: float) -> None:
        super().__init__()
        expanded, outputs = scaled(row.expanded, width), scaled(row.channels, width)
        activation = F.hardswish if row.hardswish else F.relu
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(ConvNorm(inputs, expanded, activation=activation))
        layers.append(ConvNorm(expanded, expanded, row.kernel, row.stride, groups=expanded, activation=activation))
        if row.squeeze:
            layers.append(SqueezeExcitation(expanded))
        layers.append(ConvNorm(expanded, outputs))
        self.block = nn.ModuleList(layers)
        self.is_residual = row.stride == 1 and inputs == outputs

    def forward(self, values: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor | None]:
        output = values
        for layer in self.block:
            output, real = layer(output, real)
        return output + values if self.is_residual else output, real


class Model(PreTrainedModel):
    """The network; `config.num_labels` classes. Its tensors have the published names."""

    config_class = Config
    main_input_name = "input_values"
    batch_seconds: float | None = None

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.extractor = passthrough_extractor(config.sample_rate)
        self.front_end = FrontEnd(config)
        sizes = [scaled(channels, config.width) for channels in (STEM_CHANNELS, *(row.channels for row in ROWS))]
        blocks = [Block(inputs, row, config.width) for inputs, row in zip(sizes, ROWS, strict=False)]
        stem, last = ConvNorm(1, sizes[0], 3, 2, activation=F.hardswish), 6 * sizes[-1]
        self.features = nn.ModuleList([stem, *blocks, ConvNorm(sizes[-1], last, activation=F.hardswish)])
        hidden = scaled(LAST_CHANNELS, config.width)
        # The published numbers count pooling and flattening.
        self.classifier = nn.Sequential(
            nn.Identity(),
            nn.Identity(),
            nn.Linear(last, hidden),
            nn.Hardswish(),
            nn.Dropout(0.2),
            nn.Linear(hidden, config.num_labels),
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, FrontEnd):
            module.reset()
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
            nn.init.zeros_(module.bias)

    def forward(self, input_values: Tensor, attention_mask: Tensor | None = None, **_: Any) -> SequenceClassifierOutput:
        """Compute logits (batch, classes), whose sigmoids are scores: classes do not exclude each other.

        input_values (batch, samples) in [-1, 1], of 32 kHz; attention_mask (batch, samples), 1 on real samples.
        """
        return SequenceClassifierOutput(logits=self.logits_from_embedding(self.embedding(input_values, attention_mask)))

    def embedding(self, input_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The mean of the last convolution over bands and real frames, as published: (batch, 6 · last channels)."""
        return _mean(*self._maps(input_values, attention_mask)[-1])

    embed = embedding

    def logits_from_embedding(self, embedding: Tensor) -> Tensor:
        """Logits (batch, classes) from an embedding (batch, size)."""
        logits: Tensor = self.classifier(embedding)
        return logits

    def logits_and_vectors(self, input_values: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (batch, classes), and vectors (batch, size) of length 1, to be compared by cosine."""
        embedding = self.embedding(input_values, attention_mask)
        return self.logits_from_embedding(embedding), F.normalize(embedding, dim=-1)

    def layer_statistics(self, input_values: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """What a classifier can be fitted to: one (batch, size) for each of the 17 layers, the embedding, the logits.

        A layer is the stem, a block or the last convolution. Its size is 8 times its channels: means over real frames
        of each channel in each quarter of the bands, then deviations. Quarters, because a whole average loses pitch.
        """
        maps = self._maps(input_values, attention_mask)
        embedding = _mean(*maps[-1])
        return (*(_statistics(*part) for part in maps), embedding, self.logits_from_embedding(embedding))

    def _maps(self, input_values: Tensor, attention_mask: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        """The output of every layer (batch, channels, bands, frames), and which frames are real, None if all are."""
        samples = masking.lengths(input_values, attention_mask).clamp_min(1)
        if attention_mask is not None:
            input_values = input_values * attention_mask.to(input_values.dtype)
        values = self.front_end(input_values, samples)[:, None]
        real = None
        if attention_mask is not None:
            real = masking.real(self.front_end.frames(samples), values.shape[-1])
        maps = []
        for layer in self.features:
            values, real = layer(values, real)
            maps.append((values, real))
        return maps


def _mean(values: Tensor, real: Tensor | None) -> Tensor:
    """Average maps (batch, channels, bands, frames) over bands and real frames: (batch, channels)."""
    return values.mean((2, 3)) if real is None else masking.mean_over(values.mean(2), real)


def _statistics(values: Tensor, real: Tensor | None) -> Tensor:
    """Mean and deviation over real frames of each quarter of the bands: (batch, 8 · channels)."""
    rows = values.unflatten(2, (QUARTERS, -1)).mean(3).flatten(1, 2)
    if real is None:
        return torch.cat([rows.mean(-1), rows.std(-1, correction=0)], -1)
    mean = masking.mean_over(rows, real)
    variance = masking.mean_over((rows - mean[..., None]).square(), real)
    return torch.cat([mean, variance.sqrt()], -1)
