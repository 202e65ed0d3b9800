"""The model card: README.md of the model folder, filled from the report's evidence.

In: report.json's content and the measured cost. Out: one Markdown text whose metadata the Hub's own parser reads. What
no evidence tells (the spoken language, the licence of the weights) is not claimed. Labels and citations are strangers'
text, so whatever would break a table or open a tag is escaped.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from auricle.corpus.clip import Index
from auricle.evaluation.report import FEW_UNITS
from auricle.recipe import REFUSED

# Metric of the report → its name on the Hub, and what that name leaves open.
_HEADLINES: dict[str, dict[str, Any]] = {
    "accuracy": {"type": "accuracy", "name": "accuracy"},
    "balanced_accuracy": {"type": "recall", "name": "balanced accuracy", "args": {"average": "macro"}},
    "macro_f1": {"type": "f1", "name": "macro F1", "args": {"average": "macro"}},
}
_EMOTIONS = ("ang", "bored", "calm", "disgust", "fear", "happ", "neutral", "sad", "surpris")
_VOICES = ("speaker", "actor", "singer", "person")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def card(
    report: Mapping[str, Any],
    cost: Mapping[str, Any] | None = None,
    *,
    dataset: str | None = None,
    license: str | None = None,
    repo: str | None = None,
) -> str:
    """Write the card of a run's model: what it learnt from, how good it is and how that is known, how to use it.

    `dataset` is the data set's id on the Hub, `license` the licence of the weights, `repo` where the card will lie,
    each where it is known.
    """
    parts = [
        f"# {report['name']}: {len(report['labels'])} classes of sound",
        report["verdict"],
        *_quality(report),
        *_measured(report),
        *_conditions(report),
        *_unknown(report),
        *_faults(report),
        *_origin(report, license),
        *_use(report, repo),
        *_limits(report),
        *_training(report, cost),
    ]
    metadata = yaml.safe_dump(_metadata(report, dataset, license), sort_keys=False, allow_unicode=True)
    return f"---\n{metadata}---\n\n" + "\n\n".join(parts) + "\n"


def dataset_of(index: Index) -> str | None:
    """The corpus' id on the Hub, where it was read from there."""
    return index.origin if index.reader == "hub" and _is_hub_id(index.origin) else None


def _quality(report: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            name.replace("_", " "),
            f"{figure['value']:.3f}",
            f"{figure['low']:.3f} to {figure['high']:.3f}",
            f"{report['baseline']['metrics'][name]['value']:.3f}",
            f"{report['majority'][name]:.3f}",
        )
        for name, figure in report["metrics"].items()
    ]
    interval = report["interval"]
    columns = (
        "metric",
        "value",
        f"95 % interval over {interval['units']} {interval['unit']}s",
        "instant baseline",
        "commonest class",
    )
    parts = ["## How good it is", _table(columns, rows)]
    if seeds := report.get("seeds"):
        spread = seeds["metrics"]["accuracy"]
        parts.append(
            f"Trained {len(seeds['seeds'])} times on this split, from other random numbers each time, its accuracy is "
            f"{spread['mean']:.3f} ± {spread['deviation']:.3f} (standard deviation; {spread['low']:.3f} to "
            f"{spread['high']:.3f}). The table and the weights are those of the first training, which was not chosen "
            "for its result."
        )
    return parts


def _measured(report: Mapping[str, Any]) -> list[str]:
    split, name = report["split"], report["corpus"]["group_name"]
    told = f"The clips were divided so: {_escaped(split['described'])}."
    if split["grouped"]:
        told += f" No {name} stands on both sides."
    if split["folds"] > 1:
        told += (
            f" The figures are those of {split['folds']} models that each were tested on clips they had not learnt "
            "from; the model in this repository then learnt from all clips."
        )
    told += (
        " The instant baseline, statistics of the sound under two kernel machines, was fitted and tested on the same "
        "split. Test clips chose nothing."
    )
    return ["## How that was measured", told]


def _conditions(report: Mapping[str, Any]) -> list[str]:
    """Accuracy by length and by what is known of the clips; parts that are clearly worse are named first.

    Of a handful of speakers or devices no interval is worth that word.
    """
    whole = report["metrics"]["accuracy"]["value"]
    # A slice for each person tells of persons, not of kinds of clips.
    named = {column: rows for column, rows in report["slices"].items() if column != report["corpus"]["group_name"]}
    parts = ["## Where it is better or worse"]
    worse = [
        f"- Clearly worse where {_escaped(column)} is {_escaped(row['name'])}: {row['accuracy']:.3f} "
        f"({row['low']:.3f} to {row['high']:.3f}) against {whole:.3f} on all clips."
        for column, rows in {"length": report["by_length"], **named}.items()
        for row in rows
        if row["high"] < whole and not 0 < row["groups"] < FEW_UNITS
    ]
    parts.append("\n".join(worse) or "No part below is clearly worse than the whole: each interval reaches it.")
    rows = [
        (column, row["name"], str(row["clips"]), f"{row['accuracy']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}")
        for column, part in {"length": report["by_length"], **named}.items()
        for row in part
    ]
    parts.append(_table(("by", "part", "test clips", "accuracy", "95 % interval"), rows))
    classes = [
        (row["label"], str(row["clips"]), f"{row['recall']:.3f}", f"{row['precision']:.3f}")
        for row in report["per_class"]
    ]
    parts.append(_table(("class", "test clips", "recall", "precision"), classes))
    return parts


