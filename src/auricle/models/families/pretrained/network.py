"""The model of the `pretrained` family: a stock transformers classifier, run in parts.

In: waveforms, their mask, labels. Out: logits and loss. The network is saved as the stock model that it is; it runs in
parts here, so that frozen layers can be computed once and a clip's logits do not depend on its batch.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import AutoFeatureExtractor
from transformers.modeling_outputs import SequenceClassifierOutput

from auricle.models.checkpoint import base_model, open_checkpoint
from auricle.models.encoders import HEAD_NAMES, custom_head, encoder, final_layer, run_layer, to_bf16
from auricle.models.encoders.opening import extractor_of
from auricle.models.encoders.wav2vec2 import LayerContext
from auricle.models.families.pretrained import Options
from auricle.models.layers import augment, heads, masking
from auricle.models.layers.blocks import Dropout
from auricle.models.layers.front_end import passthrough_extractor
from auricle.models.layers.parametrized import remove_parametrizations
from auricle.models.layers.pooling import LayerPooling, Pooling
from auricle.models.options import HeadOptions, ModelSpec
from auricle.recipe import Augment

# How much padded audio a processor's cache holds, and an accelerator.
CPU_BATCH_SECONDS, ACCELERATOR_BATCH_SECONDS = 8.0, 120.0
AUTO_MODELS = (custom_head.Model,)


def build(options: Options, spec: ModelSpec) -> "Model":
    """Open the checkpoint with a head for the labels. `resolve` made the audio settings the checkpoint's own."""
    checkpoint = open_checkpoint(
        options.checkpoint,
        spec.labels,
        preprocessor=options.preprocessor,
        weighted_sum=options.weighted_sum,
        revision=options.revision,
        allow_pickle=options.allow_pickle,
    )
    config, notes = checkpoint.network.config, checkpoint.notes
    if options.start == "probe":
        notes = tuple(note for note in notes if "head" not in note)
    # A folder may name the model that it was trained from, as ours do.
    config.base_model = base_model(options.checkpoint) or getattr(config, "base_model", None)
    if not options.is_stock:
        custom_head.attach(checkpoint.network, options.pooling or "mean", options.head or HeadOptions())
    # The temperature and threshold of a folder of ours do not apply to what is trained from it.
    config.logit_temperature = 1.0
    config.threshold = config.max_false_accept_rate = None
    return Model(checkpoint.network, checkpoint.extractor, notes)


@dataclass(frozen=True)
class EncoderState:
    """A batch partly through the encoder. `depth` is 0 after the features, 1 after the embedding, then 1 + layers run.

    hidden (batch, frames, size) is the last part's output, None at the final depth; frames (batch,) the real frames;
    pooled holds one (batch, size) for each embedding or layer that a weighted sum needs, two for each that is pooled by
    its statistics, or the input of the head.
    """

    depth: int
    hidden: Tensor | None
    frames: Tensor
    pooled: tuple[Tensor, ...] = ()


