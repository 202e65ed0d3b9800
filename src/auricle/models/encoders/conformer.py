"""w2v-BERT 2.0: Kaldi's log-mel, two frames at a time, and conformer layers.

In: waveforms and lengths. Out: frames. The stock model masks correctly; the one difference is an odd last frame, of
which the stock model makes half a token that nothing attends to, and this class none.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask

from auricle.models.encoders import spectra, wav2vec2
from auricle.models.encoders.wav2vec2 import LayerContext
from auricle.models.layers import masking


class ConformerEncoder:
    """A stock w2v-BERT; the package describes the methods."""

    lora_targets = ("linear_q", "linear_v")
    sums_final_output = False
    feature_encoder_name = None
    layers_name = "wav2vec2_bert.encoder.layers"
    final_names = ("wav2vec2_bert.intermediate_ffn",)

    def __init__(self, network: Any, extractor: Any) -> None:
        self.network = network
        self.base = network.wav2vec2_bert
        self.config = network.config
        self.extractor = extractor
        self.layerdrop = float(self.config.layerdrop)
        # Two frames are one token; the variance of a single frame is undefined.
        self.min_samples = spectra.FRAME + spectra.HOP * (extractor.stride - 1)

    @staticmethod
    def max_samples(extractor: Any) -> int | None:
        """A clip may have any number of samples."""
        return None

    @property
    def layers(self) -> nn.ModuleList:
        layers: nn.ModuleList = self.base.encoder.layers
        return layers

    def feature_size(self) -> int:
        return int(self.extractor.num_mel_bins * self.extractor.stride)

    def feature_frames(self, samples: Tensor) -> Tensor:
        """The number of tokens of so many samples."""
        frames = spectra.kaldi_frames(samples.clamp_min(self.min_samples))
        return frames.div(self.extractor.stride, rounding_mode="floor")

    def frames(self, samples: Tensor) -> Tensor:
        """The number of frames in the conformer."""
        return self.feature_frames(samples)

    def features(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute log-mel tokens: (batch, samples) → (batch, tokens, mels * stride), and the real tokens of each."""
        lengths = lengths.clamp_min(self.min_samples)
        values = spectra.pad_or_cut(values, spectra.padded_size(values.shape[-1], self.min_samples))
        # Kaldi's full scale is that of 16-bit samples.
        mel = spectra.kaldi_log_mel(values, self.extractor.window, self.extractor.mel_filters, scale=2.0**15)
        mel = spectra.normalize_bins(mel, spectra.kaldi_frames(lengths))
        stride = self.extractor.stride
        frames = mel.shape[1] // stride * stride
        return mel[:, :frames].reshape(mel.shape[0], -1, stride * mel.shape[-1]), self.feature_frames(lengths)

    def embed(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Project the tokens: (batch, tokens, mels * stride) → (batch, tokens, size)."""
        projection = self.base.feature_projection
        hidden, _ = projection(features.to(projection.projection.weight.dtype))
        real = masking.real(frames, hidden.shape[1])
        if self.base.training and getattr(self.config, "apply_spec_augment", True):
            hidden = wav2vec2.mask_spans(hidden, real, self.base)
        return self.base.encoder.dropout(hidden.masked_fill(~real[..., None], 0.0)), frames

    def context(self, hidden: Tensor, frames: Tensor) -> LayerContext:
        """What every layer takes in addition to its input: masks for attention and convolution, and positions."""
        encoder = self.base.encoder
        real = masking.real(frames, hidden.shape[1])
        mask = create_bidirectional_mask(config=encoder.config, inputs_embeds=hidden, attention_mask=real)
        positions = encoder.embed_positions(hidden) if encoder.embed_positions is not None else None
        return {"attention_mask": mask, "relative_position_embeddings": positions, "conv_attention_mask": real}

    def layer(self, number: int, hidden: Tensor, context: LayerContext) -> Tensor:
        """Run one conformer layer: (batch, tokens, size) → the same."""
        output: Tensor = self.layers[number](hidden, **context)
        return output

    def finish(self, hidden: Tensor) -> Tensor:
        """Run what follows the last layer."""
        feed_forward = getattr(self.base, "intermediate_ffn", None)
        return hidden if feed_forward is None else hidden + 0.5 * feed_forward(hidden)

    def to_bf16(self) -> None:
        """Convert the weights to bfloat16 for inference."""
        self.network.to(torch.bfloat16)

    def pool(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """Average over the real tokens: (batch, tokens, size) → (batch, size) float32."""
        return wav2vec2.masked_mean(hidden, frames)

    def classify(self, vector: Tensor) -> Tensor:
        """From the pooled vector (batch, size) to logits."""
        return wav2vec2.project_and_classify(self.network, vector)
