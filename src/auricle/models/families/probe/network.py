"""The model of the `probe` family: a frozen encoder, statistics of its layers, and two ridge classifiers.

In: waveforms and their mask. Out: logits. The encoder runs once for all folds; `fit` chooses the layers, and whether
acoustic descriptors are joined, by the log-loss of groups of the training clips that were held out, then fits the
ridge classifiers to what it chose. A fitted model runs the encoder no further than it needs.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from auricle.models.encoders.efficientat import FrontEnd
from auricle.models.encoders.opening import LayerStatistics, OpenEncoder, rebuild, shared_encoder
from auricle.models.families.probe import MODEL_TYPES, Options
from auricle.models.features.descriptors import Descriptors
from auricle.models.features.functionals import Functionals, part_sizes
from auricle.models.features.ridge import RidgeFit, fit_ridge, subsample
from auricle.models.features.ridge_layer import RidgeLayer
from auricle.models.features.vectors import Columns, Vectors
from auricle.models.layers import masking
from auricle.models.layers.front_end import passthrough_extractor
from auricle.models.options import ModelSpec

# Layers are compared on so many training clips: the cost grows with the cube.
CHOICE_CLIPS = 1000
N_MELS, N_MFCC = 40, 20


@strict
class Config(PreTrainedConfig):
    """Everything that rebuilds the model; labels are in id2label.

    encoder: the whole config of the encoder; preprocessor: the settings of its feature extractor; weights: a hash of
    its weights; base_model: where they came from; layer_sizes and descriptor_sizes: widths of the statistics of each
    layer and kind of descriptor; candidates, descriptors: the options, None and "auto" where `fit` chooses; layers and
    joins_descriptors: what it chose, None before; layer_losses: the held-out log-loss of each layer alone, in nats;
    held_out_loss: that of what it chose; sample_rate in hertz; channels: of the input; max_support, n_support and
    logit_temperature as in the baseline.
    """

    model_type = MODEL_TYPES[0]

    encoder: dict[str, Any] | None = None
    preprocessor: dict[str, Any] | None = None
    weights: str = ""
    base_model: str | None = None
    sample_rate: int = 16_000
    channels: int = 1
    layer_sizes: list[int] | tuple[int, ...] = ()
    descriptor_sizes: list[int] | tuple[int, ...] = ()
    candidates: list[int] | tuple[int, ...] | None = None
    descriptors: bool | str = "auto"
    layers: list[int] | tuple[int, ...] | None = None
    joins_descriptors: bool | None = None
    layer_losses: list[float] | tuple[float, ...] = ()
    held_out_loss: float | None = None
    max_support: int = 6000
    n_support: int = 0
    logit_temperature: float = 1.0


def build(options: Options, spec: ModelSpec) -> "Model":
    """Open the encoder for one corpus. `resolve` made the audio settings the encoder's own."""
    opened = shared_encoder(options.checkpoint, options.revision, options.preprocessor, options.allow_pickle)
    rate = spec.sample_rate
    config = Config(
        **{name: value for name, value in spec.config_keys.items() if name != "num_features"},
        encoder=dict(opened.config),
        preprocessor=dict(opened.preprocessor),
        weights=opened.digest,
        base_model=opened.name,
        layer_sizes=opened.layer_sizes,
        candidates=None if options.layers == "auto" else list(options.layers),
        descriptors=options.descriptors,
        max_support=options.max_support,
    )
    config.descriptor_sizes = list(part_sizes(rate, N_MELS, N_MFCC))
    return Model(config, opened)