class Model(nn.Module):
    """A stock audio classifier on waveforms. `network` is the stock model; nothing else has weights.

    `preprocessor` is the encoder's feature extractor, `extractor` that of the saved model, which may hold the former.
    """

    def __init__(self, network: Any, preprocessor: Any, notes: Sequence[str] = ()) -> None:
        super().__init__()
        Dropout.replace_in(network)
        self.network = network
        self.preprocessor = preprocessor
        self.notes = tuple(notes)
        pooling = getattr(network, "pooling", None)
        self.layers: tuple[int, ...] = pooling.layers if isinstance(pooling, LayerPooling) else ()
        self.encoder = encoder(network, preprocessor, whole=not self.layers)
        self.config = network.config
        self.config.sample_rate = int(preprocessor.sampling_rate)
        self.config.channels = 1
        self.extractor = passthrough_extractor(self.config.sample_rate) if self.layers else preprocessor
        self.has_custom_head = isinstance(pooling, Pooling | LayerPooling)
        self.uses_weighted_sum = bool(getattr(self.config, "use_weighted_layer_sum", False))
        self.augment = Augment()
        self.class_weights: Tensor | None = None
        self.label_smoothing = 0.0

    @property
    def batch_seconds(self) -> float:
        return CPU_BATCH_SECONDS if self.network.device.type == "cpu" else ACCELERATOR_BATCH_SECONDS

    @property
    def final_depth(self) -> int:
        return 1 + len(self.encoder.layers)

    @property
    def max_frozen_depth(self) -> int:
        """The greatest depth before the head: a custom pooling may have weights."""
        return self.final_depth - (self.has_custom_head and not self.layers)

    def over_layers(self, layers: Sequence[int], mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor) -> "Model":
        """The same encoder with a linear head over the standardised mean and deviation of some layers, and none above.

        mean and scale (size,), weight (classes, size), bias (classes,). This model must not be used afterwards.
        """
        custom_head.truncate(self.network, self.encoder, max(layers))
        custom_head.attach_layers(self.network, layers)
        pooling, linear = self.network.pooling, self.network.head.linear
        with torch.no_grad():
            for target, value in ((pooling.mean, mean), (pooling.scale, scale), (linear.weight, weight)):
                target.copy_(value)
            linear.bias.copy_(bias)
        return Model(self.network, self.preprocessor, self.notes)

    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Compute logits, and the loss where labels are given.

        input_values (batch, samples) or (batch, channels, samples) in [-1, 1]; attention_mask (batch, samples), 1 on
        real samples; labels (batch,) class numbers. Logits are (batch, classes) float32.
        """
        state = self.run_layers(self.extract_features(input_values, attention_mask), self.final_depth)
        logits = self.logits(state)
        return SequenceClassifierOutput(loss=None if labels is None else self.loss(logits, labels), logits=logits)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, in training with the recipe's smoothing and class weights."""
        smoothing = self.label_smoothing if self.training else 0.0
        targets = heads.soft_targets(labels, self.config.num_labels, smoothing)
        weights = self.class_weights if self.training else None
        weights = weights.to(logits.device) if weights is not None else None
        loss = self.network.head.loss if self.has_custom_head else F.cross_entropy
        return loss(logits, targets, weights)

    @torch.no_grad()
    def apply_temperature(self, temperature: float) -> None:
        """Divide the logits by a temperature, in the weights of the last layer: a stock model stays one."""
        if self.has_custom_head:
            self.network.head.apply_temperature(temperature)
        else:
            last = getattr(self.network.classifier, "dense", self.network.classifier)
            for weight in (last.weight, last.bias):
                weight.div_(temperature)
        # transformers reserves the name 'temperature' for text generation and refuses it in an audio classifier.
        self.config.logit_temperature = temperature

    def embed(self, input_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Compute the input of the head: (batch, size)."""
        return self._embedding(self.run_layers(self.extract_features(input_values, attention_mask), self.final_depth))

    def logits_and_vectors(self, input_values: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (batch, classes), and vectors (batch, size) of length 1, to be compared by cosine."""
        embeddings = self.embed(input_values, attention_mask)
        return self._classify(embeddings), F.normalize(embeddings.float(), dim=-1)

    def extract_features(self, input_values: Tensor, attention_mask: Tensor | None) -> EncoderState:
        """Compute the features before the embedding, convolutions or log-mel: depth 0."""
        lengths = masking.lengths(input_values, attention_mask)
        waveform = input_values.mean(1) if input_values.dim() == 3 else input_values
        if attention_mask is not None:
            waveform = waveform * attention_mask.to(waveform.dtype)
        if self.training and augment.changes_waveform(self.augment):
            generator = augment.step_generator()
            waveform = augment.waveform(waveform[:, None], lengths, self.augment, generator)[:, 0]
        return EncoderState(0, *self.encoder.features(waveform, lengths))

    def run_layers(self, state: EncoderState, depth: int) -> EncoderState:
        """Run the embedding and layers up to `depth`; at the final depth only the pooled vectors are left."""
        hidden, frames, pooled = state.hidden, state.frames, list(state.pooled)
        context: LayerContext | None = None
        for part in range(state.depth, depth):
            assert hidden is not None, "a state at the final depth has no layer left to run"
            if part == 0:
                hidden, frames = self.encoder.embed(hidden, frames)
            else:
                context = context if context is not None else self.encoder.context(hidden, frames)
                if not self._skips_layer(part - 1):
                    hidden = run_layer(self.encoder, part - 1, hidden, context)
            if self.uses_weighted_sum:
                is_final = part == len(self.encoder.layers) and self.encoder.sums_final_output
                pooled.append(self.encoder.pool(self.encoder.finish(hidden) if is_final else hidden, frames))
            if part in self.layers:
                is_final = part == final_layer(self.network, self.encoder)
                output = self.encoder.finish(hidden) if is_final else hidden
                pooled += self.network.pooling.statistics(output, self.encoder.real(hidden, frames))
        if depth == self.final_depth and state.depth < depth:
            if not self.uses_weighted_sum and not self.layers:
                assert hidden is not None
                pooled = [self._pool(self.encoder.finish(hidden), frames)]
            hidden = None
        return EncoderState(depth, hidden, frames, tuple(pooled))

    def logits(self, state: EncoderState) -> Tensor:
        """Logits (batch, classes) float32 from a state at the final depth."""
        return self._classify(self._embedding(state))

    def _classify(self, embeddings: Tensor) -> Tensor:
        if self.has_custom_head:
            return self.network.head(embeddings).float()
        # Averaging before the linear projection equals averaging after it.
        classifier, projector = self.network.classifier, getattr(self.network, "projector", nn.Identity())
        return classifier(projector(embeddings.to(next(classifier.parameters()).dtype))).float()

    def _pool(self, hidden: Tensor, frames: Tensor) -> Tensor:
        if not self.has_custom_head:
            return self.encoder.pool(hidden, frames)
        real = masking.real(frames, hidden.shape[1])
        return self.network.pooling(hidden.float().transpose(1, 2), real)

    def _embedding(self, state: EncoderState) -> Tensor:
        if self.layers:
            return self.network.pooling(state.pooled)
        if not self.uses_weighted_sum:
            return state.pooled[0]
        weights = self.network.layer_weights.float().softmax(-1)
        return torch.stack([pooled.float() for pooled in state.pooled], -1) @ weights

    def _skips_layer(self, number: int) -> bool:
        # LayerDrop, as the checkpoint's config defines.
        probability = self.encoder.layerdrop
        if not probability or self.uses_weighted_sum or not self.encoder.layers[number].training:
            return False
        return bool(torch.rand(()) < probability)

    def bf16_copy(self) -> "Model":
        """A copy for inference in bfloat16."""
        return Model(copy.deepcopy(self.network), self.preprocessor).to_bf16()

    def to_bf16(self) -> "Model":
        """Convert the weights to bfloat16 for inference, except the head; do not train or save the model afterwards."""
        remove_parametrizations(self.network)
        head = copy.deepcopy({name: getattr(self.network, name) for name in HEAD_NAMES if hasattr(self.network, name)})
        to_bf16(self.encoder, self.network)
        for name, part in head.items():
            setattr(self.network, name, part)
        return self.eval()

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors: of the stock model if its head is a stock one."""
        preprocessor = self.preprocessor.to_dict() if self.layers else None
        network = custom_head.wrapped(self.network, preprocessor) if self.has_custom_head else self.network
        network.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: Path, *, output_loading_info: bool = False, **options: Any) -> Any:
        """Open what `save_pretrained` wrote; options as those of transformers."""
        auto_class = transformers.AutoModelForAudioClassification
        network, loading = auto_class.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
        )
        preprocessor = getattr(network.config, "preprocessor", None)
        extractor = extractor_of(preprocessor) if preprocessor else AutoFeatureExtractor.from_pretrained(folder)
        model = cls(network.network if isinstance(network, custom_head.Model) else network, extractor)
        return (model, loading) if output_loading_info else model
