"""Statistics of classic descriptors and two ridge machines: the `baseline` family, fitted in seconds without epochs.

In: waveforms, or ready log-mel frames, and their mask. Out: logits. `embed` learns nothing, so its vectors are computed
once for all folds; `solve` fits a linear and a Gaussian machine to them in closed form and weighs the two by what they
say of groups held out inside the training clips, so that the softmax of the logits is an honest probability.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pydantic
import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, Wav2Vec2FeatureExtractor
from transformers.modeling_outputs import SequenceClassifierOutput

from auricle.models.features.descriptors import Descriptors
from auricle.models.features.frame_functionals import FrameFunctionals
from auricle.models.features.functionals import Functionals
from auricle.models.features.ridge import LIMIT, WITHIN_RANK, fit, rbf_kernel
from auricle.models.layers import masking
from auricle.models.layers.front_end import waveforms_as_they_are

TRAINING = "closed_form"
TAKES_FEATURES = True
# Values summarised at once.
CHUNK = 2**18


class Options(pydantic.BaseModel):
    """What a recipe may say beside `family: baseline`."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    n_mels: int = pydantic.Field(40, ge=20, le=160, multiple_of=10)
    n_mfcc: int = pydantic.Field(20, ge=16, le=20)
    max_support: int = pydantic.Field(6000, ge=100)


@strict
class Config(PreTrainedConfig):
    """Everything needed to rebuild the model: input, descriptors, and how many training clips it keeps."""

    model_type = "auricle-baseline"

    sample_rate: int = 16_000
    channels: int = 1
    num_features: int | None = None
    n_mels: int = 40
    n_mfcc: int = 20
    max_support: int = 6000
    part_sizes: list[int] | tuple[int, ...] = ()
    n_support: int = 0
    logit_temperature: float = 1.0


def configure(
    options: Options, *, sample_rate: int, channels: int, labels: Sequence[str], num_features: int | None = None
) -> Config:
    """Make the config for one corpus."""
    second = (1, sample_rate) if num_features is None else (1, num_features, sample_rate)
    functionals = summary(sample_rate, options.n_mels, options.n_mfcc, num_features)
    parts = functionals.parts(torch.zeros(second), torch.tensor([sample_rate]))
    return Config(
        sample_rate=sample_rate,
        channels=channels,
        num_features=num_features,
        n_mels=options.n_mels,
        n_mfcc=options.n_mfcc,
        max_support=options.max_support,
        part_sizes=[part.shape[1] for part in parts.values()],
        id2label=dict(enumerate(labels)),
        label2id={label: at for at, label in enumerate(labels)},
    )


def summary(sample_rate: int, n_mels: int, n_mfcc: int, num_features: int | None) -> Functionals | FrameFunctionals:
    """What makes a vector of a clip: of its waveform, or of precomputed features of some width."""
    return Functionals(sample_rate, n_mels, n_mfcc) if num_features is None else FrameFunctionals(num_features)


def build(
    options: Options, *, sample_rate: int, channels: int, labels: Sequence[str], num_features: int | None = None
) -> "Model":
    """Make a fresh model of one size for one corpus; with `bands` it takes precomputed features of that width."""
    return Model(
        configure(options, sample_rate=sample_rate, channels=channels, labels=labels, num_features=num_features)
    )


