"""Attention and convolution over log-mel frames: the `conformer` family, in three sizes.

In: waveforms, or frames that a corpus brings along, their mask, labels. Out: logits and loss. `tutorial` and
`reference` are the two networks that speakers are told apart by in the reference; `default` looks at a quarter of the
frames, which is what makes it fast on two cores. Every layer knows the real frames alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pydantic
import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, Wav2Vec2FeatureExtractor
from transformers.modeling_outputs import SequenceClassifierOutput

from auricle.models.families import baseline
from auricle.models.features.descriptors import Descriptors
from auricle.models.layers import augment, heads, masking, pooling
from auricle.models.layers.blocks import ConformerBlock, Thinning, TransformerBlock, places, thinned
from auricle.models.layers.front_end import LogMel, MelSpectrogram, PrecomputedFeatures, waveforms_as_they_are
from auricle.models.layers.heads import Head
from auricle.models.layers.masked_batch_norm import BatchNorm
from auricle.models.layers.pooling import Pooling, PoolingKind
from auricle.recipe import Augment

HOP_SECONDS, FRAME_SECONDS = 0.010, 0.025

TRAINING = "gradient"
TAKES_FEATURES = True


class Options(pydantic.BaseModel):
    """What a recipe may say beside `family: conformer`. `pooling` and `head` are the size's own where they are null."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    size: Literal["default", "tutorial", "reference"] = "default"
    ensemble_baseline: bool = True
    pooling: PoolingKind | None = None
    head: Head | None = None


@strict
class Config(PreTrainedConfig):
    """Everything needed to build the network: input, mel settings, shape; labels as transformers keeps them."""

    model_type = "auricle-conformer"

    sample_rate: int = 16_000
    channels: int = 1
    num_features: int | None = None
    n_mels: int = 40
    n_fft: int = 512
    hop_length: int = 160
    floor: float = 1e-6
    block: Literal["conformer", "transformer"] = "conformer"
    thin: int | None = None
    width: int = 144
    blocks: int = 4
    heads: int = 4
    head_width: int = 36
    inner: int = 576
    expansion: int = 1
    kernel: int = 15
    dropout: float = 0.1
    hidden: int | None = None
    pooling: PoolingKind = "statistics"
    head: dict[str, Any] | None = None
    ensemble_member: dict[str, Any] | None = None
    logit_temperature: float = 1.0


# S3's two networks as its text describes them, and ours.
SIZES: dict[str, dict[str, Any]] = {
    "default": {"thin": 32},
    "tutorial": {
        "block": "transformer",
        "width": 80,
        "blocks": 1,
        "heads": 2,
        "head_width": 40,
        "inner": 256,
        "hidden": 80,
        "pooling": "mean",
    },
    "reference": {
        "width": 512,
        "blocks": 6,
        "heads": 8,
        "head_width": 64,
        "inner": 2048,
        "expansion": 2,
        "pooling": "attention",
    },
}
HEADS = {
    "default": Head(kind="am-softmax", margin=0.2, scale=30.0, warmup=0.3),
    "tutorial": Head(),
    "reference": Head(kind="am-softmax", margin=0.3, scale=15.0),
}


def configure(
    options: Options, *, sample_rate: int, channels: int, labels: Sequence[str], num_features: int | None = None
) -> Config:
    """Make the config of one size for one corpus; `bands` is the width of frames that stand for sound."""
    size = dict(SIZES[options.size])
    size["pooling"] = options.pooling or size.get("pooling", "statistics")
    ensemble_member = None
    if options.ensemble_baseline and options.size == "default":
        given = {} if num_features is None else {"num_features": num_features}
        ensemble_member = baseline.configure(
            baseline.Options(), sample_rate=sample_rate, channels=channels, labels=labels, **given
        ).to_dict()
    hop_length = max(1, round(HOP_SECONDS * sample_rate))
    return Config(
        sample_rate=sample_rate,
        channels=channels,
        num_features=num_features,
        hop_length=hop_length,
        # 25 ms or a little more: powers of two transform fast.
        n_fft=1 << (round(FRAME_SECONDS * sample_rate) - 1).bit_length(),
        head=(options.head or HEADS[options.size]).model_dump(),
        ensemble_member=ensemble_member,
        id2label=dict(enumerate(labels)),
        label2id={label: at for at, label in enumerate(labels)},
        **size,
    )


