"""Encoders of a fixed length: Whisper's, of 30 seconds, and the Audio Spectrogram Transformer, of ten.

In: waveforms no longer than that. Out: frames. Each clip is filled up to the same length, whatever its batch, so there
is no padding that could differ; longer clips go through in windows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auricle.models.encoders import spectra, wav2vec2
from auricle.models.layers import masking


class Whisper:
    """How a stock Whisper classifier is run in parts; see the package for what each part takes and gives."""

    lora_targets = ("q_proj", "v_proj")
    least_samples = 1
    # transformers puts the finished frames in the place of the last layer's.
    sums_last = True
    front_name = None
    layers_name = "encoder.layers"
    ending_names = ("encoder.layer_norm",)

    def __init__(self, network: Any, extractor: Any) -> None:
        self.network = network
        self.base = network.encoder
        self.extractor = extractor
        self.layerdrop = float(self.base.layerdrop)

    @staticmethod
    def longest(extractor: Any) -> int | None:
        """The most samples that a clip may have: Whisper's 30 seconds, or what its extractor says."""
        return int(extractor.n_samples)

    @property
    def layers(self) -> nn.ModuleList:
        found: nn.ModuleList = self.base.layers
        return found

    def feature_width(self) -> int:
        return int(self.extractor.feature_size)

    def feature_frames(self, samples: Tensor) -> Tensor:
        """Count the log-mel frames: always the same."""
        return torch.full_like(samples, self.extractor.nb_max_frames)

    def frames(self, samples: Tensor) -> Tensor:
        """Count the frames that the transformer sees: always the same."""
        return torch.full_like(samples, self.base.max_source_positions)

    def features(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute log-mel: (batch, samples) → (batch, frames, mels), all of them real."""
        values = values.masked_fill(~masking.real(lengths, values.shape[-1]), 0.0)
        mel = spectra.whisper(spectra.fixed(values, self.extractor.n_samples), self.extractor)
        return mel.transpose(1, 2), self.feature_frames(lengths)

    def embed(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Run the two convolutions and add the positions: (batch, frames, mels) → (batch, frames / 2, width)."""
        mel = features.transpose(1, 2).to(self.base.conv1.weight.dtype)
        hidden = F.gelu(self.base.conv2(F.gelu(self.base.conv1(mel)))).transpose(1, 2)
        hidden = hidden + self.base.embed_positions.weight
        return F.dropout(hidden, self.base.dropout, self.base.training), self.frames(frames)

    def context(self, hidden: Tensor, frames: Tensor) -> dict[str, Any]:
        """What every layer is told beside its input."""
        return {"attention_mask": None}

    def layer(self, number: int, hidden: Tensor, context: dict[str, Any]) -> Tensor:
        """Run one transformer layer: (batch, frames, width) → the same."""
        given: Tensor = self.layers[number](hidden, **context)
        return given

    def last(self, hidden: Tensor) -> Tensor:
        """Finish the encoder after its last layer."""
        finished: Tensor = self.base.layer_norm(hidden)
        return finished

    def to_bf16(self) -> None:
        """Turn the weights into bfloat16 for answering."""
        self.network.to(torch.bfloat16)

    def summary(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """Average over the frames: (batch, frames, width) → (batch, width) float32."""
        return hidden.mean(1, dtype=torch.float32)

    def classify(self, vector: Tensor) -> Tensor:
        """From the pooled vector (batch, width) to logits."""
        return wav2vec2.projected(self.network, vector)


class Patches:
    """How a stock Audio Spectrogram Transformer is run in parts; see the package for what each part takes and gives."""

    lora_targets = ("q_proj", "v_proj")
    least_samples = spectra.FRAME
    layerdrop = 0.0
    sums_last = False
    front_name = None
    layers_name = "audio_spectrogram_transformer.layers"
    ending_names = ("audio_spectrogram_transformer.layernorm",)

    def __init__(self, network: Any, extractor: Any) -> None:
        self.network = network
        self.base = network.audio_spectrogram_transformer
        self.extractor = extractor

    @staticmethod
    def longest(extractor: Any) -> int | None:
        """The most samples that a clip may have: those of its frames."""
        return int(spectra.FRAME + spectra.HOP * (extractor.max_length - 1))

    @property
    def layers(self) -> nn.ModuleList:
        found: nn.ModuleList = self.base.layers
        return found

    def feature_width(self) -> int:
        return int(self.extractor.num_mel_bins)

    def feature_frames(self, samples: Tensor) -> Tensor:
        """Count the log-mel frames: always the same."""
        return torch.full_like(samples, self.extractor.max_length)

    def frames(self, samples: Tensor) -> Tensor:
        """Count the tokens that the transformer sees: all patches, and two of its own."""
        return torch.full_like(samples, self.base.embeddings.position_embeddings.shape[1])

    def features(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute log-mel as the extractor does: (batch, samples) → (batch, max_length, mels), zeros after the clip."""
        values = spectra.fixed(values, spectra.enough(values.shape[-1], self.least_samples))
        mel = spectra.kaldi(values, self.extractor)
        size = self.extractor.max_length
        mel = F.pad(mel, (0, 0, 0, size - mel.shape[1]))
        heard = spectra.kaldi_frames(lengths.clamp_min(self.least_samples))
        mel = mel.masked_fill(~masking.real(heard, size)[..., None], 0.0)
        if self.extractor.do_normalize:
            mel = (mel - self.extractor.mean) / (2.0 * self.extractor.std)
        return mel, self.feature_frames(lengths)

    def embed(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Cut into patches and add the positions: (batch, max_length, mels) → (batch, tokens, width)."""
        embeddings = self.base.embeddings
        dtype = embeddings.patch_embeddings.projection.weight.dtype
        return embeddings(features.to(dtype)), self.frames(frames)

    def context(self, hidden: Tensor, frames: Tensor) -> dict[str, Any]:
        """What every layer is told beside its input."""
        return {"attention_mask": None}

    def layer(self, number: int, hidden: Tensor, context: dict[str, Any]) -> Tensor:
        """Run one transformer layer: (batch, tokens, width) → the same."""
        given: Tensor = self.layers[number](hidden, **context)
        return given

    def last(self, hidden: Tensor) -> Tensor:
        """Finish the encoder after its last layer."""
        finished: Tensor = self.base.layernorm(hidden)
        return finished

    def to_bf16(self) -> None:
        """Turn the weights into bfloat16 for answering."""
        self.network.to(torch.bfloat16)

    def summary(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """Take the mean of the two tokens that stand for the clip: (batch, tokens, width) → (batch, width) float32."""
        return (hidden[:, 0].float() + hidden[:, 1].float()) / 2.0

    def classify(self, vector: Tensor) -> Tensor:
        """From the clip's vector (batch, width) to logits."""
        logits: Tensor = self.network.classifier(vector.to(self.network.classifier.dense.weight.dtype))
        return logits
