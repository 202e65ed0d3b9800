"""Encoders of a fixed length: Whisper's, of 30 seconds, and the Audio Spectrogram Transformer, of ten.

In: waveforms no longer than that. Out: frames. Every clip is padded to the same length in any batch, so padding cannot
differ; longer clips are cut into windows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auricle.models.encoders import spectra, wav2vec2
from auricle.models.encoders.wav2vec2 import LayerContext
from auricle.models.layers import masking


class WhisperEncoder:
    """A stock Whisper classifier; the package describes the methods."""

    lora_targets = ("q_proj", "v_proj")
    min_samples = 1
    # transformers returns the normalised output in place of the last layer's.
    sums_final_output = True
    feature_encoder_name = None
    layers_name = "encoder.layers"
    final_names = ("encoder.layer_norm",)

    def __init__(self, network: Any, extractor: Any) -> None:
        self.network = network
        self.base = network.encoder
        self.extractor = extractor
        self.layerdrop = float(self.base.layerdrop)

    @staticmethod
    def max_samples(extractor: Any) -> int | None:
        """The maximum length of a clip: Whisper's 30 seconds, or its extractor's setting."""
        return int(extractor.n_samples)

    @property
    def layers(self) -> nn.ModuleList:
        layers: nn.ModuleList = self.base.layers
        return layers

    def feature_size(self) -> int:
        return int(self.extractor.feature_size)

    def feature_frames(self, samples: Tensor) -> Tensor:
        """The number of log-mel frames: always the same."""
        return torch.full_like(samples, self.extractor.nb_max_frames)

    def frames(self, samples: Tensor) -> Tensor:
        """The number of frames in the transformer: always the same."""
        return torch.full_like(samples, self.base.max_source_positions)

    def features(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute log-mel: (batch, samples) → (batch, frames, mels), all of them real."""
        values = values.masked_fill(~masking.real(lengths, values.shape[-1]), 0.0)
        mel = spectra.whisper_log_mel(spectra.pad_or_cut(values, self.extractor.n_samples), self.extractor)
        return mel.transpose(1, 2), self.feature_frames(lengths)

    def embed(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Run the two convolutions and add the positions: (batch, frames, mels) → (batch, frames / 2, size)."""
        mel = features.transpose(1, 2).to(self.base.conv1.weight.dtype)
        hidden = F.gelu(self.base.conv2(F.gelu(self.base.conv1(mel)))).transpose(1, 2)
        hidden = hidden + self.base.embed_positions.weight
        return F.dropout(hidden, self.base.dropout, self.base.training), self.frames(frames)

    def context(self, hidden: Tensor, frames: Tensor) -> LayerContext:
        """What every layer takes in addition to its input."""
        return {"attention_mask": None}

    def layer(self, number: int, hidden: Tensor, context: LayerContext) -> Tensor:
        """Run one transformer layer: (batch, frames, size) → the same."""
        output: Tensor = self.layers[number](hidden, **context)
        return output

    def finish(self, hidden: Tensor) -> Tensor:
        """Run what follows the last layer."""
        output: Tensor = self.base.layer_norm(hidden)
        return output

    def to_bf16(self) -> None:
        """Convert the weights to bfloat16 for inference."""
        self.network.to(torch.bfloat16)

    def pool(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """Average over the frames: (batch, frames, size) → (batch, size) float32."""
        return hidden.mean(1, dtype=torch.float32)

    def classify(self, vector: Tensor) -> Tensor:
        """From the pooled vector (batch, size) to logits."""
        return wav2vec2.project_and_classify(self.network, vector)


class ASTEncoder:
    """A stock Audio Spectrogram Transformer; the package describes the methods."""

    lora_targets = ("q_proj", "v_proj")
    min_samples = spectra.FRAME
    layerdrop = 0.0
    sums_final_output = False
    feature_encoder_name = None
    layers_name = "audio_spectrogram_transformer.layers"
    final_names = ("audio_spectrogram_transformer.layernorm",)

    def __init__(self, network: Any, extractor: Any) -> None:
        self.network = network
        self.base = network.audio_spectrogram_transformer
        self.extractor = extractor
        self.filters = spectra.ast_filters(extractor)

    @staticmethod
    def max_samples(extractor: Any) -> int | None:
        """The maximum length of a clip: the samples of all frames."""
        return int(spectra.FRAME + spectra.HOP * (extractor.max_length - 1))

    @property
    def layers(self) -> nn.ModuleList:
        layers: nn.ModuleList = self.base.layers
        return layers

    def feature_size(self) -> int:
        return int(self.extractor.num_mel_bins)

    def feature_frames(self, samples: Tensor) -> Tensor:
        """The number of log-mel frames: always the same."""
        return torch.full_like(samples, self.extractor.max_length)

    def frames(self, samples: Tensor) -> Tensor:
        """The number of tokens in the transformer: all patches, and two special ones."""
        return torch.full_like(samples, self.base.embeddings.position_embeddings.shape[1])

    def features(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute log-mel as the extractor does: (batch, samples) → (batch, max_length, mels), zeros after the clip."""
        values = spectra.pad_or_cut(values, spectra.padded_size(values.shape[-1], self.min_samples))
        mel = spectra.kaldi_log_mel(values, *self.filters)
        size = self.extractor.max_length
        mel = F.pad(mel, (0, 0, 0, size - mel.shape[1]))
        real_frames = spectra.kaldi_frames(lengths.clamp_min(self.min_samples))
        mel = mel.masked_fill(~masking.real(real_frames, size)[..., None], 0.0)
        if self.extractor.do_normalize:
            mel = (mel - self.extractor.mean) / (2.0 * self.extractor.std)
        return mel, self.feature_frames(lengths)

    def embed(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Cut into patches and add the positions: (batch, max_length, mels) → (batch, tokens, size)."""
        embeddings = self.base.embeddings
        dtype = embeddings.patch_embeddings.projection.weight.dtype
        return embeddings(features.to(dtype)), self.frames(frames)

    def context(self, hidden: Tensor, frames: Tensor) -> LayerContext:
        """What every layer takes in addition to its input."""
        return {"attention_mask": None}

    def layer(self, number: int, hidden: Tensor, context: LayerContext) -> Tensor:
        """Run one transformer layer: (batch, tokens, size) → the same."""
        output: Tensor = self.layers[number](hidden, **context)
        return output

    def finish(self, hidden: Tensor) -> Tensor:
        """Run what follows the last layer."""
        output: Tensor = self.base.layernorm(hidden)
        return output

    def to_bf16(self) -> None:
        """Convert the weights to bfloat16 for inference."""
        self.network.to(torch.bfloat16)

    def pool(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """Average the two special tokens: (batch, tokens, size) → (batch, size) float32."""
        return (hidden[:, 0].float() + hidden[:, 1].float()) / 2.0

    def classify(self, vector: Tensor) -> Tensor:
        """From the clip's vector (batch, size) to logits."""
        logits: Tensor = self.network.classifier(vector.to(self.network.classifier.dense.weight.dtype))
        return logits
