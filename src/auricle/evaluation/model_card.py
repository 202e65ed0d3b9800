"""The model card: README.md of the model folder, from the report's numbers.

In: a Report and the measured Cost. Out: a `huggingface_hub.ModelCard`, from the template `model_card.md`. What is not
known (the spoken language, the licence of the weights) is not claimed. Labels and citations are untrusted text, so
whatever would break a table or open a tag is escaped.
"""

import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from auricle.corpus.clip import Index
from auricle.evaluation.report import Cost, Report
from auricle.preparation.formatting import counted, percent
from auricle.recipe import REFUSED

# Metric of the report → its name on the Hub, its title, and the arguments that the name leaves open.
_HUB_METRICS: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "accuracy": ("accuracy", "accuracy", None),
    "balanced_accuracy": ("recall", "balanced accuracy", {"average": "macro"}),
    "macro_f1": ("f1", "macro F1", {"average": "macro"}),
}
_EMOTIONS = ("ang", "bored", "calm", "disgust", "fear", "happ", "neutral", "sad", "surpris")
_VOICES = ("speaker", "actor", "singer", "person")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def model_card(
    report: Report,
    cost: Cost | None = None,
    *,
    dataset: str | None = None,
    license: str | None = None,
    repo: str | None = None,
) -> ModelCard:
    """Write the card of a run's model: its training data, its evaluation and how that was done, its usage and limits.

    `dataset` is the data set's id on the Hub, `license` the licence of the weights, `repo` the card's repository, each
    where it is known.
    """
    group_name = report.corpus.group_name
    # Slices by group describe single people or devices, not kinds of clips.
    columns = {column: rows for column, rows in report.slices.items() if column != group_name}
    slices = [
        (column, row)
        for column, rows in {"clip duration": report.accuracy_by_clip_duration, **columns}.items()
        for row in rows
    ]
    overall = report.metrics["accuracy"].value
    metadata = _metadata(report, dataset, license)
    # As `ModelCard.from_template`, which compiles the template for every card.
    text = _template().render(
        card_data=metadata.to_yaml(),
        report=report,
        cost=cost,
        repo=repo or "user/name",
        weights_license=license,
        slices=slices,
        # An interval that is a rough guide calls no slice significantly lower.
        lower_slices=[(column, row) for column, row in slices if row.accuracy.high < overall and row.accuracy.reliable],
        issues=_issues(report),
        names_emotions=sum(label.casefold().startswith(_EMOTIONS) for label in report.labels) >= 3,
        has_voices=group_name in _VOICES,
        refused=REFUSED,
        text=escaped,
        counted=counted,
        percent=percent,
    )
    return ModelCard(text)


@cache
def _template() -> Any:
    path = resources.files("auricle.evaluation").joinpath("templates/model_card.md")
    return jinja2.Template(path.read_text(encoding="utf-8"))


def dataset_of(index: Index) -> str | None:
    """The corpus' id on the Hub, where it was read from there."""
    return index.origin if index.reader == "hub" and _is_hub_id(index.origin) else None


def _issues(report: Report) -> list[str]:
    """What is known to be wrong with the data or to limit the evaluation."""
    audit = report.audit
    counts = {
        "clips are unusable and were excluded": len(audit.quarantined),
        "sets of duplicate clips are in the corpus": len(audit.duplicates),
        "test clips have a duplicate in training": len(audit.leaks),
        "labels look wrong to the instant baseline and were not corrected": len(report.suspect_labels),
    }
    return [*report.cautions, *audit.notes, *(f"{count} {text}." for text, count in counts.items() if count)]


def _metadata(report: Report, dataset: str | None, license: str | None) -> ModelCardData:
    """The card's metadata, as the Hub defines it: https://github.com/huggingface/hub-docs, modelcard.md."""
    corpus, base_model = report.corpus, report.model.base_model
    results = [
        EvalResult(
            task_type="audio-classification",
            task_name="Audio Classification",
            dataset_type=dataset or corpus.reader,
            dataset_name=corpus.description.partition(":")[0],
            dataset_split="test",
            metric_type=type,
            metric_name=title,
            metric_value=round(float(report.metrics[name].value), 4),
            metric_args=args,
        )
        for name, (type, title, args) in _HUB_METRICS.items()
    ]
    return ModelCardData(
        license=license or "other",
        # The Hub requires a name and a link for 'other'; the card contains what is known.
        license_name=None if license else "not-stated",
        license_link=None if license else "README.md",
        base_model=base_model if base_model and _is_hub_id(base_model) else None,
        datasets=[dataset] if dataset else None,
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=["auricle", "audio-classification", report.family],
        metrics=[type for type, _, _ in _HUB_METRICS.values()],
        model_name=report.name,
        eval_results=results,
    )


def _is_hub_id(name: str) -> bool:
    """Whether a name could be one on the Hub and is not a local folder."""
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def escaped(text: str) -> str:
    """Text that neither ends a table's cell nor opens a tag."""
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "\\|")
