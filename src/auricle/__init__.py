"""auricle: from labelled recordings to a sound classifier that can be trusted.

The public names are imported when they are first used; importing the package itself costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from auricle.models import registration

if TYPE_CHECKING:
    from auricle.corpus.clip import Clip as Clip
    from auricle.corpus.clip import Index as Index
    from auricle.corpus.read import read_index as read_index
    from auricle.errors import AuricleError as AuricleError
    from auricle.evaluation.compare import Comparison as Comparison
    from auricle.evaluation.compare import compare as compare
    from auricle.evaluation.evaluate import Evaluation as Evaluation
    from auricle.evaluation.report import Report as Report
    from auricle.inference.classifier import Classifier as Classifier
    from auricle.inference.classifier import Prediction as Prediction
    from auricle.inference.classifier import load as load
    from auricle.inference.run import Run as Run
    from auricle.inference.run import audition as audition
    from auricle.inference.run import evaluate as evaluate
    from auricle.inference.run import inspect as inspect
    from auricle.inference.run import open_run as open_run
    from auricle.inference.run import train as train
    from auricle.preparation.inspection import Inspection as Inspection
    from auricle.recipe import Recipe as Recipe
    from auricle.training.audition import Audition as Audition
    from auricle.voices.enrol import enrol as enrol
    from auricle.voices.identify import identify as identify
    from auricle.voices.identify import verify as verify
    from auricle.voices.store import VoiceStore as VoiceStore

__version__ = "0.1.0"

# The modules of the public names, each imported when one of its names is first used.
_MODULES = {
    "auricle.corpus.clip": ("Clip", "Index"),
    "auricle.corpus.read": ("read_index",),
    "auricle.errors": ("AuricleError",),
    "auricle.evaluation.compare": ("Comparison", "compare"),
    "auricle.evaluation.evaluate": ("Evaluation",),
    "auricle.evaluation.report": ("Report",),
    "auricle.inference.classifier": ("Classifier", "Prediction", "load"),
    "auricle.inference.run": ("Run", "audition", "evaluate", "inspect", "open_run", "train"),
    "auricle.preparation.inspection": ("Inspection",),
    "auricle.recipe": ("Recipe",),
    "auricle.training.audition": ("Audition",),
    "auricle.voices.enrol": ("enrol",),
    "auricle.voices.identify": ("identify", "verify"),
    "auricle.voices.store": ("VoiceStore",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(["__version__", *_MODULE_OF])


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'auricle' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__


registration.register_on_import()
