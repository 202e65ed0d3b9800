"""The model card: README.md of the model folder, filled from the report's evidence."""

from collections.abc import Mapping
from typing import Any

import yaml

_HEADLINES = ("accuracy", "balanced_accuracy", "macro_f1")


def card(report: Mapping[str, Any]) -> str:
    """Write the card of a run's model: what it was trained on, how good it is and how that is known, how to use it."""
    corpus, split = report["corpus"], report["split"]
    rows = [
        f"| {name.replace('_', ' ')} | {figure['value']:.3f} | {figure['low']:.3f} to {figure['high']:.3f} | "
        f"{report['baseline']['metrics'][name]['value']:.3f} | {report['majority'][name]:.3f} |"
        for name, figure in report["metrics"].items()
    ]
    cautions = [f"- {caution}" for caution in report["cautions"]] or ["- None was found."]
    interval = report["interval"]
    lines = [
        "---",
        yaml.safe_dump(_metadata(report), sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {report['name']}: {len(report['labels'])} classes of sound",
        "",
        report["verdict"],
        "",
        f"Trained on: {corpus['recognised']}. Split: {split['described']}.",
        f"Licence of the recordings: {corpus['license'] or 'not stated'}.",
        "",
        f"| metric | value | 95 % interval over {interval['units']} {interval['unit']}s | baseline | majority |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "## Beware",
        "",
        *cautions,
        "",
        "## Use",
        "",
        "```python",
        "import auricle",
        "",
        'classifier = auricle.load("path/to/this/folder")',
        'print(classifier("recording.ogg"))',
        "```",
        "",
        f"Classes: {', '.join(report['labels'])}.",
        "",
    ]
    if corpus["citation"]:
        lines += ["## Citation of the recordings", "", corpus["citation"], ""]
    return "\n".join(lines)


def _metadata(report: Mapping[str, Any]) -> dict[str, Any]:
    """The card's metadata, as the Hub reads it."""
    corpus = report["corpus"]
    results = [
        {"type": name, "value": round(report["metrics"][name]["value"], 4), "name": name.replace("_", " ")}
        for name in _HEADLINES
    ]
    result = {
        "task": {"type": "audio-classification"},
        "dataset": {"name": corpus["recognised"], "type": corpus["reader"]},
        "metrics": results,
    }
    return {
        "library_name": "transformers",
        "pipeline_tag": "audio-classification",
        "tags": ["auricle", "audio-classification", report["family"]],
        "metrics": list(_HEADLINES),
        "model-index": [{"name": report["name"], "results": [result]}],
    }
