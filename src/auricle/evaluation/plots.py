"""Curves of the report page: how a model learnt, and how right it is on the clips that it is surest of.

In: report.json's content. Out: plots whose lines and ticks have places in a unit square; the templates draw them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PLOT_EPOCHS = 200


@dataclass(frozen=True)
class Line:
    """One line of a plot: SVG points in the plot's 0..1 square, y upwards already turned down."""

    kind: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Plot:
    """Lines over epochs, or over what `across_name` says; ticks are (place in 0..1, text)."""

    title: str
    words: str
    lines: tuple[Line, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    kept: float | None
    across_name: str = "epoch"


def learning(report: Mapping[str, Any]) -> list[Plot]:
    """Loss and validation accuracy over epochs, one line for each fold; none without epochs."""
    curves = {fold: [row for row in rows if math.isfinite(row["loss"])] for fold, rows in report["curves"].items()}
    curves = {fold: rows[:: max(1, math.ceil(len(rows) / PLOT_EPOCHS))] for fold, rows in curves.items() if rows}
    if not curves:
        return []
    last = max(row["epoch"] for rows in curves.values() for row in rows)
    chosen = report["folds"][0]["chosen_epoch"] if len(curves) == 1 else None
    losses = [("train", _series(rows, None)) for rows in curves.values()]
    losses += [("valid", _series(rows, "log_loss")) for rows in curves.values()]
    largest = max(value for _, series in losses for _, value in series)
    plots = [_plot("Loss", "on the clips it learns from, and on the validation clips", losses, last, largest, chosen)]
    accuracies = [("valid", _series(rows, "accuracy")) for rows in curves.values()]
    if any(series for _, series in accuracies):
        words = "on the validation clips, which neither teach nor test"
        plots.append(_plot("Validation accuracy", words, accuracies, last, 1.0, chosen))
    return plots


def _series(rows: Iterable[Mapping[str, Any]], name: str | None) -> list[tuple[int, float]]:
    """(epoch, value) of the training loss, or of a validation metric where it was measured."""
    pairs = [(row["epoch"], row["loss"] if name is None else (row["valid"] or {}).get(name)) for row in rows]
    return [(epoch, value) for epoch, value in pairs if value is not None and math.isfinite(value)]


def _plot(
    title: str,
    words: str,
    series: Sequence[tuple[str, list[tuple[int, float]]]],
    last: int,
    largest: float,
    chosen: int | None,
) -> Plot:
    steps = ticks(largest)
    top = max(steps[-1], 1e-9)
    epochs = sorted({max(1, round(tick)) for tick in ticks(last) if tick <= last} | {1})
    return Plot(
        title,
        words,
        tuple(
            Line(kind, tuple((_along(epoch, last), 1 - value / top) for epoch, value in points))
            for kind, points in series
            if points
        ),
        tuple((_along(epoch, last), str(epoch)) for epoch in epochs),
        tuple((1 - tick / top, f"{tick * 100:.0f} %" if title != "Loss" else f"{tick:g}") for tick in steps),
        _along(chosen, last) if chosen else None,
    )


def _along(epoch: int, last: int) -> float:
    return (epoch - 1) / (last - 1) if last > 1 else 0.5


def ticks(largest: float) -> list[float]:
    """Round numbers from 0 to just above the largest value, some five of them."""
    largest = max(largest, 1e-9)
    rough = largest / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    return [round(step * number, 12) for number in range(math.ceil(largest / step * 0.999) + 1)]


def coverage(report: Mapping[str, Any]) -> Plot | None:
    """Accuracy against the share of clips that is answered; None for a report that does not have it."""
    rows = report.get("coverage") or []
    if not rows:
        return None
    # The lower half of the scale is drawn only where something lies there.
    low = 0.5 if min(row["accuracy"] for row in rows) >= 0.5 else 0.0
    points = tuple((row["coverage"], (1 - row["accuracy"]) / (1 - low)) for row in rows)
    up = [low + (1 - low) * step / 5 for step in range(6)]
    return Plot(
        "Accuracy",
        "on the clips that it is surest of",
        (Line("valid", points),),
        tuple((share, f"{share * 100:.0f} %") for share in (0.1, 0.25, 0.5, 0.75, 1.0)),
        tuple(((1 - tick) / (1 - low), f"{tick * 100:.0f} %") for tick in up),
        None,
        "share of the clips that is answered",
    )
