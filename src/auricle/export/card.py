"""The card of an exported folder: what the file takes and gives, how to run it, and how good the model is.

In: what export.json says. Out: README.md as text.
"""

from collections.abc import Mapping
from typing import Any


def card(facts: Mapping[str, Any]) -> str:
    """Write the card."""
    told = facts["model"]
    parts = [f"# {told['model_type']}, as ONNX", _what(told, facts["precision"]), _how(told), _checked(facts)]
    if report := facts.get("report"):
        parts.append(_quality(report))
    return "\n\n".join(parts) + "\n"


def _what(told: Mapping[str, Any], precision: str) -> str:
    if told["num_features"]:
        shape, what = (
            f"(batch, {told['num_features']}, frames)",
            f"precomputed features, {told['sample_rate']} a second",
        )
    else:
        shape = "(batch, samples)" if told["channels"] == 1 else f"(batch, {told['channels']}, samples)"
        what = f"sound in [-1, 1] at {told['sample_rate']} Hz"
    classes = len(told["labels"])
    lines = [
        "`model.onnx` takes sound and gives probabilities; mel, normalisation and temperature are inside.",
        "",
        "| name | shape | what |",
        "| --- | --- | --- |",
        f"| `waveform` (in) | {shape} float32 | {what}, padded with zeros on the right |",
        "| `lengths` (in) | (batch,) int64 | how much of each row is real |",
        f"| `probabilities` | (batch, {classes}) float32 | of the labels, in their order |",
        f"| `logits` | (batch, {classes}) float32 | their logarithms, up to a constant |",
        "| `embedding` | (batch, width) float32 | a vector of length 1, to be compared by angle |",
        "",
        "Labels: " + ", ".join(_escaped(str(label)) for label in told["labels"]) + ".",
        "The metadata of the file holds them, and all else that is needed, each as JSON.",
    ]
    if told["window_seconds"]:
        lines.append(
            f"Clips longer than {told['window_seconds']:g} s go in as windows of that length that overlap by "
            f"{told['overlap'] * 100:g} %; the logits of a clip are the mean over its windows."
        )
    if told["threshold"] is not None:
        lines.append(
            f"Where the greatest probability is below {told['threshold']:.4f} (`threshold`) the answer is `unknown`."
        )
    if precision == "int8":
        lines.append(
            "Its products are of 8-bit integers, scaled by all that is given at once: give it clip by clip, as auricle "
            "does, and a clip's answer is its own."
        )
    return "\n".join(lines)


def _how(told: Mapping[str, Any]) -> str:
    shape = f"1, {told['num_features']}, 100" if told["num_features"] else f"1, {told['sample_rate']}"
    if told["channels"] == 2:
        shape = f"1, 2, {told['sample_rate']}"
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


def _checked(facts: Mapping[str, Any]) -> str:
    checked = facts["checked"]
    told = (
        f"Checked on {checked['clips']} clips against PyTorch when it was made: no probability differed by more than "
        f"{checked['difference']:.1e}."
    )
    if small := facts.get("int8"):
        told += (
            f" That was in float32. In int8, on {small['clips']} validation clips, accuracy is "
            f"{small['accuracy'][1]:.3f} against {small['accuracy'][0]:.3f}, and {small['rates'][1]:.1f} clips are "
            f"answered for in a second against {small['rates'][0]:.1f}."
        )
    return told


def _quality(report: Mapping[str, Any]) -> str:
    """The headline figures with their intervals, what they were measured on, and where the sound came from."""
    rows = [
        f"| {name.replace('_', ' ')} | {figure['value']:.3f} | {figure['low']:.3f} to {figure['high']:.3f} |"
        for name, figure in report["metrics"].items()
    ]
    corpus, licence = report["corpus"], report["corpus"]["license"] or "not stated"
    lines = ["## How good the model is", "", "| metric | value | 95 % interval |", "| --- | --- | --- |", *rows, ""]
    lines.append(
        f"Measured in float32 on {report['test_clips']} test clips; {_escaped(report['split']['described'])}. Learnt "
        f"from {_escaped(corpus['recognised'])}. Licence of the recordings: {_escaped(licence)}."
    )
    lines.append("Recordings unlike these may be answered for worse; the model card of the run says more.")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "\\|")