def _unknown(report: Mapping[str, Any]) -> list[str]:
    """When it answers unknown, what that catches and costs; and how little it may hear."""
    parts = []
    if refusal := report.get("unknown"):
        parts.append("## When it does not know")
        classes = refusal["kind"] == "classes"
        if refusal["threshold"] is None:
            parts.append("A threshold was asked for, and there was nothing to set it by: it names whatever it hears.")
        else:
            held_out = ", ".join(_escaped(name) for name in refusal["classes"])
            what = f"clips of classes that it never learnt ({held_out})" if classes else "its mistakes"
            told = (
                f"Auricle answers `{REFUSED}` where the greatest probability is below {refusal['threshold']:.4f} "
                f"(`threshold` in config.json), set so that at most {refusal['target'] * 100:g} % of {what} get a "
                "name. The pipeline of transformers does not know of it."
            )
            if reached := refusal["reached"]:
                told += (
                    f" Reached on clips that had no part in that: {reached['value'] * 100:.1f} % "
                    f"({reached['low'] * 100:.1f} to {reached['high'] * 100:.1f})."
                )
            if refusal["known_refused"] is not None:
                price = "known clips" if classes else "right answers"
                told += f" The price: {refusal['known_refused'] * 100:.1f} % of {price} are refused."
            if area := refusal["auroc"]:
                told += f" AUROC: {area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f})."
            parts.append(told)
    if rows := report.get("heard"):
        parts.append("Accuracy on the middle of clips, beside that on the same clips whole:")
        cells = [
            (
                f"{row['seconds']:g} s",
                str(row["clips"]),
                f"{row['accuracy']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
                f"{row['whole']['value']:.3f}",
            )
            for row in rows
        ]
        parts.append(_table(("heard", "test clips", "accuracy", "whole"), cells))
    return parts


def _faults(report: Mapping[str, Any]) -> list[str]:
    audit = report["audit"]
    counted = {
        "clips were unusable and set aside": len(audit["quarantined"]),
        "sounds occur more than once in the corpus": len(audit["duplicates"]),
        "sounds stand on both sides of the split": len(audit["leaks"]),
        "labels are doubted by the baseline, and stand uncorrected": len(report["doubted"]),
    }
    found = [*report["cautions"], *audit["notes"]]
    found += [f"{count} {words}." for words, count in counted.items() if count]
    return ["## Known faults", "\n".join(f"- {_escaped(line)}" for line in found) or "None was found."]


def _origin(report: Mapping[str, Any], license: str | None) -> list[str]:
    corpus = report["corpus"]
    told = (
        f"{_escaped(corpus['description'])}. Licence of the recordings: {_escaped(corpus['license'] or 'not stated')}."
    )
    if base := report["model"].get("base_model"):
        told += f" The weights began as those of `{_escaped(str(base))}`, whose licence holds as well."
    elif report["model"].get("pretrained"):
        told += " The weights began as those of a checkpoint in a folder, whose licence holds as well."
    if license is None:
        told += " No licence of these weights was stated; the terms of the recordings may bind them."
    parts = ["## What it learnt from", told]
    if corpus["citation"]:
        parts.append(_escaped(corpus["citation"]))
    return parts


def _use(report: Mapping[str, Any], repo: str | None) -> list[str]:
    place = repo or "user/name"
    if report["model"].get("num_features") is not None:
        return _use_of_frames(report, place)
    own = str(report["model"]["type"]).startswith("auricle-")
    stock = [
        "from transformers import pipeline",
        "",
        f'classifier = pipeline("audio-classification", model="{place}")',
        'print(classifier("recording.wav"))',
    ]
    if own:
        stock.insert(0, "import auricle  # makes this kind of model known to transformers")
    ours = [
        "import auricle",
        "from huggingface_hub import snapshot_download",
        "",
        f'classifier = auricle.load(snapshot_download("{place}"))',
        'print(classifier("recording.ogg"))',
    ]
    rate = (
        f"It hears {report['model']['sample_rate']} Hz, and both resample to that. The pipeline opens files by ffmpeg."
    )
    return ["## How to use it", _code(stock), "With auricle, for any audio format and length:", _code(ours), rate]


