"""After `import auricle`, transformers opens our model folders: `pipeline("audio-classification", model=RUN/model)`.

transformers takes seconds to import and a command line has none to spare, so our families are entered into its auto
classes at the moment it imports them itself, or at once if it already has.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_AUTO = "transformers.models.auto.modeling_auto"


def arrange() -> None:
    """Register the families now or when transformers comes to its auto classes."""
    if _AUTO in sys.modules:
        _register()
    elif not any(isinstance(finder, _AfterAuto) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterAuto())


def _register() -> None:
    from auricle import models

    models.register()


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
        _register()
