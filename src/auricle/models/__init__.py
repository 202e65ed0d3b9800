"""The models: what turns waveforms into logits. The families are the files of `families/`, imported on demand.

A family file exports Options, Model and build. One whose models are of a type of its own exports their Config too; one
that runs other models' folders exports `opens(model_type)`, and `settle(recipe)` for what a checkpoint decides. One
that is fitted in closed form has a `solve` method on its Model and is not trained by gradient. One that takes ready
frames in place of sound too exports FRAMES = True, and its build has an argument `bands`, their width.
"""

import importlib
import pkgutil
from types import ModuleType

from auricle.errors import MissingExtra, UsageError, unknown


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

    from auricle.models.encoders import headed

    for module in (*map(family, names()), headed):
        if hasattr(module, "Config"):
            AutoConfig.register(module.Config.model_type, module.Config, exist_ok=True)
            AutoModelForAudioClassification.register(module.Config, module.Model, exist_ok=True)
