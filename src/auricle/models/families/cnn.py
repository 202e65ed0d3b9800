"""Convolutions over log-mel: the `cnn` family, in two sizes.

In: waveforms, their mask, labels. Out: logits and loss. `default` is a small network that learns from scratch in
minutes on two cores and, when it has, asks the baseline's machine for a second opinion. `tutorial` is the reference
network for everyday sounds, layer for layer: four strided convolutions over four fixed seconds. Every layer works on
real frames only, so a clip's logits do not depend on its batch.
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
from auricle.models.layers.front_end import LogMel, MelSpectrogram, waveforms_as_they_are
from auricle.models.layers.heads import Head
from auricle.models.layers.masked_batch_norm import BatchNorm
from auricle.models.layers.pooling import Pooling, PoolingKind
from auricle.recipe import Augment

TRAINING = "gradient"
TAKES_FEATURES = False


class Options(pydantic.BaseModel):
    """What a recipe may say beside `family: cnn`. `pooling: null` is the size's own."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    size: Literal["default", "tutorial"] = "default"
    ensemble_baseline: bool = True
    pooling: PoolingKind | None = None
    head: Head = Head()


@strict
class Config(PreTrainedConfig):
    """Everything needed to build the network: input, mel settings, widths; labels as transformers keeps them."""

    model_type = "auricle-cnn"

    sample_rate: int = 22_050
    channels: int = 1
    n_fft: int = 1024
    hop_length: int = 512
    n_mels: int = 64
    floor: float = 1e-6
    range_db: float | None = None
    seconds: float | None = None
    block: Literal["pooled", "strided"] = "pooled"
    widths: list[int] | tuple[int, ...] = (16, 32, 64, 128)
    kernels: list[int] | tuple[int, ...] = (3, 3, 3, 3)
    dropout: float = 0.2
    pooling: PoolingKind = "mean-max"
    head: dict[str, Any] | None = None
    ensemble_member: dict[str, Any] | None = None
    logit_temperature: float = 1.0


def configure(options: Options, *, sample_rate: int, channels: int, labels: Sequence[str]) -> Config:
    """Make the config of one size for one corpus."""
    common = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: at for at, label in enumerate(labels)},
        "head": options.head.model_dump(),
        "pooling": options.pooling or ("mean" if options.size == "tutorial" else "mean-max"),
    }
    if options.size == "tutorial":
        # S4's network: torchaudio's mel floor (1e-10), 80 dB below the loudest cell, four seconds.
        return Config(
            sample_rate=sample_rate,
            channels=channels,
            floor=1e-10,
            range_db=80.0,
            seconds=4.0,
            block="strided",
            widths=[8, 16, 32, 64],
            kernels=[5, 3, 3, 3],
            dropout=0.0,
            **common,
        )
    # A hop of 23 ms and windows of 46 ms, whatever the rate; multiples of 8 transform fast.
    hop_length = 8 * round(sample_rate * 0.0232 / 8)
    ensemble_member = None
    if options.ensemble_baseline:
        ensemble_member = baseline.configure(
            baseline.Options(), sample_rate=sample_rate, channels=channels, labels=labels
        ).to_dict()
    return Config(
        sample_rate=sample_rate,
        channels=channels,
        n_fft=2 * hop_length,
        hop_length=hop_length,
        ensemble_member=ensemble_member,
        **common,
    )


def build(options: Options, *, sample_rate: int, channels: int, labels: Sequence[str]) -> "Model":
    """Make a fresh model of one size for one corpus."""
    return Model(configure(options, sample_rate=sample_rate, channels=channels, labels=labels))