class Model(PreTrainedModel):
    """Functionals, standardisation, linear and kernel machine, scale."""

    config_class = Config
    main_input_name = "input_values"

    mean: Tensor
    scale: Tensor
    support: Tensor
    width: Tensor
    within: Tensor
    damping: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        features, classes = sum(config.part_sizes), config.num_labels
        self.functionals = summary(config.sample_rate, config.n_mels, config.n_mfcc, config.num_features)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("support", torch.zeros(config.n_support, features))
        self.register_buffer("width", torch.ones(()))
        self.register_buffer("within", torch.zeros(WITHIN_RANK, features))
        self.register_buffer("damping", torch.zeros(WITHIN_RANK))
        # Weights that `solve` finds and no gradient changes; transformers asks a model's parameters for its precision.
        self.linear = nn.Parameter(torch.zeros(features, classes), requires_grad=False)
        self.kernel = nn.Parameter(torch.zeros(config.n_support, classes), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(classes), requires_grad=False)
        self.post_init()

    @property
    def extractor(self) -> Wav2Vec2FeatureExtractor:
        """What a stock pipeline needs to know of the input: its rate; the front end does the rest."""
        return waveforms_as_they_are(self.config.sample_rate)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Descriptors | FrameFunctionals):
            module.reset()

    @property
    def is_fitted(self) -> bool:
        """Whether `solve` has been called, here or before the model was saved."""
        return bool(self.config.n_support)

    def fit_normalization(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Do nothing: standardisation is part of `solve`."""

    def embed(self, input_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Give the functionals of each clip, which no training changes: (batch, n_features).

        input_values (batch, samples) or (batch, channels, samples) in [-1, 1], channels averaged, or precomputed features
        (batch, bands, frames); attention_mask (batch, samples), 1 on real samples or frames.
        """
        lengths = masking.lengths(input_values, attention_mask)
        values = input_values
        if self.config.num_features is None:
            waveform = input_values.mean(1) if input_values.dim() == 3 else input_values
            values = waveform * masking.real(lengths, waveform.shape[-1])
        if torch.compiler.is_compiling():
            return self.functionals(values, lengths)  # an exported graph has no loop over its batch
        # A few clips at a time stay in the processor's cache: half the time of a large batch, and flat memory.
        rows = max(1, CHUNK // max(1, values[0].numel()))
        chunks = zip(values.split(rows), lengths.split(rows), strict=True)
        return torch.cat([self.functionals(part[..., : max(1, int(real.max()))], real) for part, real in chunks])

    def classify(self, embeddings: Tensor) -> Tensor:
        """Turn functionals (batch, n_features) into logits (batch, classes)."""
        # Squared distances lose digits in single precision, enough to move a logit by 1e-4 from batch to batch.
        standard = self._standard(embeddings).double()
        near = rbf_kernel(standard, self.support.double(), self.config.part_sizes, self.width)
        logits = standard @ self.linear.double() + near @ self.kernel.double() + self.bias
        return logits.to(embeddings.dtype)

    def judge(self, embeddings: Tensor, theirs: Tensor | None = None) -> Tensor:
        """Give the logits of an answer from what `embed` gives; there is no machine beside this one."""
        return self.classify(embeddings) / self.config.logit_temperature

    def standard(self, embeddings: Tensor) -> Tensor:
        """Make functionals (batch, n_features) comparable by angle, as `solve` found it.

        All come to the same unit, and what sets clips of one class apart counts for less.
        """
        standard = self._standard(embeddings)
        return standard - (standard @ self.within.T * self.damping) @ self.within

    def _standard(self, embeddings: Tensor) -> Tensor:
        return ((embeddings - self.mean) * self.scale).clamp(-LIMIT, LIMIT)

    def solve(
        self,
        embeddings: np.ndarray,
        labels: np.ndarray,
        groups: np.ndarray | None,
        class_weighted: bool,
        seed: int,
    ) -> None:
        """Fit the machines to the training clips and keep them in the buffers.

        embeddings (clips, n_features); labels (clips,) class numbers; groups (clips,) or None, of which none crosses
        the inner validation; class_weighted gives each class the same weight. Above the option max_support, `seed`
        draws the clips that are used. Raises DataError where fewer than two classes are left.
        """
        machine = fit(
            embeddings,
            labels,
            groups,
            sizes=self.config.part_sizes,
            classes=self.config.num_labels,
            class_weighted=class_weighted,
            max_support=self.config.max_support,
            seed=seed,
        )
        self.config.n_support = len(machine.support)
        for name, value in vars(machine).items():
            found = torch.as_tensor(value, dtype=torch.float32, device=self.device)
            is_weight = isinstance(getattr(self, name), nn.Parameter)
            setattr(self, name, nn.Parameter(found, requires_grad=False) if is_weight else found)

    def apply_temperature(self, temperature: float) -> None:
        """Divide the logits of every answer by a temperature; `classify` gives them without it."""
        self.config.logit_temperature = temperature

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Give logits (batch, classes), and their cross-entropy where labels (batch,) are given. Input as `embed`."""
        embeddings = self.embed(input_values, attention_mask)
        logits = self.classify(embeddings) if self.training else self.judge(embeddings)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)
