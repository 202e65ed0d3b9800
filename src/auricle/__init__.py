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
    from auricle.evaluation.evaluate import Evaluation
    from auricle.evaluation.report import Report
    from auricle.inference.classifier import Classifier, Prediction, load
    from auricle.inference.run import Run, evaluate, inspect, open_run, train
    from auricle.preparation.inspection import Inspection
    from auricle.recipe import Recipe
    from auricle.voices.enrol import enrol
    from auricle.voices.identify import identify, verify
    from auricle.voices.store import VoiceStore

__version__ = "0.1.0"

# Each public name and the module that it is imported from when it is first used.
_HOME = {
    "AuricleError": "auricle.errors",
    "Classifier": "auricle.inference.classifier",
    "Clip": "auricle.corpus.clip",
    "Evaluation": "auricle.evaluation.evaluate",
    "Index": "auricle.corpus.clip",
    "Inspection": "auricle.preparation.inspection",
    "Prediction": "auricle.inference.classifier",
    "Recipe": "auricle.recipe",
    "Report": "auricle.evaluation.report",
    "Run": "auricle.inference.run",
    "VoiceStore": "auricle.voices.store",
    "enrol": "auricle.voices.enrol",
    "evaluate": "auricle.inference.run",
    "identify": "auricle.voices.identify",
    "inspect": "auricle.inference.run",
    "load": "auricle.inference.classifier",
    "open_run": "auricle.inference.run",
    "read_index": "auricle.corpus.read",
    "train": "auricle.inference.run",
    "verify": "auricle.voices.identify",
}

__all__ = [
    "AuricleError",
    "Classifier",
    "Clip",
    "Evaluation",
    "Index",
    "Inspection",
    "Prediction",
    "Recipe",
    "Report",
    "Run",
    "VoiceStore",
    "__version__",
    "enrol",
    "evaluate",
    "identify",
    "inspect",
    "load",
    "open_run",
    "read_index",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'auricle' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


registration.register_on_import()
