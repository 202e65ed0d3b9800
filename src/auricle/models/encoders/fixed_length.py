"""Encoders of a fixed length: Whisper's, of 30 seconds, and the Audio Spectrogram Transformer, of ten.

In: waveforms no longer than that. Out: frames. The stock models pad every clip to the same length in any batch, and so
do these where they are `whole`. Otherwise Whisper runs over the positions of the clip alone, a tenth of the work for
three seconds, and both mark the frames of real audio. Longer clips are cut into windows.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from auricle.models.encoders import spectra
from auricle.models.encoders.wav2vec2 import LayerContext
from auricle.models.layers import masking


class WhisperEncoder:
    """A stock Whisper classifier. It has 30 seconds of log-mel frames, and half as many in the transformer."""

    lora_targets = ("q_proj", "v_proj")
    # transformers returns the normalised output in place of the last layer's.
    sums_final_output = True
    feature_encoder_name = None
    layers_name = "encoder.layers"
    final_names = ("encoder.layer_norm",)

    def __init__(self, network: Any, extractor: Any, whole: bool = True) -> None:
        self.whole = whole
        self.base = network.encoder
        self.layers = self.base.layers
        self.extractor = extractor
        self.layerdrop = float(self.base.layerdrop)

    def feature_size(self) -> int:
        return int(self.extractor.feature_size)

    def feature_frames(self, samples: Tensor) -> Tensor:
        # The convolutions look at the silence that follows the clip.
        return (2 * self.frames(samples) + 2).clamp_max(2 * self.base.max_source_positions)

    def state_frames(self, samples: Tensor, depth: int) -> Tensor:
        return self.frames(samples) if depth else 2 * self.frames(samples)

    def frames(self, samples: Tensor) -> Tensor:
        positions = self.base.max_source_positions
        if self.whole:
            return torch.full_like(samples, positions)
        hop = 2 * int(self.extractor.hop_length)
        return (samples + hop - 1).div(hop, rounding_mode="floor").clamp(1, positions)

    def features(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        values = values.masked_fill(~masking.real(lengths, values.shape[-1]), 0.0)
        samples = int(self.extractor.n_samples)
        # An exported graph has one length: the positions beyond the clip are masked.
        if not self.whole and not torch.compiler.is_compiling():
            # A position more than the longest clip has: the convolutions look into the silence that follows it.
            hop = 2 * self.extractor.hop_length
            samples = min(samples, hop * (-(-values.shape[-1] // hop) + 2))
        mel = spectra.whisper_log_mel(spectra.pad_or_cut(values, samples), self.extractor)
        if samples < self.extractor.n_samples:
            # The last frames hold sound that the transform reflected at the end.
            mel = mel[..., :-2]
        return mel.transpose(1, 2), self.state_frames(lengths, 0)

    def embed(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        mel = features.transpose(1, 2).to(self.base.conv1.weight.dtype)
        hidden = F.gelu(self.base.conv2(F.gelu(self.base.conv1(mel)))).transpose(1, 2)
        hidden = hidden + self.base.embed_positions.weight[: hidden.shape[1]]
        return F.dropout(hidden, self.base.dropout, self.base.training), frames.div(2, rounding_mode="floor")

    def context(self, hidden: Tensor, frames: Tensor) -> LayerContext:
        if self.whole:
            return {"attention_mask": None}
        hidden_frames = ~self.real(hidden, frames)[:, None, None, :]
        mask = torch.zeros_like(hidden_frames, dtype=hidden.dtype)
        return {"attention_mask": mask.masked_fill(hidden_frames, torch.finfo(hidden.dtype).min)}

    def real(self, hidden: Tensor, frames: Tensor) -> Tensor:
        return masking.real(frames, hidden.shape[1])

    def finish(self, hidden: Tensor) -> Tensor:
        return cast(Tensor, self.base.layer_norm(hidden))

    def pool(self, hidden: Tensor, frames: Tensor) -> Tensor:
        return hidden.mean(1, dtype=torch.float32)


class ASTEncoder:
    """A stock Audio Spectrogram Transformer. Its tokens are all patches, and two special ones, which are pooled."""

    lora_targets = ("q_proj", "v_proj")
    layerdrop = 0.0
    sums_final_output = False
    feature_encoder_name = None
    layers_name = "audio_spectrogram_transformer.layers"
    final_names = ("audio_spectrogram_transformer.layernorm",)

    def __init__(self, network: Any, extractor: Any, whole: bool = True) -> None:
        self.whole = whole
        self.config = network.config
        self.base = network.audio_spectrogram_transformer
        self.layers = self.base.layers
        self.extractor = extractor
        self.filters = spectra.ast_filters(extractor)

    def feature_size(self) -> int:
        return int(self.extractor.num_mel_bins)

    def feature_frames(self, samples: Tensor) -> Tensor:
        return torch.full_like(samples, self.extractor.max_length)

    def frames(self, samples: Tensor) -> Tensor:
        return torch.full_like(samples, self.base.embeddings.position_embeddings.shape[1])

    def state_frames(self, samples: Tensor, depth: int) -> Tensor:
        if self.whole:
            return self.frames(samples) if depth else self.feature_frames(samples)
        return spectra.kaldi_frames(samples.clamp_min(spectra.FRAME)).clamp_max(self.extractor.max_length)

    def features(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        values = spectra.pad_or_cut(values, spectra.padded_size(values.shape[-1], spectra.FRAME))
        mel = spectra.kaldi_log_mel(values, *self.filters)
        size = self.extractor.max_length
        mel = F.pad(mel, (0, 0, 0, size - mel.shape[1]))
        real_frames = spectra.kaldi_frames(lengths.clamp_min(spectra.FRAME))
        mel = mel.masked_fill(~masking.real(real_frames, size)[..., None], 0.0)
        if self.extractor.do_normalize:
            mel = (mel - self.extractor.mean) / (2.0 * self.extractor.std)
        return mel, self.state_frames(lengths, 0)

    def embed(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = self.base.embeddings
        dtype = embeddings.patch_embeddings.projection.weight.dtype
        return embeddings(features.to(dtype)), self.frames(frames) if self.whole else frames

    def real(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """Patches that lie in the clip's log-mel frames, the first at least; the two special tokens are none."""
        size, stride = self.config.patch_size, self.config.time_stride
        patches = 1 + (frames - size).clamp_min(0).div(stride, rounding_mode="floor")
        in_time = masking.real(patches, 1 + (self.extractor.max_length - size) // stride)
        bands = (hidden.shape[1] - 2) // in_time.shape[1]
        return F.pad(in_time.repeat(1, bands), (2, 0), value=False)

    def context(self, hidden: Tensor, frames: Tensor) -> LayerContext:
        return {"attention_mask": None}

    def finish(self, hidden: Tensor) -> Tensor:
        return cast(Tensor, self.base.layernorm(hidden))

    def pool(self, hidden: Tensor, frames: Tensor) -> Tensor:
        return (hidden[:, 0].float() + hidden[:, 1].float()) / 2.0