class Model(PreTrainedModel):
    """Log-mel, convolutional blocks, pooling over real frames, linear head."""

    config_class = Config
    main_input_name = "input_values"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        mel = MelSpectrogram(config.sample_rate, config.n_fft, config.hop_length, config.n_mels)
        self.front_end = LogMel(mel, config.floor, config.range_db)
        widths = [config.channels, *config.widths]
        block = StridedBlock if config.block == "strided" else PooledBlock
        shapes = zip(widths, widths[1:], config.kernels, strict=False)
        self.blocks = nn.ModuleList(block(*shape) for shape in shapes)
        self.dropout = nn.Dropout(config.dropout)
        self.pooling = Pooling(config.pooling, widths[-1])
        self.head = heads.make(Head(**config.head or {}), pooling.width(config.pooling, widths[-1]), config.num_labels)
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
        if isinstance(module, MelSpectrogram):
            module.reset()
        elif isinstance(module, nn.Conv2d):
            # a = 0.1 is S4's; it differs from He's own by half a per cent.
            nn.init.kaiming_normal_(module.weight, a=0.1)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, BatchNorm):
            module.reset_parameters()
        elif isinstance(module, heads.MarginSoftmax | Descriptors):
            module.reset()

    @torch.no_grad()
    def fit_normalization(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Set the front end's statistics from the training split: (input_values, attention_mask) batches."""

        def heard() -> Iterator[tuple[Tensor, Tensor]]:
            for input_values, attention_mask in batches:
                waveform, _ = self._waveform(input_values, attention_mask, None)
                lengths = masking.lengths(input_values, attention_mask)
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

        input_values (batch, samples) or (batch, channels, samples) in [-1, 1]; attention_mask (batch, samples), 1 on
        real samples; labels (batch,) class numbers. Logits are (batch, classes).
        """
        targets = None
        if labels is not None:
            smoothing = self.label_smoothing if self.training else 0.0
            targets = heads.soft_targets(labels, self.config.num_labels, smoothing)
        values, real, targets = self._spectrogram(input_values, attention_mask, targets)
        pooled = self._pool(values, real)
        if self.training:
            logits = self.head(self.dropout(pooled))
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
        values, real, _ = self._spectrogram(input_values, attention_mask, None)
        return self._pool(values, real)

    def _pool(self, values: Tensor, real: Tensor) -> Tensor:
        """Run the blocks and pool: (batch, channels, mels, frames) → (batch, width)."""
        lengths = real.sum(1)
        # Where no clip is padded there is nothing to mask, and the library's own batch norm is the fastest.
        padded = not self.training or not bool(real.all())
        for block in self.blocks:
            values = block(values, lengths if padded else None)
            # A stride or a pool of 2 over n frames gives ceil(n / 2).
            lengths = (lengths + 1) // 2
        values = values.mean(2)
        pooled: Tensor = self.pooling(values, masking.real(lengths, values.shape[-1]))
        return pooled

    def _spectrogram(
        self, input_values: Tensor, attention_mask: Tensor | None, targets: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Give the standardised log-mel, its real frames and the targets: augmented and mixed in training."""
        generator = self._generator()
        waveform, lengths = self._waveform(input_values, attention_mask, generator)
        if generator is not None:
            waveform = augment.waveform(waveform, lengths, self.augment, generator)
        real = self._real(lengths, waveform.shape[-1])
        values = self.front_end(waveform, real)
        if generator is not None:
            values = augment.spectrogram(values, real.sum(1), self.augment, generator)
            if self.augment.mixup_alpha and targets is not None:
                values, targets, partners = augment.mixup(values, targets, self.augment.mixup_alpha, generator)
                real = real | real[partners]
        return values.expand(-1, self.config.channels, -1, -1), real, targets

    def _generator(self) -> torch.Generator | None:
        """In training, a generator seeded from the global one, which is seeded at every step: resuming is exact."""
        return torch.Generator().manual_seed(int(torch.randint(2**31, ()))) if self.training else None

    def _waveform(
        self, input_values: Tensor, attention_mask: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Bring input to (batch, 1 or channels, samples), zero beyond each clip, with lengths (batch,)."""
        lengths = masking.lengths(input_values, attention_mask)
        waveform = input_values[:, None] if input_values.dim() == 2 else input_values
        if not self.training and attention_mask is not None:
            # Batches come padded with zeros. Training trusts that: checking costs a tenth of the small network's step.
            waveform = waveform * attention_mask[:, None].to(waveform.dtype)
        if waveform.shape[1] > self.config.channels:
            waveform = waveform.mean(1, keepdim=True)
        elif self.training and waveform.shape[1] == 2 and torch.equal(waveform[:, 0], waveform[:, 1]):
            waveform = waveform[:, :1]
        if self.config.seconds is None:
            return waveform, lengths
        return self._fixed(waveform, lengths, round(self.config.seconds * self.config.sample_rate), generator)

    def _fixed(
        self, waveform: Tensor, lengths: Tensor, size: int, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Cut or pad to `size` samples; in training, a shorter clip lands at a random place."""
        if torch.compiler.is_compiling() or waveform.shape[-1] != size:
            waveform = nn.functional.pad(waveform, (0, size - waveform.shape[-1]))  # padding below zero cuts
        fixed = torch.full_like(lengths, size)
        room = (fixed - lengths).clamp_min(0)
        if generator is not None and bool(room.any()):
            waveform = augment.roll(waveform, fixed, augment.draw(room, generator))
        return waveform, fixed

    def _real(self, lengths: Tensor, samples: int) -> Tensor:
        """Mark the real frames in a batch of so many samples: (batch,) → (batch, frames)."""
        mel = self.front_end.mel
        # S4 counts whole hops: 344 frames in its four seconds, not 345.
        size = mel.frames(samples) if self.config.seconds is None else samples // mel.hop_length
        return masking.real(mel.frames(lengths), size)


class StridedBlock(nn.Module):
    """Convolution of stride 2, ReLU, batch norm: S4's block."""

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2)
        self.norm = BatchNorm(after)

    def forward(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        """Halve (batch, before, bands, frames) of `lengths` real frames (batch,); None is all real."""
        kept = None if lengths is None else (lengths + 1) // 2
        normal: Tensor = self.norm(self.convolution(values).relu(), kept)
        return normal


class PooledBlock(nn.Module):
    """Convolution of stride 1, batch norm, ReLU, then the maximum of every 2 x 2 cells.

    Looking at every cell before halving is worth more to a small corpus than depth or width behind strided layers.
    After the ReLU nothing is below zero, so the zeros beyond a clip's end never are its maximum.
    """

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
        self.norm = BatchNorm(after)

    def forward(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        """Halve (batch, before, bands, frames) of `lengths` real frames (batch,); None is all real."""
        normal: Tensor = self.norm(self.convolution(values), lengths)
        return nn.functional.max_pool2d(normal.relu_(), 2, ceil_mode=True)