def build(
    options: Options, *, sample_rate: int, channels: int, labels: Sequence[str], num_features: int | None = None
) -> "Model":
    """Make a fresh model of one size for one corpus."""
    return Model(
        configure(options, sample_rate=sample_rate, channels=channels, labels=labels, num_features=num_features)
    )


class Model(PreTrainedModel):
    """Standardised frames, a front, blocks, pooling over real frames, a head."""

    config_class = Config
    main_input_name = "input_values"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        num_features = config.num_features or config.n_mels
        self.front_end: PrecomputedFeatures | LogMel
        if config.num_features:
            self.front_end = PrecomputedFeatures(num_features)
        else:
            mel = MelSpectrogram(config.sample_rate, config.n_fft, config.hop_length, num_features)
            self.front_end = LogMel(mel, config.floor)
        self.front = (
            Thinning(num_features, config.width, config.thin) if config.thin else nn.Linear(num_features, config.width)
        )
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.blocks))
        self.pooling = Pooling(config.pooling, config.width)
        pooled = pooling.width(config.pooling, config.width)
        self.hidden = nn.Linear(pooled, config.hidden) if config.hidden else None
        self.head = heads.make(Head(**config.head or {}), config.hidden or pooled, config.num_labels)
        self.ensemble_member = (
            baseline.Model(baseline.Config(**config.ensemble_member)) if config.ensemble_member else None
        )
        self.augment = Augment()
        self.class_weights: Tensor | None = None
        self.label_smoothing = 0.0
        self.post_init()

    @property
    def extractor(self) -> Wav2Vec2FeatureExtractor:
        """What a stock pipeline needs to know of the input: its rate; the front end does the rest."""
        return waveforms_as_they_are(self.config.sample_rate)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, MelSpectrogram | Descriptors | heads.MarginSoftmax):
            module.reset()
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            nn.init.xavier_uniform_(module.in_proj_weight)
            nn.init.zeros_(module.in_proj_bias)
        elif isinstance(module, BatchNorm | nn.LayerNorm):
            module.reset_parameters()

    @torch.no_grad()
    def fit_normalization(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Set the front end's statistics from the training split: (input_values, attention_mask) batches."""

        def heard() -> Iterator[tuple[Tensor, Tensor]]:
            for input_values, attention_mask in batches:
                waveform, lengths = self._waveform(input_values, attention_mask)
                yield waveform, self._real(lengths, waveform.shape[-1])

        self.front_end.fit_normalization(heard())

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Give logits, and the loss where labels are given.

        input_values (batch, samples) or (batch, channels, samples) in [-1, 1], channels averaged, or, where the config
        has bands, (batch, bands, frames); attention_mask (batch, samples or frames), 1 on real ones; labels (batch,)
        class numbers. Logits are (batch, classes).
        """
        targets = None
        if labels is not None:
            smoothing = self.label_smoothing if self.training else 0.0
            targets = heads.soft_targets(labels, self.config.num_labels, smoothing)
        values, lengths, targets = self._frames(input_values, attention_mask, targets)
        pooled = self._pool(values, lengths)
        if self.training:
            logits = self.head(pooled)
        else:
            logits = self.judge(pooled, self._functionals(input_values, attention_mask))
        loss = None
        if targets is not None:
            loss = self.head.loss(logits, targets, self.class_weights if self.training else None)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def fit_ensemble_member(self, embeddings: np.ndarray, labels: np.ndarray, **how: Any) -> None:
        """Fit the functionals' machine, once the network is trained: arguments as `baseline.Model.solve` takes them."""
        assert self.ensemble_member is not None, "only a model with functionals beside its network has a machine to fit"
        self.ensemble_member.solve(embeddings, labels, **how)
        self.config.ensemble_member = self.ensemble_member.config.to_dict()

    def apply_temperature(self, temperature: float) -> None:
        """Divide the logits of every answer by a temperature; training goes on without it."""
        self.config.logit_temperature = temperature

    def _functionals(self, input_values: Tensor, attention_mask: Tensor | None) -> Tensor | None:
        """What the machine beside the network judges by; None where there is no solved one."""
        if self.ensemble_member is None or not self.ensemble_member.is_fitted:
            return None
        return self.ensemble_member.embed(input_values, attention_mask)

    def judge(self, embeddings: Tensor, theirs: Tensor | None = None) -> Tensor:
        """Give the logits of an answer from what `embed` gives, of the network and of a solved machine beside it."""
        logits = self.head(embeddings)
        if theirs is not None:
            assert self.ensemble_member is not None, "only a machine has such vectors"
            logits = heads.joined(logits, self.ensemble_member.judge(theirs))
        tempered: Tensor = logits / self.config.logit_temperature
        return tempered

    def embed(self, input_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Give the vector that the head sees: (batch, width)."""
        values, lengths, _ = self._frames(input_values, attention_mask, None)
        return self._pool(values, lengths)

    def _pool(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Run the blocks and pool: (batch, bands, frames) of lengths (batch,) → (batch, width)."""
        if self.config.thin:
            values, lengths = self.front(values, lengths), thinned(lengths)
        else:
            values = self.front(values.transpose(1, 2))
        at = places(lengths, values.shape[1], self.config.head_width)
        for block in self.blocks:
            values = block(values, at)
        pooled: Tensor = self.pooling(values.transpose(1, 2), masking.real(lengths, values.shape[1]))
        return pooled if self.hidden is None else self.hidden(pooled).relu()

    def _frames(
        self, input_values: Tensor, attention_mask: Tensor | None, targets: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Give standardised frames (batch, bands, frames), lengths and targets: augmented and mixed in training."""
        waveform, lengths = self._waveform(input_values, attention_mask)
        # In training, from the global generator, which is seeded at every step: resuming is exact.
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ()))) if self.training else None
        if generator is not None:
            waveform = augment.waveform(waveform, lengths, self.augment, generator)
        real = self._real(lengths, waveform.shape[-1])
        values = self.front_end(waveform if self.config.num_features else waveform[:, 0], real)
        counts = real.sum(1)
        if generator is not None:
            values = augment.spectrogram(values[:, None], counts, self.augment, generator)[:, 0]
            if self.augment.mixup_alpha and targets is not None:
                values, targets, partners = augment.mixup(values, targets, self.augment.mixup_alpha, generator)
                counts = torch.maximum(counts, counts[partners])
        return values, counts, targets

    def _waveform(self, input_values: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Bring input to (batch, 1 or bands, samples or frames), zero beyond each clip, with lengths (batch,)."""
        lengths = masking.lengths(input_values, attention_mask)
        waveform = input_values[:, None] if input_values.dim() == 2 else input_values
        if attention_mask is not None:
            waveform = waveform * attention_mask[:, None].to(waveform.dtype)
        if self.config.num_features is None and waveform.shape[1] > 1:
            waveform = waveform.mean(1, keepdim=True)
        return waveform, lengths

    def _real(self, lengths: Tensor, samples: int) -> Tensor:
        """Mark the real frames in a batch of so many samples or frames: (batch,) → (batch, frames)."""
        if isinstance(self.front_end, PrecomputedFeatures):
            return masking.real(lengths, samples)
        mel = self.front_end.mel
        return masking.real(mel.frames(lengths), mel.frames(samples))


def _block(config: Config) -> ConformerBlock | TransformerBlock:
    if config.block == "transformer":
        return TransformerBlock(config.width, config.heads, config.inner, config.dropout)
    return ConformerBlock(
        config.width,
        config.heads,
        config.head_width,
        config.inner,
        config.expansion,
        config.kernel,
        config.dropout,
    )
