"""auricle: from labelled recordings to a sound classifier that can be trusted.

The public names are imported when they are first used; importing the package itself costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from auricle.models import registration

if TYPE_CHECKING:
    from auricle.corpus.clip import Clip, Index
    from auricle.corpus.read import read_index
    from auricle.errors import AuricleError
    from auricle.inference.classifier import Classifier, Prediction, load
    from auricle.recipe import Recipe
    from auricle.voices.enrol import enrol
    from auricle.voices.identify import identify, verify
    from auricle.voices.store import VoiceStore

__version__ = "0.1.0"

__all__ = [
    "AuricleError",
    "Classifier",
    "Clip",
    "Index",
    "Prediction",
    "Recipe",
    "VoiceStore",
    "__version__",
    "enrol",
    "identify",
    "load",
    "read_index",
    "verify",
]

_HOME = {
    "AuricleError": "auricle.errors",
    "Classifier": "auricle.inference.classifier",
    "Clip": "auricle.corpus.clip",
    "Index": "auricle.corpus.clip",
    "Prediction": "auricle.inference.classifier",
    "Recipe": "auricle.recipe",
    "VoiceStore": "auricle.voices.store",
    "enrol": "auricle.voices.enrol",
    "identify": "auricle.voices.identify",
    "load": "auricle.inference.classifier",
    "read_index": "auricle.corpus.read",
    "verify": "auricle.voices.identify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'auricle' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


registration.register_on_import()