def _use_of_frames(report: Mapping[str, Any], place: str) -> list[str]:
    ours = [
        "import auricle",
        "from huggingface_hub import snapshot_download",
        "",
        f'classifier = auricle.load(snapshot_download("{place}"))',
        'print(classifier("utterance.pt"))',
    ]
    num_features, rate = report["model"]["num_features"], report["model"]["sample_rate"]
    what = (
        f"It does not hear sound: it takes precomputed features of {num_features} bands, {rate} a second, made as those that it "
        f"learnt from, in a `.pt` file of one tensor (frames, {num_features})."
    )
    return ["## How to use it", what, _code(ours)]


def _limits(report: Mapping[str, Any]) -> list[str]:
    labels = ", ".join(_escaped(label) for label in report["labels"])
    refusal = report.get("unknown")
    refuses = refusal is not None and refusal["threshold"] is not None
    names = "names one of them, or none, for what it hears" if refuses else "names one of them for whatever it hears"
    lines = [
        f"- It knows {len(report['labels'])} classes and {names}: {labels}.",
        "- The figures hold for recordings like those it was tested on. Other rooms, devices and people may do worse.",
        "- Its probabilities can be as wrong as its answers: see the calibration error above.",
    ]
    emotions = [label for label in report["labels"] if label.casefold().startswith(_EMOTIONS)]
    if len(emotions) >= 3:
        lines.append(
            "- It names how speech sounds to listeners, not what anyone feels. It is no ground for a decision about a "
            "person, at work, in school, by police or in medicine."
        )
    if report["corpus"]["group_name"] in _VOICES:
        lines.append(
            f"- It learnt from {report['corpus']['groups']} {report['corpus']['group_name']}s. Voices, accents and "
            "languages that were not among them are untested. Record nobody without their consent."
        )
    return ["## Intended use and limits", "\n".join(lines)]


def _training(report: Mapping[str, Any], cost: Mapping[str, Any] | None) -> list[str]:
    work, hardware = report["cost"], report["hardware"]
    lines = [
        f"- {report['family']} model, {report['model']['parameters']:,} weights.",
        f"- {_counted(work['trainings'], 'training')}, {_counted(work['epochs'], 'epoch')}, "
        f"{_counted(work['steps'], 'step')} of up to {work['batch_size']} clips.",
    ]
    if report["model"].get("temperature", 1.0) != 1.0:
        lines.append(
            f"- Its logits are divided by {report['model']['temperature']:.3f}, the temperature that fits its "
            "validation clips best."
        )
    if cost:
        lines.append(f"- Prepared in {cost['prepare_seconds']:.0f} s, trained in {cost['train_seconds']:.0f} s.")
        if cost.get("peak_memory_mb"):
            lines.append(f"- At most {cost['peak_memory_mb']:.0f} MB of memory.")
    device = f", {hardware['accelerator']}" if hardware["accelerator"] else ""
    lines.append(f"- Machine: {_escaped(hardware['processor'])}, {hardware['cores']} cores{device}.")
    return ["## What training cost", "\n".join(lines)]


def _metadata(report: Mapping[str, Any], dataset: str | None, license: str | None) -> dict[str, Any]:
    """The card's metadata, as the Hub reads it: https://github.com/huggingface/hub-docs, modelcard.md."""
    corpus = report["corpus"]
    results = [
        {**about, "value": round(float(report["metrics"][name]["value"]), 4)} for name, about in _HEADLINES.items()
    ]
    result = {
        "task": {"type": "audio-classification", "name": "Audio Classification"},
        "dataset": {
            "name": corpus["description"].partition(":")[0],
            "type": dataset or corpus["reader"],
            "split": "test",
        },
        "metrics": results,
    }
    content: dict[str, Any] = {"license": license or "other"}
    if license is None:
        # The Hub wants a name and a place beside 'other'; the card says what is known.
        content |= {"license_name": "not-stated", "license_link": "README.md"}
    base = str(report["model"].get("base_model") or "")
    if _is_hub_id(base):
        content["base_model"] = base
    if dataset is not None:
        content["datasets"] = [dataset]
    return {
        **content,
        "library_name": "transformers",
        "pipeline_tag": "audio-classification",
        "tags": ["auricle", "audio-classification", report["family"]],
        "metrics": [about["type"] for about in _HEADLINES.values()],
        "model-index": [{"name": report["name"], "results": [result]}],
    }


def _is_hub_id(name: str) -> bool:
    """Whether a name could be one on the Hub and is no folder here."""
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines)


def _code(lines: Sequence[str]) -> str:
    return "\n".join(["```python", *lines, "```"])


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def _escaped(text: str) -> str:
    """Text that neither ends a table's cell nor opens a tag."""
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "\\|")
