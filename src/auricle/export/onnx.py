"""Export a trained model as ONNX: a folder that needs no PyTorch, checked against PyTorch before it is written.

In: a run or model folder. Out: a folder with model.onnx, export.json (ExportResult) and a model card. A graph that
differs from the model, or an int8 one that is slower or less accurate, is refused with the measurement, and a former
export in the folder stays.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import jinja2
import numpy as np

from auricle.audio.recordings import DecodedRecording, Recording, read_recordings, recordings
from auricle.corpus.clip import Clip, Index
from auricle.corpus.splits import load as load_split
from auricle.errors import RunError, UsageError
from auricle.evaluation.model_card import escaped
from auricle.evaluation.report import Report
from auricle.export.parity import ParityResult, check_parity
from auricle.export.quantize import Int8Result, compare_int8, quantize
from auricle.export.trace import trace
from auricle.inference.classifier import Classifier
from auricle.models.load import load_model
from auricle.models.onnx_runtime import FILE, OnnxModel
from auricle.models.runtime import ModelInfo
from auricle.preparation.windows import from_arrays
from auricle.run_folder import RunFolder, atomic_write, model_folder

# No probability may differ by more.
TOLERANCE = 1e-4
PARITY_CLIPS, INT8_CLIPS = 100, 300
RESULT = "export.json"


@dataclass(frozen=True)
class ExportResult:
    """What was exported and measured: export.json. `model` is the settings in the graph's metadata.

    `parity_clips` says where the compared clips come from. `int8` is None in float32, `report` for a bare model folder.
    """

    out: Path
    precision: str
    model: ModelInfo
    versions: dict[str, str]
    parity: ParityResult
    parity_clips: str
    parity_tolerance: float
    int8: Int8Result | None
    report: Report | None

    def to_json(self) -> str:
        """The text of export.json: all fields but `out`, since the folder may move, and a summary of the report."""
        fields = {name: value for name, value in vars(self).items() if name != "out"}
        if self.report is not None:
            corpus = self.report.corpus
            names = ("name", "metrics", "interval", "test_clips", "split")
            fields["report"] = {name: getattr(self.report, name) for name in names} | {
                "corpus": corpus.description,
                "license": corpus.license,
                "citation": corpus.citation,
            }
        return json.dumps({"format": "onnx", **fields}, default=asdict, indent=1, ensure_ascii=False)


def export(
    run: Path,
    out: Path | None = None,
    *,
    check: Sequence[str] = (),
    int8: bool = False,
    tolerance: float = 0.01,
    message: Callable[[str], None] = lambda text: None,
) -> ExportResult:
    """Write the exported folder: RUN/onnx, or RUN/onnx-int8 with `int8`, by default.

    `check` names recordings to compare on, instead of the run's own validation and test clips; `tolerance` is the
    accuracy that int8 may lose. Raises RunError for a graph that differs from the model by more than TOLERANCE in any
    probability, for an int8 graph that is slower or less accurate, and without clips to compare on; UsageError for an
    `out` that holds something else.
    """
    folder = model_folder(run)
    out = out or (run / "onnx-int8" if int8 else RunFolder(run).exported)
    _check_out(out)
    model = load_model(folder).cpu()
    classifier = Classifier(model)
    clips = _parity_clips(run, check, classifier)
    labelled = _validation_clips(run, classifier) if int8 else []
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as new:
        new.mkdir()
        message("Tracing the model.")
        products = trace(model, new / FILE)
        graph = OnnxModel.open(new)
        parity = check_parity(model, graph, from_arrays(clips))
        message(_require_parity(parity))
        quantized = None
        if int8:
            del model
            quantized = _require_int8(new, graph, products, labelled, tolerance)
            message(f"Kept: {quantized.description}.")
        result = ExportResult(
            out=out,
            precision="int8" if int8 else "float32",
            model=OnnxModel.open(new).info,
            versions={name: version(name) for name in ("torch", "onnx", "onnxruntime", "transformers")},
            parity=parity,
            parity_clips="given files" if check else "the run's own clips",
            parity_tolerance=TOLERANCE,
            int8=quantized,
            report=Report.load(report) if (report := RunFolder(run).report).is_file() else None,
        )
        (new / RESULT).write_text(result.to_json(), encoding="utf-8")
        (new / "README.md").write_text(_card(result), encoding="utf-8")
    return result


def _card(result: ExportResult) -> str:
    """The model card: the graph's inputs and outputs, how to run it, and how good the model is."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("auricle.export"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["text"] = lambda text: escaped(str(text))
    template = environment.get_template("card.md")
    return template.render(model=result.model, parity=result.parity, int8=result.int8, report=result.report)


