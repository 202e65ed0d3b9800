"""The recipe: everything that decides a run, in six strict sections.

In: the content of a recipe, as `recipes.load` reads it. Out: one frozen Recipe, saved with every value as recipe.yaml
in the run folder. A key that does not exist is an error that names the nearest one. The descriptions and units here are
the text of docs/recipes.md. Options of a model family are checked by the family itself.
"""

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic
import yaml
from pydantic import Field
from pydantic_core import PydanticCustomError

from auricle.errors import UsageError, unknown

# Audio has this many samples a second or more, precomputed features this many frames or fewer.
MIN_AUDIO_RATE = MAX_FEATURE_RATE = 1000
# The answer for a recording that the model rejects.
REFUSED = "unknown"


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Data(_Section):
    """What is read, and how it is divided into training, validation and test clips."""

    reader: str = Field(
        "auto", description="The reader of the corpus' layout, such as folder or table; auto recognises it."
    )
    reader_options: dict[str, Any] = Field({}, description="Options of the reader, such as the pattern of file names.")
    label: str | None = Field(
        None,
        description="The field that holds the class: a column (column:species, or species), a folder level (folder:2), "
        "a part of the file name (name:1); null takes the corpus' own.",
    )
    group: str | None = Field(
        None,
        description="The field that must not cross the split, such as the speaker, written as for data.label; null "
        "takes the corpus' own, or decides by evidence; none ignores groups.",
    )
    fold: str | None = Field(
        None, description="The metadata column that holds the fold: train, valid, test, or any names."
    )
    corrections: str | None = Field(
        None, description="A CSV of corrected labels and excluded clips, as `auricle listen` writes it."
    )
    excluded_classes: list[Annotated[str, Field(coerce_numbers_to_str=True)]] = Field(
        [], description="Classes whose clips are left out of the corpus."
    )
    held_out_classes: list[Annotated[str, Field(coerce_numbers_to_str=True)]] = Field(
        [], description='Classes that are never trained on; they set and test the threshold for the answer "unknown".'
    )
    split: str = Field(
        "auto",
        description="auto, predefined, holdout, folds, leave-one-group-out, random, or a split.json. auto takes the "
        "corpus' own folds or parts, else folds where a test part would hold few groups, else holdout.",
    )
    folds: int = Field(5, ge=2, description="Number of folds for `split: folds`.")
    validation_size: float = Field(0.1, ge=0, lt=0.5, description="Share of the clips for validation, 0 to 0.5.")
    test_size: float = Field(0.2, gt=0, lt=0.9, description="Share of the clips for testing, 0 to 0.9.")
    strict: bool = Field(False, description="Whether a clip that cannot be used stops the run; else it is excluded.")
    seed: int = Field(0, description="Seed of the split.")


class Audio(_Section):
    """How recordings are decoded: the input of the model."""

    num_features: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Width of precomputed features, such as log-mel, used instead of audio; null takes what the corpus "
        "holds.",
    )
    sample_rate: int | None = Field(
        None,
        ge=1,
        le=384_000,
        description="Hertz, or frames per second of precomputed features; null takes the checkpoint's or the corpus' "
        "commonest rate.",
    )
    channels: Literal[1, 2] = Field(1, description="1 averages the channels, 2 keeps stereo.")
    min_seconds: float = Field(0.05, ge=0, description="Shortest usable clip, in seconds.")
    max_seconds: float = Field(3600, gt=0, description="Longest usable clip, in seconds.")

    @pydantic.field_validator("sample_rate")
    @classmethod
    def _check_sample_rate(cls, rate: int | None, info: pydantic.ValidationInfo) -> int | None:
        """Audio has a thousand samples a second or more, precomputed features fewer."""
        if rate is None or "num_features" not in info.data:
            return rate
        if info.data["num_features"] is None and rate < MIN_AUDIO_RATE:
            raise PydanticCustomError("rate", f"audio needs {MIN_AUDIO_RATE} hertz or more")
        if info.data["num_features"] is not None and rate > MAX_FEATURE_RATE:
            raise PydanticCustomError("rate", f"precomputed features come at {MAX_FEATURE_RATE} a second or fewer")
        return rate


class Augment(_Section):
    """Random changes of training clips; 0 is off. Validation and test clips are never changed."""

    shift_fraction: float = Field(
        0.0, ge=0, le=1, description="Largest circular shift, as a share of the clip's length."
    )
    gain_db: float = Field(0.0, ge=0, le=40, description="Largest change of level, up or down, in dB.")
    noise_fraction: float = Field(
        0.0, ge=0, le=1, description="Largest level of added white noise, as a share of the clip's RMS level."
    )
    frequency_masks: int = Field(0, ge=0, le=10, description="Number of masked frequency bands (SpecAugment).")
    frequency_mask_fraction: float = Field(
        0.1, ge=0, le=1, description="Largest width of one frequency mask, as a share of all mel bands."
    )
    time_masks: int = Field(0, ge=0, le=10, description="Number of masked time spans (SpecAugment).")
    time_mask_fraction: float = Field(
        0.1, ge=0, le=1, description="Largest length of one time mask, as a share of the clip."
    )
    mixup_alpha: float = Field(
        0.0, ge=0, le=10, description="Mixup of two clips with a share drawn from Beta(alpha, alpha)."
    )


