"""The model families, and their registration with transformers.

The families are the files of `families/`, imported on demand. After `import auricle`, transformers opens our model
folders: `pipeline("audio-classification", model=RUN/model)`. transformers takes seconds to import and a command line has
none to spare, so families enter its auto classes when it imports them itself, or at once if it already has.
"""

import importlib
import importlib.abc
import importlib.machinery
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from auricle.errors import MissingExtra, UsageError, unknown

if TYPE_CHECKING:
    from auricle.recipe import Recipe

_AUTO = "transformers.models.auto.modeling_auto"


def arrange() -> None:
    """Register the families now or when transformers comes to its auto classes."""
    if _AUTO in sys.modules:
        register()
    elif not any(isinstance(finder, _AfterAuto) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterAuto())


class _AfterAuto(importlib.abc.MetaPathFinder):
    """Finds the auto classes' module as usual, once, and asks to be called when it has run."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _AUTO:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


class _ThenRegister(importlib.abc.Loader):
    """Runs a module by its own loader, then enters our families."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        register()


def names() -> list[str]:
    """The model families there are: the folder listing."""
    from auricle.models import families

    return sorted(module.name for module in pkgutil.iter_modules(families.__path__))


def family(name: str) -> ModuleType:
    """Import a family by name. Raises UsageError for one that is not known."""
    if name not in names():
        raise UsageError(unknown("model family", name, names()))
    try:
        return importlib.import_module(f"auricle.models.families.{name}")
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in ("torch", "transformers", "sklearn"):
            raise MissingExtra("Training and running models", "train") from error
        raise


def parse_options(recipe: "Recipe") -> Any:
    """The options of the recipe's family, as its own type. Raises UsageError for an unknown family or option."""
    import pydantic

    from auricle.recipe import explain

    module = family(recipe.model.family)
    try:
        return module.Options.model_validate(recipe.model.options)
    except pydantic.ValidationError as error:
        problems = explain(error, module.Options)
        raise UsageError(f"model section, family '{recipe.model.family}': {problems}") from error


def family_of(model_type: str) -> ModuleType | None:
    """The family that opens a model folder of this type, None when there is none."""
    for name in names():
        module = family(name)
        own = getattr(module, "Config", None)
        if (own is not None and own.model_type == model_type) or (own is None and module.opens(model_type)):
            return module
    return None


def register() -> None:
    """Make every family known to the auto classes of transformers, so that a model folder opens by itself."""
    from transformers import AutoConfig, AutoModelForAudioClassification

    from auricle.models.encoders import custom_head

    for module in (*map(family, names()), custom_head):
        if hasattr(module, "Config"):
            AutoConfig.register(module.Config.model_type, module.Config, exist_ok=True)
            AutoModelForAudioClassification.register(module.Config, module.Model, exist_ok=True)
