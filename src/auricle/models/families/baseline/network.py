"""The model of the `baseline` family: functionals of acoustic descriptors and two ridge classifiers in closed form.

In: waveforms, or precomputed features, and their mask. Out: logits. `embed` has nothing to train, so its vectors are
computed once for all folds; `fit` fits a linear and a Gaussian ridge classifier to them and weighs the two by their
predictions for held-out groups of the training clips, so that the softmax of the logits is calibrated.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from auricle.models.families.baseline import MODEL_TYPES, Options
from auricle.models.features.descriptors import Descriptors
from auricle.models.features.functionals import FeatureFunctionals, Functionals, feature_part_sizes, part_sizes
from auricle.models.features.ridge import FactoredRidge, RidgeFit
from auricle.models.features.ridge_layer import RidgeLayer
from auricle.models.features.vectors import Vectors
from auricle.models.layers import masking
from auricle.models.layers.front_end import passthrough_extractor
from auricle.models.options import ModelSpec
from auricle.models.torch_runtime import on_cores

# Values summarised at once.
CHUNK_VALUES = 2**21


@strict
class Config(PreTrainedConfig):
    """Everything that rebuilds the model; labels are in id2label.

    sample_rate: hertz, or frames a second of precomputed features; channels: of the input; num_features: width of
    precomputed features, None for audio; n_mels, n_mfcc: mel bands and cepstral coefficients; max_support: limit of the
    training clips of the Gaussian classifier, n_support: their number; part_sizes: widths of the kinds of functionals;
    logit_temperature: divides the logits.
    """

    model_type = MODEL_TYPES[0]

    sample_rate: int = 16_000
    channels: int = 1
    num_features: int | None = None
    n_mels: int = 40
    n_mfcc: int = 20
    max_support: int = 6000
    part_sizes: list[int] | tuple[int, ...] = ()
    n_support: int = 0
    logit_temperature: float = 1.0


def configure(options: Options, spec: ModelSpec) -> Config:
    """Make the config for one corpus."""
    config = Config(**spec.config_keys, **options.model_dump())
    if config.num_features is not None:
        config.part_sizes = list(feature_part_sizes(config.num_features))
    else:
        config.part_sizes = list(part_sizes(config.sample_rate, config.n_mels, config.n_mfcc))
    return config


def functionals(config: Config) -> Functionals | FeatureFunctionals:
    """What makes one vector of a clip: of its waveform or of its precomputed features."""
    if config.num_features is not None:
        return FeatureFunctionals(config.num_features)
    return Functionals(config.sample_rate, config.n_mels, config.n_mfcc)


def build(options: Options, spec: ModelSpec) -> "Model":
    """Make a fresh model for one corpus."""
    return Model(configure(options, spec))


class Model(PreTrainedModel):
    """Functionals, and the ridge classifiers that are fitted to them."""

    config_class = Config
    main_input_name = "input_values"
    # Batches of any size are equally fast.
    batch_seconds: float | None = None

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.extractor = passthrough_extractor(config.sample_rate)
        self.functionals = functionals(config)
        self.ridge = RidgeLayer(config.part_sizes, config.num_labels, config.n_support)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Descriptors | FeatureFunctionals):
            module.reset()

    def embed(self, input_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Compute the functionals of each clip, which no training changes: (batch, size).

        input_values (batch, samples) or (batch, channels, samples), or precomputed features (batch, num_features,
        frames); attention_mask (batch, samples or frames), 1 on real ones.
        """
        return self.embed_centers(input_values, attention_mask, {})[0]

    @property
    def describes_centers(self) -> bool:
        """Whether `embed_centers` can be asked for centers: of whole clips of audio."""
        return self.config.num_features is None and getattr(self.config, "window_seconds", None) is None

    def embed_centers(
        self, input_values: Tensor, attention_mask: Tensor | None, centers: Mapping[int, Tensor]
    ) -> list[Tensor]:
        """What `embed` gives of the clips, and of the centers of some, from the same frames: (chosen, size) of each.

        centers: by their samples, which clips (batch,) bool, all longer; none of precomputed features.
        """
        lengths = masking.lengths(input_values, attention_mask)
        values = input_values
        if self.config.num_features is None:
            values = values.mean(1) if values.dim() == 3 else values
            values = values * masking.real(lengths, values.shape[-1])
        if torch.compiler.is_compiling():
            # An exported graph has no loop over its batch.
            return [torch.cat(list(self.functionals(values, lengths).values()), 1)]
        # Some clips at a time share what every step costs, leave no core idle, and memory stays flat.
        share = -(-len(values) // torch.get_num_threads())
        clips = max(1, min(share, CHUNK_VALUES // max(1, values[0].numel())))
        parts = list(zip(*(row.split(clips) for row in (values, lengths, *centers.values())), strict=True))

        def work(part: tuple[Tensor, ...]) -> list[Tensor]:
            values, lengths, *chosen = part
            values = values[..., : max(1, int(lengths.max()))]
            found: Iterable[dict[str, Tensor]] = [self.functionals(values, lengths)] if not centers else []
            if centers and isinstance(self.functionals, Functionals):
                found = self.functionals.with_centers(values, lengths, dict(zip(centers, chosen, strict=True)))
            return [torch.cat(list(kinds.values()), 1) for kinds in found]

        done = on_cores(work, parts) if values.device.type == "cpu" else [*map(work, parts)]
        return [torch.cat(vectors) for vectors in zip(*done, strict=True)]

    def classify(self, embeddings: Tensor) -> Tensor:
        """Turn functionals (batch, size) into logits (batch, classes) without temperature."""
        logits: Tensor = self.ridge(embeddings)
        return logits

    def logits_and_vectors(self, input_values: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (batch, classes), and vectors (batch, size) of length 1, normalised within classes."""
        embeddings = self.embed(input_values, attention_mask)
        return self.classify(embeddings) / self.config.logit_temperature, self.ridge.vectors(embeddings)

    def embedding_identity(self) -> str:
        """The settings that decide what `embed` gives."""
        config = self.config
        return f"{config.sample_rate} {config.channels} {config.num_features} {config.n_mels} {config.n_mfcc}"

    def used_columns(self) -> None:
        """What the fitted model needs of its embeddings (clips, size): all."""

    def fit(
        self, embeddings: Vectors, labels: np.ndarray, *, groups: np.ndarray | None, class_weighted: bool, seed: int
    ) -> None:
        """Fit the ridge classifiers to the training clips. Raises DataError for fewer than two classes.

        embeddings (clips, size); labels (clips,) class numbers; groups (clips,) or None, none of which crosses the
        inner validation; class_weighted gives each class the same weight. Above the option max_support, `seed` selects
        the landmarks.
        """
        limit = self.config.max_support
        self.take(
            self.ridge.fitted(embeddings, labels, groups, class_weighted=class_weighted, max_support=limit, seed=seed)
        )

    def factor(self, embeddings: np.ndarray, labels: np.ndarray, *, class_weighted: bool) -> FactoredRidge:
        """Factor clips (clips, size), so that the fit to any part of them follows: `take` accepts it."""
        sizes, classes = self.ridge.part_sizes, self.config.num_labels
        return FactoredRidge.of(embeddings, labels, sizes=sizes, classes=classes, class_weighted=class_weighted)

    def take(self, fitted: RidgeFit) -> None:
        """Take the ridge classifiers of a fit."""
        self.ridge.take(fitted)
        self.config.n_support = len(self.ridge.support_vectors)

    def apply_temperature(self, temperature: float) -> None:
        """Divide the logits of evaluation mode by a temperature; `classify` does not."""
        self.config.logit_temperature = temperature

    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Compute logits (batch, classes), and their cross-entropy if labels (batch,) are given. Input as `embed`."""
        embeddings = self.embed(input_values, attention_mask)
        logits = self.classify(embeddings)
        logits = logits if self.training else logits / self.config.logit_temperature
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


AUTO_MODELS = (Model,)
