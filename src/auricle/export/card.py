"""The result of an export: export.json for programs, and the model card for people.

In: the graph's settings, the checks, and a summary of the run's report. Out: ExportResult, and README.md as text.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from auricle.evaluation.intervals import Interval
from auricle.evaluation.model_card import escaped
from auricle.evaluation.report import IntervalBasis, Report, SplitSummary
from auricle.export.parity import ParityResult
from auricle.export.quantize import Int8Result
from auricle.models.runtime import ModelInfo
from auricle.run_folder import RunFolder


@dataclass(frozen=True)
class ReportSummary:
    """How good the run's model is, on which clips, and the terms of its corpus."""

    name: str
    metrics: dict[str, Interval]
    interval: IntervalBasis
    test_clips: int
    split: SplitSummary
    corpus: str
    license: str | None
    citation: str | None

    @classmethod
    def of_run(cls, run: Path) -> "ReportSummary | None":
        """The summary of a run's report; None for a bare model folder."""
        path = RunFolder(run).report
        if not path.is_file():
            return None
        report = Report.load(path)
        corpus = report.corpus
        return cls(
            report.name,
            report.metrics,
            report.interval,
            report.test_clips,
            report.split,
            corpus.description,
            corpus.license,
            corpus.citation,
        )


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
    report: ReportSummary | None

    def to_json(self) -> str:
        """The text of export.json: all fields but `out`, since the folder may move."""
        fields = {name: value for name, value in asdict(self).items() if name != "out"}
        return json.dumps({"format": "onnx", **fields}, indent=1, ensure_ascii=False)


def card(result: ExportResult) -> str:
    """The model card: the graph's inputs and outputs, how to run it, and how good the model is."""
    model = result.model
    parts = [f"# {model.model_type}, as ONNX", _interface(model), _usage(model), _checks(result.parity, result.int8)]
    if result.report is not None:
        parts.append(_quality(result.report))
    return "\n\n".join(parts) + "\n"


def _interface(model: ModelInfo) -> str:
    classes = len(model.labels)
    if model.num_features:
        shape = f"(batch, {model.num_features}, frames)"
        content = f"precomputed features, {model.sample_rate} frames per second"
    else:
        shape = "(batch, samples)" if model.channels == 1 else f"(batch, {model.channels}, samples)"
        content = f"audio in [-1, 1] at {model.sample_rate} Hz"
    lines = [
        "`model.onnx` takes audio and gives probabilities; mel, normalisation and temperature are inside.",
        "",
        "| name | shape | content |",
        "| --- | --- | --- |",
        f"| `waveform` (in) | {shape} float32 | {content}, padded with zeros on the right |",
        "| `lengths` (in) | (batch,) int64 | the length of each row without its padding |",
        f"| `probabilities` | (batch, {classes}) float32 | of the labels, in their order |",
        f"| `logits` | (batch, {classes}) float32 | log-probabilities, up to a constant |",
        "| `embedding` | (batch, width) float32 | a vector of length 1, to be compared by cosine |",
        "",
        "Labels: " + ", ".join(escaped(str(label)) for label in model.labels) + ".",
        "The file's metadata holds them and every other setting, each as JSON.",
    ]
    if model.window_seconds:
        lines.append(
            f"Clips longer than {model.window_seconds:g} s are scored in windows of that length that overlap by "
            f"{model.overlap * 100:g} %; the logits of a clip are the mean over its windows."
        )
    if model.threshold is not None:
        lines.append(
            f"Where the greatest probability is below {model.threshold:.4f} (`threshold`) the answer is `unknown`."
        )
    if model.precision == "int8":
        lines.append(
            "Its products use 8-bit integers, scaled by the whole input: run it clip by clip, as auricle does, so that "
            "a clip's answer depends on that clip alone."
        )
    return "\n".join(lines)


def _usage(model: ModelInfo) -> str:
    shape = f"1, {model.num_features}, 100" if model.num_features else f"1, {model.sample_rate}"
    if model.channels == 2:
        shape = f"1, 2, {model.sample_rate}"
    return "\n".join(
        [
            "With auricle (`pip install 'auricle[onnx]'`), which opens any recording:",
            "",
            "```python",
            "import auricle",
            "",
            'print(auricle.load("FOLDER")("recording.wav"))',
            "```",
            "",
            "With ONNX Runtime alone:",
            "",
            "```python",
            "import numpy, onnxruntime",
            "",
            'session = onnxruntime.InferenceSession("model.onnx")',
            f"waveform = numpy.zeros(({shape}), numpy.float32)",
            "lengths = numpy.array([waveform.shape[-1]])",
            'print(session.run(["probabilities"], {"waveform": waveform, "lengths": lengths})[0])',
            "```",
        ]
    )


def _checks(parity: ParityResult, int8: Int8Result | None) -> str:
    text = (
        f"Checked on {parity.clips} clips against PyTorch at export: no probability differed by more than "
        f"{parity.max_difference:.1e}."
    )
    return text if int8 is None else f"{text} That was in float32. Then, {int8.description}."


def _quality(report: ReportSummary) -> str:
    """The headline metrics with their intervals, what they were measured on, and the corpus."""
    rows = [
        f"| {name.replace('_', ' ')} | {metric.value:.3f} | {metric.low:.3f} to {metric.high:.3f} |"
        for name, metric in report.metrics.items()
    ]
    return "\n".join(
        [
            "## How good the model is",
            "",
            "| metric | value | 95 % interval |",
            "| --- | --- | --- |",
            *rows,
            "",
            f"Measured in float32 on {report.test_clips} test clips; {escaped(report.split.description)}. Trained on "
            f"{escaped(report.corpus)}. Licence of the recordings: {escaped(report.license or 'not stated')}.",
            "Other recordings may score lower; the model card of the run says more.",
        ]
    )
