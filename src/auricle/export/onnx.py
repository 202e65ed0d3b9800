"""Export a trained model as ONNX: a folder that answers without PyTorch, checked against PyTorch before it is kept.

In: a run or model folder. Out: a folder with model.onnx, export.json (what was checked, and the numbers) and a card. A
graph that does not answer as the model does, or an int8 one that is slower or worse, is refused with what was
measured, and whatever stood in the folder before stays.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from auricle.audio.recordings import Recording, hear, recordings
from auricle.corpus.clip import Index
from auricle.corpus.splits import load as load_split
from auricle.errors import RunError, UsageError
from auricle.evaluation.scoring import softmax
from auricle.export.card import card
from auricle.export.parity import Agreement, agreement, race
from auricle.export.quantize import narrow
from auricle.export.trace import trace
from auricle.inference.classifier import Classifier
from auricle.models.load import load_model
from auricle.models.onnx_runtime import FILE, OnnxModel
from auricle.preparation.windows import AudioSource, from_arrays
from auricle.run_folder import model_folder

# No probability may differ by more.
ALLOWED = 1e-4
CHECK_CLIPS = 100
# An int8 graph is judged on so many validation clips at the most, in so many turns.
GATE_CLIPS, GATE_ROUNDS = 300, 5
# Times of the same work differ by a twentieth: less of a gain than that may be none.
GATE_GAIN = 1.05
FACTS = "export.json"


@dataclass(frozen=True)
class Narrow:
    """How an int8 graph does beside the float32 one on labelled clips: accuracies and clips a second."""

    clips: int
    accuracy: tuple[float, float]
    rates: tuple[float, float]
    difference: float

    @property
    def loss(self) -> float:
        return self.accuracy[0] - self.accuracy[1]

    @property
    def described(self) -> str:
        wide, small = self.accuracy
        return (
            f"on {self.clips} validation clips int8 answers for {self.rates[1]:.1f} clips/s and float32 for "
            f"{self.rates[0]:.1f} ({self.rates[1] / self.rates[0]:.2f} times as fast), with an accuracy of {small:.3f} "
            f"against {wide:.3f}"
        )


def export(
    run: Path,
    out: Path | None = None,
    *,
    check: Sequence[str] = (),
    int8: bool = False,
    tolerance: float = 0.01,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write the exported folder, RUN/onnx or RUN/onnx-int8 by default, and return what export.json says.

    `check` names recordings to compare on, in the place of the run's own validation and test clips; `tolerance` is the
    accuracy that int8 may lose. Raises RunError for a graph that differs from the model by more than `ALLOWED` in any
    probability, for an int8 graph that is slower or loses more, and where there is nothing to compare on; UsageError
    for an `out` that holds something else.
    """
    folder = model_folder(run)
    out = out or run / ("onnx-int8" if int8 else "onnx")
    _check_free(out)
    model = load_model(folder).cpu()
    classifier = Classifier(model)
    clips = _hear([*recordings(check)] if check else _own(run), classifier, CHECK_CLIPS, run)
    labelled = _labelled(run, classifier) if int8 else []
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        say("Tracing the model.")
        products = trace(model, made / FILE)
        graph = OnnxModel.open(made)
        checked = _checked(agreement(model, graph, from_arrays(clips)))
        say(_told(checked))
        facts = {
            **_facts(graph, run, folder),
            "checked": {**asdict(checked), "allowed": ALLOWED, "on": "given files" if check else "the run's own clips"},
        }
        if int8:
            del model
            narrowed = _gated(made, graph, products, labelled, tolerance)
            say(f"Kept: {narrowed.described}.")
            facts |= {"precision": "int8", "int8": {**asdict(narrowed), "loss": narrowed.loss, "tolerance": tolerance}}
        (made / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
        (made / "README.md").write_text(card(facts), encoding="utf-8")
        _put(made, out)
    return {**facts, "out": str(out)}


def _check_free(out: Path) -> None:
    if out.exists() and not (out / FACTS).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(
            f"--out received '{out}', which holds something other than an export. Name a new folder, or the folder of "
            "an export, which is replaced."
        )


def _own(run: Path) -> list[Recording]:
    """The run's validation and test clips; none for a folder that is no run."""
    if not (run / "split.json").is_file():
        return []
    index = Index.load(run / "index.parquet")
    split = load_split(run / "split.json", index)
    wanted = {id for fold in split.folds for id in (*fold.valid, *fold.test)}
    return [Recording(clip.id, clip.source, clip.start, clip.end) for clip in index if clip.id in wanted]


def _hear(asked: Sequence[Recording], classifier: Classifier, most: int, run: Path) -> list[np.ndarray]:
    """Decode recordings, as many as are wanted, spread evenly over those that there are."""
    chosen = _spread(asked, most)
    heard = [clip for chunk in hear(chosen, classifier.settings) for clip in chunk]
    good = [clip.samples for clip in heard if clip.error is None]
    if not good:
        reason = f": the first, '{heard[0].name}', is {heard[0].error}" if heard else ""
        raise RunError(
            f"'{run}' has {len(asked)} clips to compare the export on, and none can be opened{reason}. Name recordings "
            "like those that the model learnt from: --check FILE…"
        )
    return good


def _labelled(run: Path, classifier: Classifier) -> list[tuple[np.ndarray, int]]:
    """Validation clips with their class numbers. Test clips never choose anything, an int8 graph neither."""
    if not (run / "split.json").is_file():
        raise RunError(f"'{run}' is no run folder: it has no split.json, and int8 is judged on its validation clips.")
    index = Index.load(run / "index.parquet")
    split = load_split(run / "split.json", index)
    number = {label: place for place, label in enumerate(classifier.labels)}
    wanted = {id for fold in split.folds for id in fold.valid}
    known = [clip for clip in index if clip.id in wanted and clip.label in number]
    truth = {clip.id: number[clip.label] for clip in known}
    chosen = _spread([Recording(clip.id, clip.source, clip.start, clip.end) for clip in known], GATE_CLIPS)
    found = [clip for chunk in hear(chosen, classifier.settings) for clip in chunk if clip.error is None]
    if not found:
        why = f"none of its {len(known)} validation clips can be opened" if known else "it has no validation clips"
        raise RunError(f"'{run}' cannot be exported as int8: that is judged on validation clips, and {why}.")
    return [(clip.samples, truth[clip.name]) for clip in found]


def _spread(asked: Sequence[Recording], most: int) -> list[Recording]:
    count = min(most, len(asked))
    return [asked[place * len(asked) // count] for place in range(count)]


def _checked(found: Agreement) -> Agreement:
    if not found.difference <= ALLOWED:
        raise RunError(
            f"The exported graph does not answer as the model does: on {found.clips} clips a probability differs by up "
            f"to {found.difference:.1e}, and {ALLOWED:g} is allowed. Nothing was written. Compare on other recordings "
            "by --check FILE…; where it stays, the model is one that auricle cannot export."
        )
    return found


def _told(found: Agreement) -> str:
    return (
        f"On {found.clips} clips the probabilities of ONNX and PyTorch differ by at most {found.difference:.1e} "
        f"({ALLOWED:g} is allowed). PyTorch: {found.rates[0]:.1f} clips/s, ONNX: {found.rates[1]:.1f}."
    )


def _gated(
    made: Path, graph: OnnxModel, products: set[str], labelled: list[tuple[np.ndarray, int]], tolerance: float
) -> Narrow:
    """Put the int8 graph in the float32 one's place, unless it is slower or loses more than the tolerance."""
    if not products:
        raise RunError(
            f"An int8 model was asked for, and a model of type '{graph.config.model_type}' has no learnt matrix "
            "products that 8-bit integers could make faster. Nothing was written: export it without --int8."
        )
    if (made / f"{FILE}.data").exists():
        raise RunError("An int8 model was asked for, of a model above 2 GB, which cannot be made. Leave --int8 away.")
    wide = made.with_name("float32.onnx")
    os.replace(made / FILE, wide)
    narrow(wide, made / FILE, products)
    truth = np.array([label for _, label in labelled])
    found = measured(graph, OnnxModel.open(made), from_arrays([samples for samples, _ in labelled]), truth)
    refused = []
    if found.rates[1] < GATE_GAIN * found.rates[0]:
        refused.append(f"it is not {GATE_GAIN:g} times as fast on this machine")
    if found.loss > tolerance:
        refused.append(f"it loses {found.loss:.3f} of accuracy, and {tolerance:g} is allowed (--tolerance)")
    if refused:
        raise RunError(
            f"The int8 model is refused, because {' and '.join(refused)}: {found.described}. Nothing was written: "
            "export it without --int8."
        )
    return found


def measured(wide: Any, small: Any, sounds: AudioSource, truth: np.ndarray) -> Narrow:
    """Judge an int8 graph beside its float32 original on labelled clips (truth (clips,) class numbers)."""
    (ours, theirs), seconds = race((wide, small), sounds, GATE_ROUNDS)
    difference = float(np.abs(softmax(ours) - softmax(theirs)).max())
    accuracy = tuple(float((rows.argmax(1) == truth).mean()) for rows in (ours, theirs))
    rates = (len(sounds) / seconds[0], len(sounds) / seconds[1])
    return Narrow(len(sounds), (accuracy[0], accuracy[1]), rates, difference)


def _facts(graph: OnnxModel, run: Path, folder: Path) -> dict[str, Any]:
    """What is known of the exported model, and of the run that it came from."""
    libraries = ("torch", "onnx", "onnxruntime", "transformers")
    facts: dict[str, Any] = {
        "format": "onnx",
        "precision": "float32",
        "model": asdict(graph.config),
        "versions": {name: version(name) for name in libraries},
    }
    report = run / "report.json"
    if report.is_file():
        told = json.loads(report.read_text(encoding="utf-8"))
        names = ("name", "metrics", "interval", "test_clips", "split", "unknown")
        facts["report"] = {name: told[name] for name in names if name in told}
        facts["report"]["corpus"] = {name: told["corpus"].get(name) for name in ("description", "license", "citation")}
    return facts


def _put(made: Path, out: Path) -> None:
    """Put the new folder in the old one's place, which is gone only when the new one stands."""
    before = made.with_name("before")
    if out.exists():
        os.replace(out, before)
    os.replace(made, out)
    shutil.rmtree(before, ignore_errors=True)