def _check_out(out: Path) -> None:
    if out.exists() and not (out / RESULT).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(
            f"--out received '{out}', which holds something other than an export. Name a new folder, or the folder of "
            "an export, which is replaced."
        )


def _split_clips(run: Path, *, test: bool) -> list[Clip]:
    """The run's validation clips, and its test clips too; none for a folder that is no run."""
    folder = RunFolder(run)
    if not folder.split.is_file():
        return []
    index = Index.load(folder.index)
    folds = load_split(folder.split, index).folds
    ids = {id for fold in folds for id in (*fold.valid, *(fold.test if test else ()))}
    return [clip for clip in index if clip.id in ids]


def _recordings(clips: Sequence[Clip]) -> list[Recording]:
    return [Recording(clip.id, clip.source, clip.start, clip.end) for clip in clips]


def _decode(clips: Sequence[Recording], classifier: Classifier, most: int) -> list[DecodedRecording]:
    count = min(most, len(clips))
    chosen = [clips[number * len(clips) // count] for number in range(count)]
    return [clip for chunk in read_recordings(chosen, classifier.settings, whole=True) for clip in chunk]


def _parity_clips(run: Path, check: Sequence[str], classifier: Classifier) -> list[np.ndarray]:
    clips = [*recordings(check)] if check else _recordings(_split_clips(run, test=True))
    decoded = _decode(clips, classifier, PARITY_CLIPS)
    usable = [clip.samples for clip in decoded if clip.error is None]
    if not usable:
        reason = f": the first, '{decoded[0].name}', is {decoded[0].error}" if decoded else ""
        raise RunError(
            f"'{run}' has {len(clips)} clips to compare the export on, and none can be opened{reason}. Name recordings "
            "like those that the model was trained on: --check FILE…"
        )
    return usable


def _validation_clips(run: Path, classifier: Classifier) -> list[tuple[np.ndarray, int]]:
    """Validation clips with their class indices. Test clips never choose anything, an int8 graph neither."""
    if not RunFolder(run).split.is_file():
        raise RunError(f"'{run}' is no run folder: int8 needs validation clips, and it has no split.json.")
    number = {label: index for index, label in enumerate(classifier.labels)}
    clips = [clip for clip in _split_clips(run, test=False) if clip.label in number]
    truth = {clip.id: number[clip.label] for clip in clips}
    decoded = _decode(_recordings(clips), classifier, INT8_CLIPS)
    usable = [(clip.samples, truth[clip.name]) for clip in decoded if clip.error is None]
    if not usable:
        why = f"none of its {len(clips)} validation clips can be opened" if clips else "it has none"
        raise RunError(f"'{run}' cannot be exported as int8: the accuracy check needs validation clips, and {why}.")
    return usable


def _require_parity(parity: ParityResult) -> str:
    """What the comparison measured. Raises RunError where the graph differs from the model by more than TOLERANCE."""
    if not parity.max_difference <= TOLERANCE:
        raise RunError(
            f"The exported graph differs from the model: on {parity.clips} clips a probability differs by up to "
            f"{parity.max_difference:.1e}, and {TOLERANCE:g} is allowed. Nothing was written. Compare on other "
            "recordings (--check FILE…); if it persists, auricle cannot export this model."
        )
    return (
        f"On {parity.clips} clips the probabilities of ONNX and PyTorch differ by at most {parity.max_difference:.1e} "
        f"({TOLERANCE:g} is allowed). PyTorch: {parity.pytorch_clips_per_second:.1f} clips/s, ONNX: "
        f"{parity.onnx_clips_per_second:.1f}."
    )


def _require_int8(
    folder: Path, graph: OnnxModel, products: set[str], labelled: list[tuple[np.ndarray, int]], tolerance: float
) -> Int8Result:
    """Replace the float32 graph by an int8 one, unless that is slower or loses more than the tolerance."""
    if not products:
        raise RunError(
            f"--int8 received a model of type '{graph.info.model_type}', which has no weight products that 8-bit "
            "integers could make faster. Nothing was written: export it without --int8."
        )
    if (folder / f"{FILE}.data").exists():
        raise RunError("--int8 received a model above 2 GB, which cannot be quantized. Export it without --int8.")
    float32 = (folder / FILE).replace(folder / "float32.onnx")
    quantize(float32, folder / FILE, products)
    float32.unlink()
    truth = np.array([label for _, label in labelled])
    clips = from_arrays([samples for samples, _ in labelled])
    result = compare_int8(graph, OnnxModel.open(folder), clips, truth, tolerance)
    if reasons := result.reasons_to_refuse:
        raise RunError(
            f"The int8 model is refused, because {' and '.join(reasons)}: {result.description}. Nothing was written: "
            "export it without --int8."
        )
    return result
