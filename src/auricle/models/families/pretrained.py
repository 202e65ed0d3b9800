"""Speech encoders pretrained by others, fine-tuned here: the `pretrained` family.

In: waveforms, their mask, labels. Out: logits and loss. The network is a stock transformers model and is saved as one;
here it is run in parts, so that what is frozen can be computed once and a clip's answer is its own. HuBERT,
DistilHuBERT, wav2vec 2.0, WavLM, UniSpeech-SAT, data2vec-audio, w2v-BERT, Whisper's encoder and AST.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from auricle.errors import UsageError
from auricle.models.checkpoint import open_checkpoint, read_config, read_extractor
from auricle.models.encoders import ARCHITECTURES, HEAD, custom_head, encoder
from auricle.models.layers import augment, heads, masking
from auricle.models.layers.heads import Head
from auricle.models.layers.pooling import PoolingKind
from auricle.recipe import Augment, Recipe

TRAINING = "fine_tuning"
TAKES_FEATURES = False


class Top(pydantic.BaseModel):
    """Train the head and the top so many layers."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    top: int = pydantic.Field(ge=0)


Freeze = Literal["all", "features", "none"] | Top


class Stage(pydantic.BaseModel):
    """From which epoch on what is frozen, and the learning rate of that time (null: train.learning_rate)."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    from_epoch: int = pydantic.Field(1, ge=1)
    freeze: Freeze = "none"
    learning_rate: float | None = pydantic.Field(None, gt=0)


class Lora(pydantic.BaseModel):
    """Low-rank adapters in the layers that `freeze` does not freeze (Hu et al. 2021); merged when training ends."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    rank: int = pydantic.Field(8, ge=1)
    alpha: int = pydantic.Field(16, gt=0)
    dropout: float = pydantic.Field(0.0, ge=0, lt=1)


