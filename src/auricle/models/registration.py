"""The model families, and their registration with transformers.

The families are the modules of `families/`, imported on demand: `family` imports what a recipe check needs, `network`
imports torch and transformers. After `import auricle`, transformers opens our model folders:
`pipeline("audio-classification", model=RUN/model)`. Importing transformers takes seconds, so families are registered
with its auto classes when somebody imports those, or at once if they are imported already. A family's own modules name
them `transformers.AutoModelForAudioClassification`, at call time: registration must find the modules complete.
"""

import importlib
import importlib.abc
import importlib.machinery
import pkgutil
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from auricle.errors import MissingExtra, UsageError, unknown

if TYPE_CHECKING:
    import pydantic
    from transformers import PreTrainedModel

    from auricle.models.options import ModelSpec
    from auricle.recipe import Recipe

_AUTO_CLASSES = "transformers.models.auto.modeling_auto"


class Family(Protocol):
    """What every module of `families/` defines; a package defines it in `__init__.py`, without heavy imports.

    `TRAINING` is how its models are trained, `TAKES_FEATURES` whether they take precomputed features, `MODEL_TYPES` the
    `model_type`s of config.json that it opens. `resolve(recipe, options) -> Recipe` fills in what a
    checkpoint decides; only families with an option `checkpoint` have it.
    """

    Options: "type[pydantic.BaseModel]"
    TRAINING: Literal["gradient", "closed_form", "fine_tuning"]
    TAKES_FEATURES: bool
    MODEL_TYPES: tuple[str, ...]
    resolve: "Callable[[Recipe, Any], Recipe]"


class Network(Protocol):
    """What every family defines for building models; a package defines it in `network.py`.

    `build` makes a fresh model from the family's Options; `AUTO_MODELS` are the classes that transformers opens.
    """

    Model: Any
    AUTO_MODELS: "tuple[type[PreTrainedModel], ...]"
    build: "Callable[[Any, ModelSpec], PreTrainedModel]"


def register_on_import() -> None:
    """Register the families now, or as soon as transformers imports its auto classes."""
    if _AUTO_CLASSES in sys.modules:
        register()
    elif not any(isinstance(finder, _AutoClassesFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AutoClassesFinder())


class _AutoClassesFinder(importlib.abc.MetaPathFinder):
    """Finds the module of the auto classes as usual, once, and wraps its loader."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _AUTO_CLASSES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


class _RegisteringLoader(importlib.abc.Loader):
    """Runs a module with its own loader, then registers our families."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        register()


def names() -> list[str]:
    """The names of the model families: the folder listing."""
    from auricle.models import families

    return sorted(module.name for module in pkgutil.iter_modules(families.__path__))


def family(name: str) -> Family:
    """Import a family's options and attributes. Raises UsageError for an unknown name."""
    if name not in names():
        raise UsageError(unknown("model family", name, names()))
    return cast(Family, _imported(f"auricle.models.families.{name}"))


def network(name: str) -> Network:
    """Import a family's network. Raises UsageError for an unknown name, MissingExtra without torch or transformers."""
    module = family(name)
    is_package = hasattr(module, "__path__")
    return cast(Network, _imported(f"auricle.models.families.{name}.network") if is_package else module)


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("torch", "transformers", "sklearn"):
            raise MissingExtra("Training and running models", "train") from error
        raise


def parse_options(recipe: "Recipe") -> Any:
    """The options of the recipe's family, as its own type. Raises UsageError for an unknown family or option."""
    import pydantic

    from auricle.recipe import explain

    options = family(recipe.model.family).Options
    try:
        return options.model_validate(recipe.model.options)
    except pydantic.ValidationError as error:
        problems = explain(error, options)
        raise UsageError(f"model section, family '{recipe.model.family}': {problems}") from error


def family_of(model_type: str) -> str | None:
    """The name of the family that opens a model folder of this type, None if there is none."""
    return next((name for name in names() if model_type in family(name).MODEL_TYPES), None)


def register() -> None:
    """Register our models with the auto classes of transformers, so that they open their folders."""
    from transformers import AutoConfig, AutoModelForAudioClassification

    from auricle.models.encoders import efficientat

    models: list[Any] = [efficientat.Model, *(model for name in names() for model in network(name).AUTO_MODELS)]
    for model in models:
        AutoConfig.register(model.config_class.model_type, model.config_class, exist_ok=True)
        AutoModelForAudioClassification.register(model.config_class, model, exist_ok=True)
