"""The recipe: everything that decides a run, in six strict sections.

In: a named recipe, a YAML file, and `--set section.key=value`. Out: one frozen Recipe, saved resolved as recipe.yaml in
the run folder. A key that does not exist is an error that names the nearest one; nothing is silently ignored. Options
of a model family live beside `model.family` and are checked by the family itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic
import yaml
from pydantic_core import PydanticCustomError

from auricle.errors import UsageError, unknown

LEAST_SOUND_RATE = MOST_FRAME_RATE = 1000
# What a recording is called that a model refuses to name.
REFUSED = "unknown"


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Data(_Section):
    """What is read, and how it is divided. The classes in `held_out_classes` are never learnt: they show when to say so."""

    reader: str = "auto"
    options: dict[str, Any] = {}
    label: str | None = None
    group: str | None = None
    fold: str | None = None
    corrections: str | None = None
    held_out_classes: list[Annotated[str, pydantic.Field(coerce_numbers_to_str=True)]] = []
    split: str = "auto"
    folds: int = pydantic.Field(5, ge=2)
    valid: float = pydantic.Field(0.1, ge=0, lt=0.5)
    test: float = pydantic.Field(0.2, gt=0, lt=0.9)
    strict: bool = False
    seed: int = 0


class Audio(_Section):
    """How recordings are stored for this run: the input of the model. `bands` is the width of precomputed features, such as
    log-mel, that take the place of sound: the corpus says it, and `sample_rate` is then frames per second.
    """

    num_features: int | None = pydantic.Field(None, ge=1, le=1024)
    sample_rate: int | None = pydantic.Field(None, ge=1, le=384_000)
    channels: Literal[1, 2] = 1
    min_seconds: float = pydantic.Field(0.05, ge=0)
    max_seconds: float = pydantic.Field(3600, gt=0)

    @pydantic.field_validator("sample_rate")
    @classmethod
    def _rate_of_sound(cls, rate: int | None, info: pydantic.ValidationInfo) -> int | None:
        """Sound has a thousand samples a second or more, precomputed features fewer."""
        if rate is None or "num_features" not in info.data:
            return rate
        if info.data["num_features"] is None and rate < LEAST_SOUND_RATE:
            raise PydanticCustomError("rate", f"sound needs {LEAST_SOUND_RATE} hertz or more")
        if info.data["num_features"] is not None and rate > MOST_FRAME_RATE:
            raise PydanticCustomError("rate", f"precomputed features come at {MOST_FRAME_RATE} a second or fewer")
        return rate


class Augment(_Section):
    """What training does to its clips; zero is off. Evaluation never does any of it."""

    shift: float = pydantic.Field(0.0, ge=0, le=1)
    gain_db: float = pydantic.Field(0.0, ge=0, le=40)
    noise: float = pydantic.Field(0.0, ge=0, le=1)
    frequency_masks: int = pydantic.Field(0, ge=0, le=10)
    frequency_share: float = pydantic.Field(0.1, ge=0, le=1)
    time_masks: int = pydantic.Field(0, ge=0, le=10)
    time_share: float = pydantic.Field(0.1, ge=0, le=1)
    mixup: float = pydantic.Field(0.0, ge=0, le=10)


class Model(_Section):
    """The model family; its own options stand beside it and are checked by the family."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)

    family: str = "cnn"

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class Train(_Section):
    """How weights are found. `select: best` keeps the best validation epoch, `last` the final one; `seeds: 3` trains
    the same split from `seed` and the next two, to show the spread, and the result stays that of the first. Random
    stretches of `crop_seconds` are heard, or, batch by batch, of any length from `min_crop_seconds` seconds to that.
    """

    epochs: int = pydantic.Field(30, ge=1)
    batch_size: int = pydantic.Field(16, ge=1)
    accumulation: int = pydantic.Field(1, ge=1)
    optimizer: Literal["adamw", "adam"] = "adamw"
    learning_rate: float = pydantic.Field(1e-3, gt=0)
    weight_decay: float = pydantic.Field(0.01, ge=0)
    schedule: Literal["one-cycle", "cosine", "linear"] = "one-cycle"
    warmup: float = pydantic.Field(0.1, ge=0, lt=1)
    max_grad_norm: float = pydantic.Field(1.0, ge=0)
    crop_seconds: float | None = pydantic.Field(None, ge=0.05)
    min_crop_seconds: float | None = pydantic.Field(None, ge=0.05)
    balance: Literal["none", "loss", "sampling"] = "none"
    label_smoothing: float = pydantic.Field(0.0, ge=0, lt=1)
    ema: float = pydantic.Field(0.0, ge=0, lt=1)
    select: Literal["best", "last"] = "best"
    metric: Literal["balanced_accuracy", "accuracy", "macro_f1", "log_loss"] = "balanced_accuracy"
    patience: int | None = pydantic.Field(None, ge=1)
    precision: Literal["auto", "float32", "bf16"] = "auto"
    track: Literal["none", "trackio", "wandb", "tensorboard", "mlflow"] = "none"
    seed: int = 0
    seeds: int = pydantic.Field(1, ge=1)

    @pydantic.model_validator(mode="after")
    def _crop_in_order(self) -> "Train":
        if self.min_crop_seconds is not None and (
            self.crop_seconds is None or self.min_crop_seconds > self.crop_seconds
        ):
            raise ValueError(
                f"train.min_crop_seconds is {self.min_crop_seconds} and train.crop_seconds {self.crop_seconds}: the shortest "
                "stretch cannot be longer than the longest. Set min_crop_seconds to null, or crop_seconds higher"
            )
        return self