class Options(pydantic.BaseModel):
    """What a recipe may say beside `family: pretrained`. `pooling: null` and `head: null` are the stock model's; with
    others the model folder opens after `import auricle` only.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    checkpoint: str
    revision: str | None = None
    preprocessor: dict[str, Any] = {}
    freeze: Freeze | None = None
    stages: tuple[Stage, ...] = ()
    layer_decay: float = pydantic.Field(1.0, gt=0, le=1)
    weighted_sum: bool = False
    pooling: PoolingKind | None = None
    head: Head | None = None
    lora: Lora | None = None
    cache_frozen: bool = True
    cached_crops: int = pydantic.Field(4, ge=1)

    @pydantic.model_validator(mode="after")
    def _one_way_of_freezing(self) -> "Options":
        if self.stages and self.freeze is not None:
            raise ValueError(
                "model.freeze and model.stages are both given, and each says what is frozen: set model.stages=[] or "
                "model.freeze=null"
            )
        if self.weighted_sum and not self.is_stock:
            raise ValueError(
                "model.weighted_sum is true, and it goes with the stock pooling and head alone: set model.pooling and "
                "model.head to null, or model.weighted_sum to false"
            )
        frozen = [stage.freeze for stage in self.asked]
        if self.lora is not None and all(freeze in ("all", Top(top=0)) for freeze in frozen):
            raise ValueError("model.lora is given, and all layers are frozen: leave some to be adapted by model.freeze")
        return self

    @property
    def is_stock(self) -> bool:
        """Whether a stock classifier has the pooling and the head that are asked for."""
        return self.pooling is None and (self.head is None or self.head.kind == "softmax")

    @property
    def asked(self) -> tuple[Stage, ...]:
        """The stages, one where the recipe names none."""
        return self.stages or (Stage(freeze=self.freeze or "none"),)

    @pydantic.model_validator(mode="after")
    def _stages_in_order(self) -> "Options":
        starts = [stage.from_epoch for stage in self.stages]
        if starts and (starts[0] != 1 or sorted(set(starts)) != starts):
            raise ValueError(f"the stages' from_epoch are {starts}; they start at 1 and rise")
        return self


def resolve(recipe: Recipe, options: Options) -> Recipe:
    """Fill in what the checkpoint decides: the sampling rate, and windows where its clips have a greatest length.

    Raises UsageError for a rate other than the checkpoint's, for stereo, for what this family cannot augment, and for
    freezing that the checkpoint or the number of epochs forbids.
    """
    config = read_config(options.checkpoint, options.revision)
    extractor = read_extractor(options.checkpoint, config, options.preprocessor, options.revision)
    rate = int(extractor.sampling_rate)
    if recipe.audio.sample_rate not in (None, rate):
        raise UsageError(
            f"audio.sample_rate received {recipe.audio.sample_rate}, and the checkpoint '{options.checkpoint}' hears "
            f"{rate} Hz. Set it to {rate} or null."
        )
    if recipe.audio.channels != 1:
        raise UsageError("audio.channels received 2. Speech encoders hear one channel: set it to 1.")
    asked = recipe.augment
    for name in ("frequency_masks", "time_masks", "mixup_alpha"):
        if getattr(asked, name):
            raise UsageError(
                f"augment.{name} received {getattr(asked, name)}. Speech encoders hide spans of their own features, as "
                "the checkpoint's config says, and mix no clips: set it to 0."
            )
    if recipe.train.min_crop_seconds is not None:
        raise UsageError(
            f"train.min_crop_seconds received {recipe.train.min_crop_seconds}. What is frozen of a speech encoder is computed for "
            "stretches of one length: set it to null."
        )
    _check_freezing(options, int(config.num_hidden_layers), recipe.train.epochs)
    recipe = recipe.replace("audio", sample_rate=rate)
    most = ARCHITECTURES[config.model_type].longest(extractor)
    if most is None:
        return recipe
    seconds = most / rate
    if recipe.evaluate.window_seconds is None or recipe.evaluate.window_seconds > seconds:
        recipe = recipe.replace("evaluate", window_seconds=seconds)
    if recipe.train.crop_seconds is None or recipe.train.crop_seconds > seconds:
        recipe = recipe.replace("train", crop_seconds=seconds)
    return recipe


def _check_freezing(options: Options, layers: int, epochs: int) -> None:
    late = [stage.from_epoch for stage in options.stages if stage.from_epoch > epochs]
    if late:
        raise UsageError(
            f"model.stages received a stage from epoch {late[0]} on, and train.epochs is {epochs}. Train longer, or "
            "let the stage begin earlier."
        )
    for freeze in (stage.freeze for stage in options.asked):
        if isinstance(freeze, Top) and freeze.top > layers:
            raise UsageError(
                f"model.freeze received top: {freeze.top}. The checkpoint '{options.checkpoint}' has {layers} layers."
            )


def build(options: Options, *, sample_rate: int, channels: int, labels: Sequence[str]) -> "Model":
    """Open the checkpoint with a head for the labels."""
    opened = open_checkpoint(
        options.checkpoint,
        labels,
        preprocessor=options.preprocessor,
        weighted_sum=options.weighted_sum,
        revision=options.revision,
    )
    config = opened.network.config
    if Path(options.checkpoint).expanduser().is_dir():
        # A folder may say itself what it began with, as ours do.
        config.base_model = getattr(config, "base_model", None)
    else:
        config.base_model = options.checkpoint
    if not options.is_stock:
        custom_head.attach(opened.network, options.pooling or "mean", options.head or Head())
    # What a folder of ours says of its own temperature and threshold does not hold for what is trained from it.
    config.logit_temperature = 1.0
    config.threshold = config.max_false_accept_rate = None
    return Model(opened.network, opened.extractor, opened.notes)


@dataclass(frozen=True)
class State:
    """A batch on its way through the encoder. `depth` parts are done: 0 the features, 1 the embedding, then layers.

    hidden (batch, frames, width) is what the last part gave, None once only summaries are left; frames (batch,) the
    real frames; summaries hold one (batch, width) for each embedding or layer that a weighted sum needs, or the one
    vector that the head needs.
    """

    depth: int
    hidden: Tensor | None
    frames: Tensor
    summaries: tuple[Tensor, ...] = ()


class Model(nn.Module):
    """A stock audio classifier, fed with waveforms. `network` is the stock model; nothing else has weights."""

    def __init__(self, network: Any, extractor: Any, notes: Sequence[str] = ()) -> None:
        super().__init__()
        self.network = network
        self.extractor = extractor
        self.notes = tuple(notes)
        self.encoder = encoder(network, extractor)
        self.config = network.config
        self.config.sample_rate = int(extractor.sampling_rate)
        self.config.channels = 1
        self.headed = custom_head.is_headed(network)
        self.weighted = bool(getattr(self.config, "use_weighted_layer_sum", False))
        self.ensemble_member = None
        self.augment = Augment()
        self.class_weights: Tensor | None = None
        self.label_smoothing = 0.0

    @property
    def batch_seconds(self) -> float:
        """The padded seconds of sound in a batch that is answered fastest: what a processor's cache holds."""
        return 8.0 if self.network.device.type == "cpu" else 120.0

    @property
    def depths(self) -> int:
        """The depth at which every layer has run."""
        return 1 + len(self.encoder.layers)

    @property
    def fixed_depths(self) -> int:
        """The depth up to which nothing of the head works: a pooling may have weights of its own."""
        return self.depths - self.headed

    def fit_normalization(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Nothing to take from the training split: the checkpoint's statistics stay."""

    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Give logits, and the loss where labels are given.

        input_values (batch, samples) or (batch, channels, samples) in [-1, 1]; attention_mask (batch, samples), 1 on
        real samples; labels (batch,) class numbers. Logits are (batch, classes) float32.
        """
        logits = self.logits(self.advance(self.hear(input_values, attention_mask), self.depths))
        return SequenceClassifierOutput(loss=None if labels is None else self.loss(logits, labels), logits=logits)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, in training with the recipe's smoothing and class weights."""
        smoothing = self.label_smoothing if self.training else 0.0
        targets = heads.soft_targets(labels, self.config.num_labels, smoothing)
        weights = self.class_weights if self.training else None
        weights = weights.to(logits.device) if weights is not None else None
        if self.headed:
            loss: Tensor = self.network.head.loss(logits, targets, weights)
            return loss
        return F.cross_entropy(logits, targets, weight=weights)

    @torch.no_grad()
    def apply_temperature(self, temperature: float) -> None:
        """Divide the logits by a temperature for good, in the weights of the last layer: a stock model stays one."""
        if self.headed:
            self.network.head.apply_temperature(temperature)
        else:
            last = getattr(self.network.classifier, "dense", self.network.classifier)
            for weight in (last.weight, last.bias):
                weight.div_(temperature)
        # Plain 'temperature' is a setting of text generation to transformers, which it lets no audio classifier have.
        self.config.logit_temperature = temperature

    def embed(self, input_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Give the vector that the head sees: (batch, width)."""
        return self._vector(self.advance(self.hear(input_values, attention_mask), self.depths))

    def hear(self, input_values: Tensor, attention_mask: Tensor | None) -> State:
        """Run what comes before the first layer with an embedding: depth 0."""
        lengths = masking.lengths(input_values, attention_mask)
        waveform = input_values.mean(1) if input_values.dim() == 3 else input_values
        if attention_mask is not None:
            waveform = waveform * attention_mask.to(waveform.dtype)
        if self.training and augment.changes(self.augment):
            generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
            waveform = augment.waveform(waveform[:, None], lengths, self.augment, generator)[:, 0]
        return State(0, *self.encoder.features(waveform, lengths))

    def advance(self, state: State, depth: int) -> State:
        """Run the parts up to `depth`; at the last depth only the summaries are kept."""
        hidden, frames, summaries = state.hidden, state.frames, list(state.summaries)
        context: dict[str, Any] | None = None
        for part in range(state.depth, depth):
            assert hidden is not None, "a state at the last depth has no part left to run"
            if part == 0:
                hidden, frames = self.encoder.embed(hidden, frames)
            else:
                context = context if context is not None else self.encoder.context(hidden, frames)
                if not self._dropped(part - 1):
                    hidden = self.encoder.layer(part - 1, hidden, context)
            if self.weighted:
                final = part == len(self.encoder.layers) and self.encoder.sums_last
                summaries.append(self.encoder.summary(self.encoder.last(hidden) if final else hidden, frames))
        if depth == self.depths and state.depth < depth:
            if not self.weighted:
                assert hidden is not None
                summaries = [self._summary(self.encoder.last(hidden), frames)]
            hidden = None
        return State(depth, hidden, frames, tuple(summaries))

    def logits(self, state: State) -> Tensor:
        """From a state at the last depth to logits (batch, classes) float32."""
        return self.judge(self._vector(state))

    def judge(self, embeddings: Tensor, theirs: Tensor | None = None) -> Tensor:
        """Give the logits of an answer from what `embed` gives; no machine stands beside a pretrained encoder."""
        if self.headed:
            logits: Tensor = self.network.head(embeddings)
            return logits.float()
        return self.encoder.classify(embeddings).float()

    def _summary(self, hidden: Tensor, frames: Tensor) -> Tensor:
        if not self.headed:
            return self.encoder.summary(hidden, frames)
        real = masking.real(frames, hidden.shape[1])
        pooled: Tensor = self.network.pooling(hidden.float().transpose(1, 2), real)
        return pooled

    def _vector(self, state: State) -> Tensor:
        if not self.weighted:
            return state.summaries[0]
        shares = self.network.layer_weights.float().softmax(-1)
        return torch.stack([summary.float() for summary in state.summaries], -1) @ shares

    def _dropped(self, number: int) -> bool:
        """Whether training leaves a layer out this time (LayerDrop), as the checkpoint's config asks."""
        share = self.encoder.layerdrop
        if not share or self.weighted or not self.encoder.layers[number].training:
            return False
        return bool(torch.rand(()) < share)

    def bf16_copy(self) -> "Model":
        """A copy for answering in bfloat16."""
        return Model(copy.deepcopy(self.network), self.extractor).to_bf16()

    def to_bf16(self) -> "Model":
        """Turn the weights into bfloat16 for answering, the head apart; not to be trained or saved afterwards."""
        for module in list(self.network.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Conv1d) and parametrize.is_parametrized(child):
                    setattr(module, name, _plain(child))
        head = copy.deepcopy({name: getattr(self.network, name) for name in HEAD if hasattr(self.network, name)})
        self.encoder.to_bf16()
        for name, part in head.items():
            setattr(self.network, name, part)
        return self.eval()

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors: of the stock model, where the head is a stock one."""
        (custom_head.wrapped(self.network) if self.headed else self.network).save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: Path) -> "Model":
        """Open what `save_pretrained` wrote."""
        network: Any
        if AutoConfig.from_pretrained(folder).model_type == custom_head.Config.model_type:
            network = custom_head.Model.from_pretrained(folder, use_safetensors=True).network
            return cls(network, AutoFeatureExtractor.from_pretrained(folder))
        network = AutoModelForAudioClassification.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        return cls(network, AutoFeatureExtractor.from_pretrained(folder))


def _plain(conv: nn.Conv1d) -> nn.Conv1d:
    """The same convolution with its weight as one tensor, not made anew from its norm at every call."""
    size, padding = conv.kernel_size[0], int(conv.padding[0])
    made = nn.Conv1d(conv.in_channels, conv.out_channels, size, padding=padding, groups=conv.groups, device="meta")
    made.weight = nn.Parameter(conv.weight.detach().clone())
    made.bias = conv.bias
    return made


def opens(model_type: str) -> bool:
    """Whether a model folder of this type is run by this family."""
    return model_type in ARCHITECTURES or model_type == custom_head.Config.model_type