class Model(_Section):
    """The model family. Its own options go in the same section, and the family checks them."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)

    family: str = Field("cnn", description="baseline, cnn, conformer or pretrained.")

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class Train(_Section):
    """How a model is trained. Keys that transformers.TrainingArguments has mean the same here."""

    epochs: int | None = Field(
        30,
        ge=1,
        description="Passes over the training clips. null follows the number of training clips; in the three keys "
        "like it, too, with model.start=probe.",
    )
    batch_size: int | None = Field(
        16, ge=1, description="Clips per batch; halved automatically when memory runs out; null follows."
    )
    gradient_accumulation_steps: int | None = Field(1, ge=1, description="Batches per optimizer step; null follows.")
    optimizer: Literal["adamw", "adam"] = Field("adamw", description="The optimizer.")
    learning_rate: float | None = Field(1e-3, gt=0, description="Peak learning rate; null follows.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of AdamW.")
    lr_scheduler_type: Literal["one-cycle", "cosine", "linear", "warmup-stable-decay"] = Field(
        "one-cycle",
        description="Shape of the learning rate over the training. With warmup-stable-decay it falls once validation "
        "is flat, and training ends.",
    )
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    max_grad_norm: float = Field(
        1.0, ge=0, description="Largest norm of the gradient; longer ones are clipped; 0 is off."
    )
    crop_seconds: float | None = Field(
        None,
        ge=0.05,
        description="Length of the random crops of training clips, in seconds; null trains on whole clips.",
    )
    min_crop_seconds: float | None = Field(
        None,
        ge=0.05,
        description="Draws a crop length for each batch between this and crop_seconds, in seconds; null always takes "
        "crop_seconds.",
    )
    class_balance: Literal["none", "loss", "sampling"] = Field(
        "none", description="Gives classes equal weight: in the loss, or by sampling clips."
    )
    label_smoothing_factor: float = Field(0.0, ge=0, lt=1, description="Share of each target spread over all classes.")
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="Decay of the exponential moving average of the weights that is used; 0 is off."
    )
    load_best_model_at_end: bool = Field(
        True, description="Whether the model keeps its best validation epoch; else the last one."
    )
    metric_for_best_model: Literal["balanced_accuracy", "accuracy", "macro_f1", "log_loss"] = Field(
        "balanced_accuracy", description="The validation metric of the best epoch; ties go to the lower log loss."
    )
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        description="Epochs without a better one after which training stops; null never stops early. With "
        "warmup-stable-decay the epochs after which the rate falls; null takes about 100 steps, two epochs at least.",
    )
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="auto is bf16 where the processor multiplies it natively."
    )
    report_to: Literal["none", "trackio", "wandb", "tensorboard", "mlflow"] = Field(
        "none", description="The experiment tracker that gets curves, test metrics and the model."
    )
    seed: int = Field(0, description="Seed of weights, batches and augmentation.")
    seeds: int = Field(
        1, ge=1, description="Number of seeds that the same split is trained from, to show the variance across seeds."
    )

    @pydantic.model_validator(mode="after")
    def _check_crops(self) -> "Train":
        shortest, longest = self.min_crop_seconds, self.crop_seconds
        if shortest is not None and (longest is None or shortest > longest):
            raise ValueError(
                f"train.min_crop_seconds is {shortest} and train.crop_seconds is {longest}: the shortest crop cannot "
                "be longer than the longest. Set min_crop_seconds to null, or crop_seconds higher"
            )
        return self


class Evaluate(_Section):
    """How clips are scored and reported."""

    window_seconds: float | None = Field(
        None,
        ge=0.05,
        description="Length of the windows that clips are scored in, in seconds; null scores whole clips.",
    )
    window_overlap: float = Field(
        0.5, ge=0, lt=1, description="Overlap of neighbouring windows, as a share of a window."
    )
    batch_seconds: float = Field(120.0, gt=0, description="Most padded audio in one batch, in seconds.")
    top_k: int = Field(3, ge=1, description="The k of top-k accuracy.")
    bootstrap_resamples: int = Field(
        1000, ge=100, description="Bootstrap resamples for the standard error of each confidence interval."
    )
    min_slice_clips: int = Field(20, ge=1, description="Fewest clips for which a slice of the test clips is reported.")
    examples: int = Field(12, ge=0, description="Misclassified clips shown in the report.")
    max_false_accept_rate: float | None = Field(
        None,
        gt=0,
        le=0.5,
        description="Share of clips of held-out classes (or of wrong answers, if none is held out) that may still get "
        'a class; the rest is answered "unknown". null is off, or 0.05 with held-out classes.',
    )
    embed_audio: bool = Field(True, description="Whether the report embeds the audio of its examples.")


class Recipe(_Section):
    """Everything that decides a run."""

    name: str = "custom"
    data: Data = Data()
    audio: Audio = Audio()
    augment: Augment = Augment()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    def save(self, path: Path) -> None:
        """Write every value as YAML."""
        path.write_text(yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True), encoding="utf-8")

    def replace(self, section: str, **values: Any) -> "Recipe":
        """The same recipe with some keys of one section changed."""
        content = self.model_dump()
        content[section] = {**content[section], **values}
        given = {*self.data.model_fields_set, *(values if section == "data" else ())}
        return parse(content, f"section '{section}'").with_given(given)

    def with_given(self, keys: Collection[str]) -> "Recipe":
        """The same recipe, of whose data section only these keys count as given: its `model_fields_set`."""
        data = Data.model_construct(_fields_set={*keys} & {*Data.model_fields}, **dict(self.data))
        return self.model_copy(update={"data": data})


def parse(content: Mapping[str, Any], origin: str, typed: Mapping[str, str] | None = None) -> Recipe:
    """Check a recipe's content, of which nothing counts as given (`with_given`). Raises UsageError that says what was
    received and what is allowed.

    `typed` names keys in messages as the user typed them.
    """
    try:
        return Recipe.model_validate(content).with_given(())
    except pydantic.ValidationError as error:
        raise UsageError(f"{origin}: {explain(error, Recipe, typed)}") from error


def check_steps(train: Train, reason: str, *, epochs: bool) -> None:
    """Raise UsageError where the rate, the batch or, with `epochs`, their number is null, and nothing fills it in:
    `reason` says why not.
    """
    names = ("batch_size", "gradient_accumulation_steps", "learning_rate", *(("epochs",) if epochs else ()))
    missing = [name for name in names if getattr(train, name) is None]
    if missing:
        raise UsageError(
            f"train.{missing[0]} received null. It follows the number of training clips only with model.start=probe; "
            f"{reason}: set train.{missing[0]}={Train.model_fields[missing[0]].default}."
        )


def explain(
    error: pydantic.ValidationError, root: type[pydantic.BaseModel], typed: Mapping[str, str] | None = None
) -> str:
    """Turn a pydantic error into one sentence per key, with the nearest known key for a misspelt one."""
    allowed: dict[str, list[str]] = {}
    received: dict[str, Any] = {}
    lines = []
    for problem in error.errors():
        if not problem["loc"]:
            # A problem between several keys names them itself.
            lines.append(f"{problem['msg'].removeprefix('Value error, ')}.")
            continue
        path, section = _key_path(problem["loc"], root)
        if problem["type"] == "extra_forbidden":
            outermost = "section" if root is Recipe else "option"
            kind = f"key in '{'.'.join(path[:-1])}'" if path[:-1] else outermost
            lines.append(unknown(kind, path[-1], section.model_fields))
            continue
        name = ".".join(path)
        received[name] = problem["input"]
        allowed.setdefault(name, []).append(_allowed(problem))
    shown = {name: (typed or {}).get(name, f"'{name}'") for name in allowed}
    lines += [f"{shown[name]} is {received[name]!r}: {' or '.join(allowed[name])}." for name in allowed]
    return " ".join(lines)


def _key_path(
    location: Sequence[int | str], root: type[pydantic.BaseModel]
) -> tuple[list[str], type[pydantic.BaseModel]]:
    """The keys of a problem's location, without what pydantic adds for alternatives, and the section of the last."""
    path: list[str] = []
    section = inside = root
    for step in location:
        if isinstance(step, int):
            path.append(str(step))
        elif step in inside.model_fields:
            path.append(step)
            section = inside
            inside = _section_of(inside.model_fields[step].annotation) or inside
        elif step == location[-1] and "[" not in step and step != inside.__name__:
            path.append(step)
            section = inside
    return path, section


def _section_of(annotation: Any) -> type[pydantic.BaseModel] | None:
    """The section that an annotation names, be it optional, one of several kinds, or the items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return annotation
    return next((section for inner in get_args(annotation) if (section := _section_of(inner)) is not None), None)


def _allowed(problem: Any) -> str:
    return "a mapping of keys is allowed" if problem["type"] == "model_type" else str(problem["msg"]).lower()


def exclude_option(classes: Sequence[str]) -> str:
    """The option to type that leaves classes out, quoted as YAML and for the shell where that is needed."""
    names = (name if yaml.safe_load(f"[{json.dumps(name)}]") == _flow(name) else json.dumps(name) for name in classes)
    return f"`--set {shlex.quote(f'data.excluded_classes=[{chr(44).join(names)}]')}`"


def _flow(name: str) -> object:
    """A name as an item of a YAML list without quotes."""
    try:
        return yaml.safe_load(f"[{name}]")
    except yaml.YAMLError:
        return None
