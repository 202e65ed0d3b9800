"""The model card of an exported folder: the graph's inputs and outputs, how to run it, and how good the model is.

In: the graph's metadata, the checks, and a summary of the run's report. Out: README.md as text.
"""

from dataclasses import dataclass
from pathlib import Path

from auricle.evaluation.intervals import Interval
from auricle.evaluation.report import Report
from auricle.export.parity import ParityResult
from auricle.export.quantize import Int8Result
from auricle.models.runtime import ModelInfo
from auricle.run_folder import RunFolder


@dataclass(frozen=True)
class ReportSummary:
    """How good the run's model is, on what, and under which terms its corpus is."""

    name: str
    metrics: dict[str, Interval]
    test_clips: int
    split: str
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
        return cls(
            name=report.name,
            metrics=report.metrics,
            test_clips=report.test_clips,
            split=report.split.description,
            corpus=report.corpus.description,
            license=report.corpus.license,
            citation=report.corpus.citation,
        )


def card(model: ModelInfo, parity: ParityResult, int8: Int8Result | None, report: ReportSummary | None) -> str:
    """Write the card."""
    parts = [f"# {model.model_type}, as ONNX", _interface(model), _usage(model), _checks(parity, int8)]
    if report is not None:
        parts.append(_quality(report))
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
        "Labels: " + ", ".join(_escaped(str(label)) for label in model.labels) + ".",
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
            f"Measured in float32 on {report.test_clips} test clips; {_escaped(report.split)}. Trained on "
            f"{_escaped(report.corpus)}. Licence of the recordings: {_escaped(report.license or 'not stated')}.",
            "Other recordings may score lower; the model card of the run says more.",
        ]
    )


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "\\|")
