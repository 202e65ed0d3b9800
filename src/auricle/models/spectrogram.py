"""What networks over spectrograms share: front end, augmentation, head, loss, and the ensemble member.

In: waveforms or precomputed features, their mask, labels. Out: logits and loss. A family subclasses the two classes,
and adds its layers and `encode`. Every layer works on real frames only, so a clip's logits do not depend on its batch.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from auricle.models.families import baseline
from auricle.models.families.baseline import network as baseline_network
from auricle.models.layers import augment, heads, masking
from auricle.models.layers.front_end import LogMel, MelSpectrogram, fit_statistics, front_end, passthrough_extractor
from auricle.models.options import HeadOptions, ModelSpec, PoolingKind
from auricle.recipe import Augment


@strict
class SpectrogramConfig(PreTrainedConfig):
    """The shared settings; labels are in id2label.

    sample_rate: hertz, or frames a second of precomputed features; channels: of the input; num_features: width of
    precomputed features, None for audio; n_mels: mel bands; n_fft, hop_length: samples; mel_floor: added to mel power
    before the logarithm; top_db: dynamic range in decibels; fixed_seconds: length to which every clip is cut or padded;
    dropout: a probability; pooling: over time; head: HeadOptions; ensemble_member: the config of the baseline whose
    log-probabilities are averaged with the network's; logit_temperature: divides the logits.
    """

    sample_rate: int = 16_000
    channels: int = 1
    num_features: int | None = None
    n_mels: int = 64
    n_fft: int = 1024
    hop_length: int = 512
    mel_floor: float = 1e-6
    top_db: float | None = None
    fixed_seconds: float | None = None
    dropout: float = 0.0
    pooling: PoolingKind = "mean"
    head: dict[str, Any] | None = None
    ensemble_member: dict[str, Any] | None = None
    logit_temperature: float = 1.0


class SpectrogramNetwork(PreTrainedModel):
    """A network from standardised features to logits. A subclass defines `encode`, makes its layers after
    `super().__init__`, and ends with `add_head`.
    """

    main_input_name = "input_values"
    ensemble_member: baseline_network.Model | None
    # Batches of any size are equally fast.
    batch_seconds: float | None = None

    def __init__(self, config: SpectrogramConfig, *, channels: int = 1) -> None:
        super().__init__(config)
        self.extractor = passthrough_extractor(config.sample_rate)
        self.front_end = front_end(config, channels=channels)
        self.augment = Augment()
        self.class_weights: Tensor | None = None
        self.label_smoothing = 0.0

    def add_head(self, embedding_size: int, dropout: float = 0.0) -> None:
        """Add the head and the ensemble member, and initialise all weights."""
        config = self.config
        self.dropout = nn.Dropout(dropout)
        self.head = heads.build_head(HeadOptions(**config.head or {}), embedding_size, config.num_labels)
        self.ensemble_member = None
        if config.ensemble_member:
            self.ensemble_member = baseline_network.Model(baseline_network.Config(**config.ensemble_member))
        self.post_init()

    def encode(self, values: Tensor, lengths: Tensor) -> Tensor:
        """From standardised (batch, channels, features, frames) of lengths (batch,) to embeddings (batch, size)."""
        raise NotImplementedError

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, MelSpectrogram | heads.MarginSoftmax):
            module.reset()

    @torch.no_grad()
    def fit_normalization(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Compute the front end's statistics from (input_values, attention_mask) batches of the training split."""

        self._fit_statistics(self._frames(*batch) for batch in batches)

    @torch.no_grad()
    def fit_normalization_to_rows(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """The same from (rows, frames) batches, as `forward` takes them."""
        self._fit_statistics(self._unpacked(*batch) for batch in batches)

    def _fit_statistics(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        fit_statistics(self.front_end, ((self.front_end.limit(values, real), real) for values, real in batches))

    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        rows: Tensor | None = None,
        frames: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Compute logits (batch, classes), and the loss where labels (batch,) are given.

        input_values (batch, samples) or (batch, channels, samples) in [-1, 1], or (batch, num_features, frames);
        attention_mask (batch, samples or frames), 1 on real ones. Or rows (batch, frames, width) int16 that
        `LogMel.pack` gave, of which frames (batch,) are real: then the logits are the network's alone.
        """
        targets = None
        if labels is not None:
            smoothing = self.label_smoothing if self.training else 0.0
            targets = heads.soft_targets(labels, self.config.num_labels, smoothing)
        if rows is not None and frames is not None:
            values, real = self._unpacked(rows, frames)
        else:
            assert input_values is not None, "a batch has waveforms, features or rows"
            values, real = self._frames(input_values, attention_mask)
        values, lengths, targets = self._features(values, real, targets)
        embeddings = self.encode(values, lengths)
        if self.training:
            logits = self.head(self.dropout(embeddings))
        elif input_values is None:
            logits = self.head(embeddings) / self.config.logit_temperature
        else:
            logits = self._with_member(embeddings, input_values, attention_mask)[0]
        loss = None
        if targets is not None:
            loss = self.head.loss(logits, targets, self.class_weights if self.training else None)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def embed(self, input_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        values, lengths, _ = self._features(*self._frames(input_values, attention_mask), None)
        return self.encode(values, lengths)

    def logits_and_vectors(self, input_values: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits, and vectors (batch, size) of length 1; network and fitted ensemble member weigh the same."""
        return self._with_member(self.embed(input_values, attention_mask), input_values, attention_mask)

    def _with_member(
        self, embeddings: Tensor, input_values: Tensor, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        logits, vectors = self.head(embeddings), F.normalize(embeddings.float(), dim=-1)
        if self.ensemble_member is not None and self.ensemble_member.config.n_support:
            member_logits, member_vectors = self.ensemble_member.logits_and_vectors(input_values, attention_mask)
            # The product rule of Kittler et al. 1998.
            logits = (logits.float().log_softmax(-1) + member_logits.log_softmax(-1)) / 2
            vectors = F.normalize(torch.cat([vectors, member_vectors], -1), dim=-1)
        return logits / self.config.logit_temperature, vectors

    def fit_ensemble_member(
        self, embeddings: np.ndarray, labels: np.ndarray, *, groups: np.ndarray | None, class_weighted: bool, seed: int
    ) -> None:
        """Fit the ensemble member, once the network is trained; arguments as `baseline`'s `fit`."""
        assert self.ensemble_member is not None, "the config has no ensemble member"
        self.ensemble_member.fit(embeddings, labels, groups=groups, class_weighted=class_weighted, seed=seed)
        self.config.ensemble_member = self.ensemble_member.config.to_dict()

    def apply_temperature(self, temperature: float) -> None:
        """Divide the logits of evaluation mode by a temperature; training does not use it."""
        self.config.logit_temperature = temperature

    def _frames(self, input_values: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log power or features (batch, channels, features, frames), and which frames are real; noisy in training."""
        lengths = masking.lengths(input_values, attention_mask)
        values = input_values[:, None] if input_values.dim() == 2 else input_values
        if not self.training and attention_mask is not None:
            # Training batches are padded with zeros; masking them costs a tenth of the small network's step.
            values = values * attention_mask[:, None].to(values.dtype)
        values = self.front_end.mix(values)
        if self.training and self.augment.noise_fraction:
            values = augment.noise(values, lengths, self.augment.noise_fraction, augment.step_generator())
        if self.fixed_samples is not None:
            # Negative padding cuts.
            values = F.pad(values, (0, self.fixed_samples - values.shape[-1]))
        real = self.front_end.real_frames(lengths, values.shape[-1])
        return self.front_end.extract(values, real), real

    def _unpacked(self, rows: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """What `_frames` gives, of rows."""
        assert isinstance(self.front_end, LogMel), "precomputed features are not packed"
        real = masking.real(frames, rows.shape[1])
        log = self.front_end.unpack(rows)
        if not bool(real.all()):
            log = torch.where(masking.unsqueezed(real, log), log, self.front_end.log_floor)
        if self.fixed_samples is not None:
            missing = (0, self.fixed_samples // self.front_end.mel.hop_length - rows.shape[1])
            log, real = F.pad(log, missing, value=self.front_end.log_floor), F.pad(real, missing)
        return log, real

    @property
    def fixed_samples(self) -> int | None:
        seconds = self.config.fixed_seconds
        return None if seconds is None else round(seconds * self.config.sample_rate)

    def _features(self, values: Tensor, real: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Standardised (batch, channels, features, frames), lengths and targets; augmented and mixed in training.

        Shift and gain act on frames, as they would on the waveform but for the two frames at a seam. A clip that is
        shorter than the fixed length begins anywhere in it.
        """
        generator = augment.step_generator() if self.training else None
        lengths = real.sum(1)
        room = torch.zeros_like(lengths)
        if self.fixed_samples is not None:
            room, real = real.shape[1] - lengths, torch.ones_like(real)
            lengths = lengths + room
        if generator is not None:
            values = augment.roll_frames(values, lengths, room, self.augment.shift_fraction, generator)
            if self.augment.gain_db:
                values = self.front_end.amplify(values, augment.gain_change(values, self.augment.gain_db, generator))
        values = self.front_end.standardize(values, real)
        if generator is not None:
            values = augment.spectrogram(values, lengths, self.augment, generator)
            if self.augment.mixup_alpha and targets is not None:
                values, targets, partners = augment.mixup(values, targets, self.augment.mixup_alpha, generator)
                lengths = torch.maximum(lengths, lengths[partners])
        return values, lengths, targets


def baseline_config(spec: ModelSpec) -> baseline_network.Config:
    """The config of an ensemble member."""
    return baseline_network.configure(baseline.Options(), spec)