class Evaluate(_Section):
    """How clips are scored. `window_seconds: null` scores whole clips. `false_accept` is the share of unknown clips, or
    of wrong answers where no class is held out, that may be named all the same: the rest is answered "unknown".
    """

    window_seconds: float | None = pydantic.Field(None, ge=0.05)
    overlap: float = pydantic.Field(0.5, ge=0, lt=1)
    batch_seconds: float = pydantic.Field(120.0, gt=0)
    top_k: int = pydantic.Field(3, ge=1)
    resamples: int = pydantic.Field(1000, ge=100)
    min_slice_clips: int = pydantic.Field(20, ge=1)
    examples: int = pydantic.Field(12, ge=0)
    max_false_accept_rate: float | None = pydantic.Field(None, gt=0, le=0.5)
    embed_audio: bool = True


class Recipe(_Section):
    """One run, decided."""

    name: str = "custom"
    data: Data = Data()
    audio: Audio = Audio()
    augment: Augment = Augment()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    def save(self, path: Path) -> None:
        """Write the resolved recipe as YAML."""
        path.write_text(yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True), encoding="utf-8")

    def replace(self, section: str, **values: Any) -> "Recipe":
        """The same recipe with some keys of one section changed."""
        content = self.model_dump()
        content[section] = {**content[section], **values}
        return parse(content, f"section '{section}'")


def names() -> list[str]:
    """The recipes that come with auricle."""
    files = resources.files("auricle.recipes").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load(name_or_path: str | Path, settings: Iterable[str] = ()) -> Recipe:
    """Read a recipe by name or from a YAML file and apply `section.key=value` settings.

    Raises UsageError for an unknown recipe, an unreadable file, an unknown key or a value out of bounds.
    """
    path = Path(name_or_path)
    if str(name_or_path) in names():
        text = resources.files("auricle.recipes").joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    elif path.suffix in (".yaml", ".yml") and path.is_file():
        text = path.read_text(encoding="utf-8")
    elif path.suffix in (".yaml", ".yml"):
        raise UsageError(f"No recipe file at '{path}'. Give an existing YAML file or one of: {', '.join(names())}.")
    else:
        raise UsageError(unknown("recipe", str(name_or_path), names()) + " A path to a YAML file works too.")
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"The recipe '{name_or_path}' is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"The recipe '{name_or_path}' is not a mapping of sections. Known: {_keys(Recipe)}.")
    if "name" not in content:
        content["name"] = path.stem
    for setting in settings:
        _apply(content, setting)
    return parse(content, f"recipe '{name_or_path}'")


