"""w2v-BERT 2.0: Kaldi's log-mel, two frames at a time, and conformer layers.

In: waveforms and lengths. Out: frames. The stock model masks correctly; the one difference is an odd last frame, of
which the stock model makes half a token that nothing attends to, and this class none.
"""

from typing import Any

from torch import Tensor
from transformers.masking_utils import create_bidirectional_mask

from auricle.models.encoders import spectra, wav2vec2
from auricle.models.encoders.wav2vec2 import LayerContext
from auricle.models.layers import masking


class ConformerEncoder:
    """A stock w2v-BERT. Its features are tokens of `stride` log-mel frames: (batch, tokens, mels * stride)."""

    lora_targets = ("linear_q", "linear_v")
    sums_final_output = False
    feature_encoder_name = None
    layers_name = "wav2vec2_bert.encoder.layers"
    final_names = ("wav2vec2_bert.intermediate_ffn",)

    def __init__(self, network: Any, extractor: Any) -> None:
        self.base = network.wav2vec2_bert
        self.layers = self.base.encoder.layers
        self.config = network.config
        self.extractor = extractor
        self.layerdrop = float(self.config.layerdrop)
        # Two frames are one token; the variance of a single frame is undefined.
        self.min_samples = spectra.FRAME + spectra.HOP * (extractor.stride - 1)

    def feature_size(self) -> int:
        return int(self.extractor.num_mel_bins * self.extractor.stride)

    def feature_frames(self, samples: Tensor) -> Tensor:
        frames = spectra.kaldi_frames(samples.clamp_min(self.min_samples))
        return frames.div(self.extractor.stride, rounding_mode="floor")

    frames = feature_frames

    def state_frames(self, samples: Tensor, depth: int) -> Tensor:
        return self.frames(samples)

    def features(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        lengths = lengths.clamp_min(self.min_samples)
        values = spectra.pad_or_cut(values, spectra.padded_size(values.shape[-1], self.min_samples))
        # Kaldi's full scale is that of 16-bit samples.
        mel = spectra.kaldi_log_mel(values, self.extractor.window, self.extractor.mel_filters, scale=2.0**15)
        mel = spectra.normalize_bins(mel, spectra.kaldi_frames(lengths))
        stride = self.extractor.stride
        frames = mel.shape[1] // stride * stride
        return mel[:, :frames].reshape(mel.shape[0], -1, stride * mel.shape[-1]), self.feature_frames(lengths)

    def embed(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        projection = self.base.feature_projection
        hidden, _ = projection(features.to(projection.projection.weight.dtype))
        return self.base.encoder.dropout(
            wav2vec2.masked(hidden, masking.real(frames, hidden.shape[1]), self.base)
        ), frames

    def context(self, hidden: Tensor, frames: Tensor) -> LayerContext:
        encoder = self.base.encoder
        real = masking.real(frames, hidden.shape[1])
        mask = create_bidirectional_mask(config=encoder.config, inputs_embeds=hidden, attention_mask=real)
        positions = encoder.embed_positions(hidden) if encoder.embed_positions is not None else None
        return {"attention_mask": mask, "relative_position_embeddings": positions, "conv_attention_mask": real}

    def real(self, hidden: Tensor, frames: Tensor) -> Tensor:
        return masking.real(frames, hidden.shape[1])

    def finish(self, hidden: Tensor) -> Tensor:
        feed_forward = getattr(self.base, "intermediate_ffn", None)
        return hidden if feed_forward is None else hidden + 0.5 * feed_forward(hidden)

    pool = staticmethod(wav2vec2.masked_mean)