class Model(PreTrainedModel):
    """Encoder, descriptors where they may be joined, and the ridge classifiers of the parts that are used."""

    config_class = Config
    main_input_name = "input_values"

    def __init__(self, config: Config, opened: OpenEncoder | None = None) -> None:
        super().__init__(config)
        self.extractor = passthrough_extractor(config.sample_rate)
        self.notes = opened.notes if opened is not None else ()
        self.encoder = opened.network if opened is not None else rebuild(config.encoder or {})
        self.encoder.requires_grad_(False)
        self.statistics = LayerStatistics(self.encoder, config.preprocessor or {})
        self.functionals = Functionals(config.sample_rate, N_MELS, N_MFCC)
        used = self._parts(config.layers, config.joins_descriptors)
        self.ridge = RidgeLayer(used.sizes, config.num_labels, config.n_support)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Descriptors | FrontEnd):
            module.reset()

    @property
    def batch_seconds(self) -> float:
        return self.statistics.batch_seconds

    def _parts(self, layers: Sequence[int] | None, descriptors: bool | None) -> "_Parts":
        """The parts of an embedding of some layers, with or without descriptors; None for all there are."""
        config = self.config
        layers = range(len(config.layer_sizes)) if layers is None else layers
        kinds = config.descriptor_sizes if descriptors is None or descriptors else ()
        return _Parts(layers, [*(config.layer_sizes[layer] for layer in layers), *kinds])

    def embed(self, input_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Statistics of the layers, then functionals of descriptors, which no training changes: (batch, size).

        input_values (batch, samples) or (batch, 1, samples) in [-1, 1]; attention_mask (batch, samples), 1 on real
        ones. Before `fit` all there are, so that one pass serves any choice; afterwards what it chose.
        """
        lengths = masking.lengths(input_values, attention_mask)
        values = input_values.mean(1) if input_values.dim() == 3 else input_values
        values = values * masking.real(lengths, values.shape[-1])
        used = self._parts(self.config.layers, self.config.joins_descriptors)
        parts = self.statistics(values, attention_mask, used.layers)
        if len(used.sizes) > len(used.layers):
            parts += self.functionals(values, lengths).values()
        return torch.cat(parts, 1)

    def embedding_identity(self) -> str:
        """The settings that decide what `embed` gives before `fit`."""
        return f"{self.config.weights} {self.config.preprocessor}"

    def used_columns(self, *, layers_only: bool = False) -> np.ndarray:
        """The columns that the fitted model needs of the embeddings (clips, size) that it had before; layers alone."""
        everything = self._parts(None, None)
        parts = list(self.config.layers or ())
        if self.config.joins_descriptors and not layers_only:
            parts += range(len(everything.layers), len(everything.sizes))
        return everything.columns(parts)

    def fit(
        self, embeddings: Vectors, labels: np.ndarray, *, groups: np.ndarray | None, class_weighted: bool, seed: int
    ) -> None:
        """Choose the parts and fit the ridge classifiers to the training clips; arguments as those of the baseline's.

        `embeddings` (clips, size) are those of a model that was not fitted.
        """
        config = self.config
        parts = self._parts(None, None)

        sample = np.arange(len(labels)) if len(labels) <= CHOICE_CLIPS else subsample(labels, CHOICE_CLIPS, seed)
        sampled = embeddings[sample]

        def compare(chosen: Sequence[int]) -> RidgeFit:
            return fit_ridge(
                sampled[:, parts.columns(chosen)],
                labels[sample],
                None if groups is None else groups[sample],
                sizes=[parts.sizes[part] for part in chosen],
                classes=config.num_labels,
                class_weighted=class_weighted,
                max_support=CHOICE_CLIPS,
                seed=seed,
            )

        if config.candidates is None:
            config.layers, config.layer_losses = choose_layers(len(parts.layers), lambda chosen: compare(chosen).loss)
        else:
            config.layers = list(config.candidates)
        described = [*config.layers, *range(len(parts.layers), len(parts.sizes))]
        fits = {} if config.descriptors is True else {False: compare(config.layers)}
        if config.descriptors:
            fits[True] = compare(described)
        config.joins_descriptors = min(fits, key=lambda joins: fits[joins].loss)
        fitted, limit = fits[config.joins_descriptors], config.max_support
        config.held_out_loss = fitted.loss
        sizes, has_vectors = self._parts(config.layers, config.joins_descriptors).sizes, self.ridge.has_vectors
        self.ridge = RidgeLayer(sizes, config.num_labels, 0).to(self.device)
        self.ridge.has_vectors = has_vectors
        if len(labels) > min(CHOICE_CLIPS, limit):
            used = Columns(embeddings, self.used_columns())
            fitted = self.ridge.fitted(
                used, labels, groups, class_weighted=class_weighted, max_support=limit, seed=seed
            )
        self.ridge.take(fitted)
        config.n_support = len(self.ridge.support_vectors)

    def classify(self, embeddings: Tensor) -> Tensor:
        """Turn what `embed` gives (batch, size) into logits (batch, classes) without temperature."""
        logits: Tensor = self.ridge(embeddings)
        return logits

    def logits_and_vectors(self, input_values: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (batch, classes), and vectors (batch, size) of length 1, normalised within classes."""
        embeddings = self.embed(input_values, attention_mask)
        return self.classify(embeddings) / self.config.logit_temperature, self.ridge.vectors(embeddings)

    def apply_temperature(self, temperature: float) -> None:
        """Divide the logits of evaluation mode by a temperature; `classify` does not."""
        self.config.logit_temperature = temperature

    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Compute logits (batch, classes), and their cross-entropy if labels (batch,) are given. Input as `embed`."""
        logits = self.classify(self.embed(input_values, attention_mask))
        logits = logits if self.training else logits / self.config.logit_temperature
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class _Parts:
    """The parts of an embedding: the layers first, then the kinds of descriptors; `sizes` are their widths."""

    def __init__(self, layers: Sequence[int], sizes: Sequence[int]) -> None:
        self.layers, self.sizes = list(layers), list(sizes)
        self._starts = list(itertools.accumulate(sizes, initial=0))

    def columns(self, parts: Sequence[int]) -> np.ndarray:
        """The columns of some parts, in their order."""
        return np.concatenate([np.arange(self._starts[part], self._starts[part + 1]) for part in parts])


def choose_layers(count: int, loss: Callable[[Sequence[int]], float]) -> tuple[list[int], list[float]]:
    """The layers with the least loss, and the loss of each alone: one layer, with a neighbour or both, or all layers.

    `loss` takes numbers below `count`.
    """
    alone = [loss([layer]) for layer in range(count)]
    best = int(np.argmin(alone))
    low, high = max(0, best - 1), min(count - 1, best + 1)
    candidates = [[low, best], [best, high], list(range(low, high + 1)), list(range(count))]
    several = {tuple(dict.fromkeys(layers)) for layers in candidates}
    losses = {layers: loss(layers) for layers in sorted(several) if len(layers) > 1} | {(best,): alone[best]}
    best_layers: tuple[int, ...] = min(losses, key=losses.__getitem__)
    return list(best_layers), alone


AUTO_MODELS = (Model,)
