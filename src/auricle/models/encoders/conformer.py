"""w2v-BERT 2.0: Kaldi's log-mel, two frames at a time, and conformer layers.

In: waveforms and lengths. Out: frames. The stock model masks well; what differs is that an odd last frame, which alone
gives half a token that nothing attends to, gives none here.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask

from auricle.models.encoders import spectra, wav2vec2
from auricle.models.layers import masking


class Conformer:
    """How a stock w2v-BERT is run in parts; see the package for what each part takes and gives."""

    lora_targets = ("linear_q", "linear_v")
    sums_last = False
    front_name = None
    layers_name = "wav2vec2_bert.encoder.layers"
    ending_names = ("wav2vec2_bert.intermediate_ffn",)

    def __init__(self, network: Any, extractor: Any) -> None:
        self.network = network
        self.base = network.wav2vec2_bert
        self.config = network.config
        self.extractor = extractor
        self.layerdrop = float(self.config.layerdrop)
        # Two frames are one token; the variance of a single frame would be undefined.
        self.least_samples = spectra.FRAME + spectra.HOP * (extractor.stride - 1)

    @staticmethod
    def longest(extractor: Any) -> int | None:
        """The most samples that a clip may have: any number."""
        return None

    @property
    def layers(self) -> nn.ModuleList:
        found: nn.ModuleList = self.base.encoder.layers
        return found

    def feature_width(self) -> int:
        return int(self.extractor.num_mel_bins * self.extractor.stride)

    def feature_frames(self, samples: Tensor) -> Tensor:
        """Count the tokens in so many samples."""
        frames = spectra.kaldi_frames(samples.clamp_min(self.least_samples))
        return frames.div(self.extractor.stride, rounding_mode="floor")

    def frames(self, samples: Tensor) -> Tensor:
        """Count the frames that the conformer sees."""
        return self.feature_frames(samples)

    def features(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute log-mel tokens: (batch, samples) → (batch, tokens, mels * stride), and the real tokens of each."""
        lengths = lengths.clamp_min(self.least_samples)
        values = spectra.fixed(values, spectra.enough(values.shape[-1], self.least_samples))
        # Kaldi counts in 16-bit steps.
        mel = spectra.kaldi(values, self.extractor, scale=2.0**15)
        mel = spectra.per_bin(mel, spectra.kaldi_frames(lengths))
        stride = self.extractor.stride
        whole = mel.shape[1] // stride * stride
        return mel[:, :whole].reshape(mel.shape[0], -1, stride * mel.shape[-1]), self.feature_frames(lengths)

    def embed(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Project the tokens: (batch, tokens, mels * stride) → (batch, tokens, width)."""
        projection = self.base.feature_projection
        hidden, _ = projection(features.to(projection.projection.weight.dtype))
        real = masking.real(frames, hidden.shape[1])
        if self.base.training and getattr(self.config, "apply_spec_augment", True):
            hidden = wav2vec2.hidden_spans(hidden, real, self.base)
        return self.base.encoder.dropout(hidden.masked_fill(~real[..., None], 0.0)), frames

    def context(self, hidden: Tensor, frames: Tensor) -> dict[str, Any]:
        """What every layer is told beside its input: masks for attention and convolution, and positions."""
        encoder = self.base.encoder
        real = masking.real(frames, hidden.shape[1])
        mask = create_bidirectional_mask(config=encoder.config, inputs_embeds=hidden, attention_mask=real)
        positions = encoder.embed_positions(hidden) if encoder.embed_positions is not None else None
        return {"attention_mask": mask, "relative_position_embeddings": positions, "conv_attention_mask": real}

    def layer(self, number: int, hidden: Tensor, context: dict[str, Any]) -> Tensor:
        """Run one conformer layer: (batch, tokens, width) → the same."""
        given: Tensor = self.layers[number](hidden, **context)
        return given

    def last(self, hidden: Tensor) -> Tensor:
        """Finish the encoder after its last layer."""
        between = getattr(self.base, "intermediate_ffn", None)
        return hidden if between is None else hidden + 0.5 * between(hidden)

    def to_bf16(self) -> None:
        """Turn the weights into bfloat16 for answering."""
        self.network.to(torch.bfloat16)

    def summary(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """Average over the real tokens: (batch, tokens, width) → (batch, width) float32."""
        return wav2vec2.mean(hidden, frames)

    def classify(self, vector: Tensor) -> Tensor:
        """From the pooled vector (batch, width) to logits."""
        return wav2vec2.projected(self.network, vector)
