"""Pretrained speech encoders, fine-tuned: the `pretrained` family.

HuBERT, DistilHuBERT, wav2vec 2.0, WavLM, UniSpeech(-SAT), data2vec-audio, w2v-BERT, Whisper's encoder and AST.
"""

from typing import Any, Literal

import pydantic

from auricle.errors import UsageError
from auricle.models.options import HeadOptions, PoolingKind
from auricle.recipe import Recipe, check_steps

TRAINING: Literal["fine_tuning"] = "fine_tuning"
TAKES_FEATURES = False
# Stock models of transformers, and a stock encoder with a pooling or head of ours.
MODEL_TYPES = (
    "audio-spectrogram-transformer",
    "data2vec-audio",
    "hubert",
    "unispeech",
    "unispeech-sat",
    "wav2vec2",
    "wav2vec2-bert",
    "wavlm",
    "whisper",
    "auricle-encoder",
)


class Top(pydantic.BaseModel):
    """Train the head and the top `top` layers."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    top: int = pydantic.Field(ge=0)


Freeze = Literal["all", "features", "none"] | Top


class Stage(pydantic.BaseModel):
    """What is frozen from an epoch on, and the learning rate from then on (null: train.learning_rate)."""

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
    """Options of `family: pretrained`. `pooling: null` and `head: null` are the stock model's; with others the model
    folder opens only after `import auricle`.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    checkpoint: str = pydantic.Field(description="A short name of `auricle encoders`, a Hub name, or a folder.")
    revision: str | None = pydantic.Field(None, description="The Hub's branch, tag or commit; null is its main branch.")
    allow_pickle: bool = pydantic.Field(
        False,
        description="Open weights that exist only as pytorch_model.bin, as tensors alone; safetensors come first.",
    )
    preprocessor: dict[str, Any] = {}
    start: Literal["probe", "random"] = pydantic.Field(
        "random",
        description="What the head begins from: probe fits the family probe, and returns it where fine-tuning gains "
        "nothing on the validation clips; random is noise.",
    )
    freeze: Freeze | None = None
    stages: tuple[Stage, ...] = ()
    layer_decay: float = pydantic.Field(1.0, gt=0, le=1)
    weighted_sum: bool = False
    pooling: PoolingKind | None = None
    head: HeadOptions | None = None
    lora: Lora | None = None
    cache_frozen: bool = True
    cached_crops: int = pydantic.Field(4, ge=1)

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "Options":
        if self.stages and self.freeze is not None:
            raise ValueError(
                "model.freeze and model.stages are both given, and both choose what is frozen: set model.stages=[] or "
                "model.freeze=null"
            )
        if self.start == "probe" and (self.weighted_sum or self.pooling is not None or self.head is not None):
            given = next(name for name in ("weighted_sum", "pooling", "head") if getattr(self, name))
            raise ValueError(
                f"model.{given} is given, and with model.start=probe the probe decides pooling and head: set "
                f"model.start=random, or leave model.{given} out"
            )
        if self.weighted_sum and not self.is_stock:
            raise ValueError(
                "model.weighted_sum is true, and it needs the stock pooling and head: set model.pooling and model.head "
                "to null, or model.weighted_sum to false"
            )
        if self.lora is not None and all(stage.freeze in ("all", Top(top=0)) for stage in self.resolved_stages):
            raise ValueError("model.lora is given, and all layers are frozen: unfreeze some with model.freeze")
        starts = [stage.from_epoch for stage in self.stages]
        if starts and (starts[0] != 1 or sorted(set(starts)) != starts):
            raise ValueError(f"the stages' from_epoch are {starts}; they must start at 1 and increase")
        return self

    @property
    def is_stock(self) -> bool:
        """Whether the pooling and the head are those of a stock classifier."""
        return self.pooling is None and (self.head is None or self.head.kind == "softmax")

    @property
    def resolved_stages(self) -> tuple[Stage, ...]:
        """The stages; one if the recipe names none."""
        return self.stages or (Stage(freeze=self.freeze or "none"),)


def resolve(recipe: Recipe, options: Options) -> Recipe:
    """Fill in what the checkpoint decides: the sample rate, and windows where it limits the length of clips.

    Raises UsageError for a rate other than the checkpoint's, for stereo, for what this family cannot augment, and for
    freezing that the checkpoint or the number of epochs forbids.
    """
    # Reading a checkpoint needs transformers; checking the options above does not.
    from auricle.models.checkpoint import read_config, read_extractor
    from auricle.models.encoders import max_samples

    config = read_config(options.checkpoint, options.revision)
    extractor = read_extractor(options.checkpoint, config, options.preprocessor, options.revision)
    rate = int(extractor.sampling_rate)
    if recipe.audio.sample_rate not in (None, rate):
        raise UsageError(
            f"audio.sample_rate received {recipe.audio.sample_rate}, and the checkpoint '{options.checkpoint}' "
            f"takes {rate} Hz. Set it to {rate} or null."
        )
    if recipe.audio.channels != 1:
        raise UsageError("audio.channels received 2. Speech encoders take one channel: set it to 1.")
    for name in ("frequency_masks", "time_masks", "mixup_alpha"):
        if getattr(recipe.augment, name):
            raise UsageError(
                f"augment.{name} received {getattr(recipe.augment, name)}. Speech encoders mask spans of their own "
                "features, as the checkpoint's config defines, and mix no clips: set it to 0."
            )
    if recipe.train.min_crop_seconds is not None:
        raise UsageError(
            f"train.min_crop_seconds received {recipe.train.min_crop_seconds}. The frozen layers of a speech encoder "
            "are computed for crops of one length: set it to null."
        )
    if options.start == "random":
        check_steps(recipe.train, "here the head begins from noise (model.start=random)", epochs=True)
    elif not recipe.train.load_best_model_at_end:
        raise UsageError(
            "train.load_best_model_at_end received false. With model.start=probe the best of the probe and all epochs "
            "is returned: set it to true, or set model.start=random."
        )
    _check_freezing(options, int(config.num_hidden_layers), recipe.train.epochs)
    recipe = recipe.replace("audio", sample_rate=rate)
    samples = max_samples(config.model_type, extractor)
    if samples is None:
        return recipe
    seconds = samples / rate
    if recipe.evaluate.window_seconds is None or recipe.evaluate.window_seconds > seconds:
        recipe = recipe.replace("evaluate", window_seconds=seconds)
    if recipe.train.crop_seconds is None or recipe.train.crop_seconds > seconds:
        recipe = recipe.replace("train", crop_seconds=seconds)
    return recipe


def _check_freezing(options: Options, layers: int, epochs: int | None) -> None:
    late = [stage.from_epoch for stage in options.stages if epochs is not None and stage.from_epoch > epochs]
    if epochs is None and len(options.stages) > 1:
        raise UsageError(
            f"model.stages received {len(options.stages)} stages, and train.epochs is null, so their number follows "
            "the training clips. Set train.epochs, or one stage."
        )
    if late:
        raise UsageError(
            f"model.stages received a stage that starts at epoch {late[0]}, and train.epochs is {epochs}. Train "
            "longer, or start the stage earlier."
        )
    for freeze in (stage.freeze for stage in options.resolved_stages):
        if isinstance(freeze, Top) and freeze.top > layers:
            raise UsageError(
                f"model.freeze received top: {freeze.top}. The checkpoint '{options.checkpoint}' has {layers} layers."
            )