def parse(content: Mapping[str, Any], origin: str) -> Recipe:
    """Check a recipe's content. Raises UsageError that says what was received and what is allowed."""
    try:
        return Recipe.model_validate(content)
    except pydantic.ValidationError as error:
        raise UsageError(f"{origin}: {explain(error, Recipe)}") from error


def explain(error: pydantic.ValidationError, root: type[pydantic.BaseModel]) -> str:
    """Turn a pydantic error into one sentence per key, with the nearest known key for a misspelt one."""
    said: dict[str, list[str]] = {}
    received: dict[str, Any] = {}
    lines = []
    for fault in error.errors():
        if not fault["loc"]:
            # A fault between several keys names them itself.
            lines.append(f"{fault['msg'].removeprefix('Value error, ')}.")
            continue
        path, section = _followed(fault["loc"], root)
        if fault["type"] == "extra_forbidden":
            outermost = "section" if root is Recipe else "option"
            place = f"key in '{'.'.join(path[:-1])}'" if path[:-1] else outermost
            lines.append(unknown(place, path[-1], section.model_fields))
            continue
        name = ".".join(path)
        received[name] = fault["input"]
        said.setdefault(name, []).append(_wanted(fault))
    return " ".join([*lines, *(f"'{name}' is {received[name]!r}: {' or '.join(said[name])}." for name in said)])


def _followed(place: Sequence[int | str], root: type[pydantic.BaseModel]) -> tuple[list[str], type[pydantic.BaseModel]]:
    """The keys of a fault's place, without what pydantic adds for alternatives, and the section of the last."""
    path: list[str] = []
    section = inside = root
    for step in place:
        if isinstance(step, int):
            path.append(str(step))
        elif step in inside.model_fields:
            path.append(step)
            section = inside
            inside = _section_of(inside.model_fields[step].annotation) or inside
        elif step == place[-1] and "[" not in step and step != inside.__name__:
            path.append(step)
            section = inside
    return path, section


def _section_of(annotation: Any) -> type[pydantic.BaseModel] | None:
    """The section that an annotation names, be it optional, one of several kinds, or the items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section_of(inner)) is not None), None)


def _wanted(fault: Any) -> str:
    if fault["type"] == "model_type":
        return "a mapping of keys is allowed"
    return str(fault["msg"]).lower()


def _keys(section: type[pydantic.BaseModel]) -> str:
    return ", ".join(section.model_fields)


def _apply(content: dict[str, Any], setting: str) -> None:
    """Apply one `section.key=value`; the value is read as YAML, so 3, 0.5, null, [a, b] and text all work."""
    path, equals, value = setting.partition("=")
    section, dot, key = path.strip().partition(".")
    if not equals or not dot or not key:
        raise UsageError(f"--set received '{setting}'. Write it as section.key=value, for example train.epochs=20.")
    if section not in Recipe.model_fields:
        raise UsageError(f"--set {setting}: " + unknown("section", section, Recipe.model_fields))
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {setting}: the value is not valid YAML: {error}") from error
    if isinstance(parsed, str):
        parsed = _number(parsed)
    inner = content.setdefault(section, {})
    if not isinstance(inner, dict):
        raise UsageError(f"--set {setting}: the recipe's '{section}' is not a section of keys.")
    *outer, last = key.split(".")
    for name in outer:
        if isinstance(inner.get(name), list):
            raise UsageError(
                f"--set {setting}: '{section}.{name}' is a list. Give it whole: --set {section}.{name}=[…]."
            )
        if not isinstance(inner.get(name), dict):
            # A word or nothing gives way to the mapping that is meant: freeze: none to freeze.top=2.
            inner[name] = {}
        inner = inner[name]
    inner[last] = parsed


def _number(text: str) -> str | float:
    """YAML 1.1 reads 1e-3 as text; a person means the number."""
    try:
        return float(text)
    except ValueError:
        return text
