"""The curves of the report page: learning curves, and accuracy by coverage.

In: a Report. Out: plots whose lines and ticks have positions in a unit square; the templates draw them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from auricle.evaluation.calibration import CoveragePoint
from auricle.evaluation.report import CurvePoint, Report
from auricle.preparation.formatting import percent

PLOT_EPOCHS = 200


@dataclass(frozen=True)
class Line:
    """One line of a plot: points in the unit square, with y pointing down as in SVG."""

    kind: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Plot:
    """Lines over an x axis; ticks are (position in 0..1, text). `marker` is a position on the x axis."""

    title: str
    caption: str
    x_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    marker: float | None = None


def learning_curves(report: Report) -> list[Plot]:
    """Loss and validation accuracy by epoch, one line for each fold; none for a model without epochs."""
    curves = [[point for point in points if math.isfinite(point.loss)] for points in report.learning_curves.values()]
    curves = [points[:: max(1, math.ceil(len(points) / PLOT_EPOCHS))] for points in curves if points]
    if not curves:
        return []
    last = max(point.epoch for points in curves for point in points)
    best = report.folds[0].best_epoch if len(curves) == 1 else None
    losses = [("train", [(point.epoch, point.loss) for point in points]) for points in curves]
    losses += [("valid", _validation(points, "log_loss")) for points in curves]
    largest = max(value for _, series in losses for _, value in series)
    plots = [_by_epoch("Loss", "on the training clips and on the validation clips", losses, last, largest, best)]
    accuracies = [("valid", _validation(points, "accuracy")) for points in curves]
    if any(series for _, series in accuracies):
        caption = "on the validation clips, which are in neither training nor test"
        plots.append(_by_epoch("Validation accuracy", caption, accuracies, last, 1.0, best))
    return plots


def _validation(points: Iterable[CurvePoint], name: str) -> list[tuple[int, float]]:
    """(epoch, value) of a validation metric, where it was measured."""
    pairs = [(point.epoch, (point.valid or {}).get(name)) for point in points]
    return [(epoch, value) for epoch, value in pairs if value is not None and math.isfinite(value)]


def _by_epoch(
    title: str,
    caption: str,
    series: Sequence[tuple[str, list[tuple[int, float]]]],
    last: int,
    largest: float,
    best: int | None,
) -> Plot:
    steps = ticks(largest)
    top = max(steps[-1], 1e-9)
    epochs = sorted({max(1, round(tick)) for tick in ticks(last) if tick <= last} | {1})
    return Plot(
        title,
        caption,
        "epoch",
        tuple(
            Line(kind, tuple((_epoch_position(epoch, last), 1 - value / top) for epoch, value in points))
            for kind, points in series
            if points
        ),
        tuple((_epoch_position(epoch, last), str(epoch)) for epoch in epochs),
        tuple((1 - tick / top, percent(tick, 0) if title != "Loss" else f"{tick:g}") for tick in steps),
        _epoch_position(best, last) if best else None,
    )


def _epoch_position(epoch: int, last: int) -> float:
    return (epoch - 1) / (last - 1) if last > 1 else 0.5


def ticks(largest: float) -> list[float]:
    """Round numbers from 0 to just above the largest value, some five of them."""
    largest = max(largest, 1e-9)
    rough = largest / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    return [round(step * number, 12) for number in range(math.ceil(largest / step * 0.999) + 1)]


def accuracy_by_coverage(points: Sequence[CoveragePoint]) -> Plot:
    """Accuracy against the share of clips that is answered, the most confident first."""
    # The lower half of the scale is drawn only where there are points in it.
    low = 0.5 if min(point.accuracy for point in points) >= 0.5 else 0.0
    y_ticks = [low + (1 - low) * step / 5 for step in range(6)]
    return Plot(
        "Accuracy",
        "on the most confident clips",
        "coverage: the share of clips that is answered",
        (Line("valid", tuple((point.coverage, (1 - point.accuracy) / (1 - low)) for point in points)),),
        tuple((share, percent(share, 0)) for share in (0.1, 0.25, 0.5, 0.75, 1.0)),
        tuple(((1 - tick) / (1 - low), percent(tick, 0)) for tick in y_ticks),
    )
