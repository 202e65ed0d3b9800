"""A small Report, for tests of what is made from one."""

from dataclasses import replace
from typing import Any

from auricle.evaluation.intervals import Interval
from auricle.evaluation.report import (
    BaselineComparison,
    CorpusSummary,
    Hardware,
    IntervalBasis,
    ModelSummary,
    Report,
    SplitSummary,
    TrainingTotals,
)
from auricle.preparation.audit import Audit, Durations, FileCounts
from auricle.recipe import Recipe


def small_report(**changes: Any) -> Report:
    """A report of two classes and four test clips, with some fields changed."""
    accuracy = {"accuracy": Interval(0.75, 0.5, 1.0)}
    report = Report(
        verdict="Accuracy 75.0 %.",
        cautions=(),
        name="small",
        family="cnn",
        test_clips=4,
        interval=IntervalBasis("clip", 4, 100, 0.95),
        metrics=accuracy,
        majority={"accuracy": 0.5},
        baseline=BaselineComparison(accuracy, {"accuracy": Interval(0.0, 0.0, 0.0)}, False),
        folds=(),
        labels=("a", "b"),
        per_class=(),
        confusion_matrix=((2, 0), (1, 1)),
        confused_pairs=(),
        calibration=(),
        risk_coverage=(),
        rejection=None,
        accuracy_by_duration=(),
        accuracy_by_clip_duration=(),
        slices={},
        misclassified=(),
        suspect_labels=(),
        learning_curves={},
        audit=Audit(
            clips=4,
            usable=4,
            quarantined=(),
            warnings=(),
            duplicates=(),
            leaks=(),
            classes={"a": 2, "b": 2},
            groups=0,
            group_name="group",
            durations=Durations(4.0, 1.0, 1.0, 1.0),
            sample_rates={"16000": 4},
            channels={"1": 4},
            containers={"WAV": 4},
            notes=(),
            excluded=(),
            files=FileCounts(4, 4, 0, 0, 0),
        ),
        split=SplitSummary("random", "a random split", False, (), 1, {"train": 4, "valid": 0, "test": 4}),
        corpus=CorpusSummary("corpus", "folders", "Folders: 4 clips", None, None, 4, 2, 0, "group"),
        recipe=Recipe(),
        model=ModelSummary("auricle-cnn", 100, 16_000, 1),
        training=TrainingTotals(4.0, 1, 1, 1, 4),
        versions={"auricle": "0"},
        hardware=Hardware("any", 1, None, False),
    )
    return replace(report, **changes)
