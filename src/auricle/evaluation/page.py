"""report.html: the report as one page to read, to listen to and to share.

In: a Report, the measured Cost, and the decoded store for the audio. Out: a single file that loads nothing; it reads
without scripts, in dark mode, on a phone and on paper. Arithmetic is done here, words and layout are in `templates/`.
Labels and file names are untrusted text: Jinja escapes them, and the page's content security policy allows no script
but its own.
"""

import math
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from auricle import __version__
from auricle.audio import FULL_SCALE
from auricle.audio.image import audio_uri, spectrogram_uri
from auricle.audio.store import Store
from auricle.corpus.clip import Excluded
from auricle.evaluation.calibration import CoveragePoint
from auricle.evaluation.compare import Comparison, format_difference, format_metric
from auricle.evaluation.html import render_page
from auricle.evaluation.intervals import Interval
from auricle.evaluation.metrics import MetricInfo, metric_info
from auricle.evaluation.report import Cost, CurvePoint, FrozenEncoder, Report
from auricle.preparation.audit import Fault
from auricle.preparation.formatting import percent
from auricle.run_folder import write_text

EXCERPT_SECONDS = 10.0
MOST_SUSPECT_LABELS = 12
MOST_LISTED = 100
MATRIX_CLASSES = 50
BALANCE_CLASSES = 40
PLOT_EPOCHS = 200
_Series = list[tuple[int, float]]


@dataclass(frozen=True)
class Bar:
    """One bar of a metric's card, with its interval where there is one; all on the card's scale."""

    name: str
    kind: str
    value: float
    interval: Interval | None = None


@dataclass(frozen=True)
class MetricCard:
    """A metric, its bars from 0 to `scale`, and its gain over the baseline in words."""

    info: MetricInfo
    own: Interval
    bars: tuple[Bar, ...]
    scale: float
    gain: str


@dataclass(frozen=True)
class Excerpt:
    """The first `seconds` of a clip of `clip_seconds`, as data URIs."""

    image: str
    audio: str
    seconds: float
    clip_seconds: float


@dataclass(frozen=True)
class Line:
    """One line of a plot: points in the unit square, with y pointing down as in SVG."""

    kind: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Plot:
    """Lines over an x axis; ticks are (position in 0..1, text). `marker` is a position on the x axis, `dots` are points
    as a Line has them.
    """

    title: str
    caption: str
    x_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    marker: float | None = None
    dots: tuple[tuple[float, float], ...] = ()


def write_page(
    path: Path, report: Report, cost: Cost, store: Store | None, positions: Mapping[str, int], repo: str | None = None
) -> None:
    """Write the page completely or not at all. `positions` gives a clip's position in the store by its id.

    Without a store the page has no audio. `repo` is the page's repository on the Hub, instead of a run folder.
    """
    has_features = report.model.num_features is not None  # precomputed features cannot be played
    has_audio = store is not None and not has_features and report.recipe.evaluate.embed_audio
    suspect_labels = report.suspect_labels[:MOST_SUSPECT_LABELS]
    folder = str(path.parent) if repo is None else repo.rpartition("/")[2]
    audit = report.audit
    text = render_page(
        "report.html",
        version=report.versions["auricle"],
        report=report,
        cost=cost,
        cards=metric_cards(report),
        curves=learning_curves(report),
        layers=loss_by_layer(report.model.encoder),
        coverage=accuracy_by_coverage(report.risk_coverage),
        matrix=report.confusion_matrix if len(report.labels) <= MATRIX_CLASSES else (),
        excerpts={
            row.id: _excerpt(store, positions[row.id])
            for row in (*report.misclassified, *suspect_labels)
            if has_audio and store is not None and row.id in positions
        },
        has_audio=has_audio,
        has_features=has_features,
        suspect_labels=suspect_labels,
        class_sizes=_class_sizes(audit.classes),
        quarantined=_most_frequent_first(audit.quarantined, "kind"),
        warnings=_most_frequent_first(audit.warnings, "kind"),
        excluded=_most_frequent_first(audit.excluded, "reason"),
        most_listed=MOST_LISTED,
        recipe=yaml.safe_dump(report.recipe.model_dump(), sort_keys=False, allow_unicode=True),
        repo=repo,
        run=repr(folder),
        quoted_run=shlex.quote(folder),
    )
    write_text(path, text)


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write the page of a comparison: every run's metric and paired difference, and the clips that runs disagree on."""
    metric = comparison.metric
    differences = [row.differences[metric] for row in comparison.runs]
    span = max(max(abs(one.low), abs(one.high)) for one in differences) or 1.0
    text = render_page(
        "comparison.html",
        comparison=comparison,
        info=metric_info(metric),
        span=span,
        format_metric=format_metric,
        format_difference=format_difference,
        version=__version__,
    )
    write_text(path, text)


def metric_cards(report: Report) -> list[MetricCard]:
    """One card for each metric: the model, the instant baseline and the majority class."""
    cards = []
    for name, own in report.metrics.items():
        info = metric_info(name)
        bars = [Bar("this model", "model", own.value, own)]
        gain = ""
        if not report.baseline.is_this_model:
            other = report.baseline.metrics[name]
            bars.append(Bar("instant baseline", "baseline", other.value, other))
            gain = gain_sentence(info, report.baseline.gain[name])
        if (probe := report.probe) is not None:
            bars.append(Bar(f"probe of {probe.encoder}", "probe", probe.metrics[name].value, probe.metrics[name]))
            gain += f" {gain_sentence(info, probe.gain[name], 'the probe')}"
        if info.has_majority:
            bars.append(Bar("majority class", "majority", report.majority[name]))
        largest = max(bar.interval.high if bar.interval else bar.value for bar in bars)
        scale = 1.0 if info.is_share else 1.05 * largest or 1.0
        cards.append(MetricCard(info, own, tuple(bars), scale, gain))
    return cards


def gain_sentence(info: MetricInfo, gain: Interval, other: str = "the instant baseline") -> str:
    """Compare the model with another, with the interval of the difference."""
    scale, unit, digits = (100, " points", 1) if info.is_share else (1, "", 2)
    sign = scale if info.higher_is_better else -scale
    value, (low, high) = gain.value * sign, sorted((gain.low * sign, gain.high * sign))
    if low <= 0 <= high:
        return f"Not distinguishable from {other} ({low:+.{digits}f} to {high:+.{digits}f}{unit})."
    between = f"{min(abs(low), abs(high)):.{digits}f} to {max(abs(low), abs(high)):.{digits}f}"
    return f"{abs(value):.{digits}f}{unit} {'better' if low > 0 else 'worse'} than {other} ({between})."


def _class_sizes(classes: Mapping[str, int]) -> list[tuple[str, int]]:
    """Clips of each class, the largest first; of very many classes the largest and the smallest."""
    rows = sorted(classes.items(), key=lambda pair: -pair[1])
    half = BALANCE_CLASSES // 2
    return rows if len(rows) <= BALANCE_CLASSES else [*rows[:half], *rows[-half:]]


def _most_frequent_first(rows: Sequence[Fault | Excluded], title: str) -> list[tuple[str, list[Fault | Excluded]]]:
    """Rows under their titles, the most frequent title first."""
    by_title = defaultdict(list)
    for row in rows:
        by_title[getattr(row, title)].append(row)
    return sorted(by_title.items(), key=lambda pair: -len(pair[1]))


def _excerpt(store: Store, position: int) -> Excerpt:
    """The first seconds of a clip at the model's sample rate, mixed to one channel."""
    sample_rate, samples = store.settings.sample_rate, store.samples(position)
    mono = samples[:, : round(EXCERPT_SECONDS * sample_rate)].astype(np.float32).mean(0) / FULL_SCALE
    seconds, clip_seconds = len(mono) / sample_rate, samples.shape[1] / sample_rate
    return Excerpt(spectrogram_uri(mono, sample_rate), audio_uri(mono, sample_rate), seconds, clip_seconds)


def learning_curves(report: Report) -> list[Plot]:
    """Loss and validation accuracy by epoch, one line for each fold; none for a model without epochs."""
    curves = [[point for point in points if math.isfinite(point.loss)] for points in report.learning_curves.values()]
    curves = [points[:: math.ceil(len(points) / PLOT_EPOCHS)] for points in curves if points]
    if not curves:
        return []
    last = max(point.epoch for points in curves for point in points)
    best = report.folds[0].best_epoch if len(curves) == 1 else None

    def position(epoch: int) -> float:
        return (epoch - 1) / (last - 1) if last > 1 else 0.5

    def plot(title: str, caption: str, series: Sequence[tuple[str, _Series]], y_ticks: Mapping[float, str]) -> Plot:
        top = max(*y_ticks, 1e-9)
        epochs = sorted({max(1, round(tick)) for tick in ticks(last) if tick <= last} | {1})
        return Plot(
            title,
            caption,
            "epoch",
            tuple(
                Line(kind, tuple((position(epoch), 1 - value / top) for epoch, value in points))
                for kind, points in series
                if points
            ),
            tuple((position(epoch), str(epoch)) for epoch in epochs),
            tuple((1 - tick / top, text) for tick, text in y_ticks.items()),
            position(best) if best else None,
        )

    losses = [("train", [(point.epoch, point.loss) for point in points]) for points in curves]
    losses += [("valid", _validation(points, "log_loss")) for points in curves]
    loss_ticks = ticks(max(value for _, series in losses for _, value in series))
    caption = "on the training clips and on the validation clips"
    plots = [plot("Loss", caption, losses, {tick: f"{tick:g}" for tick in loss_ticks})]
    accuracies = [("valid", _validation(points, "accuracy")) for points in curves]
    if any(series for _, series in accuracies):
        caption = "on the validation clips, which are in neither training nor test"
        plots.append(plot("Validation accuracy", caption, accuracies, {tick: percent(tick, 0) for tick in ticks(1.0)}))
    return plots


def loss_by_layer(encoder: FrozenEncoder | None) -> Plot | None:
    """The held-out log-loss of every layer of a probe's encoder alone, with dots at the chosen ones; None without."""
    if encoder is None or len(encoder.layer_losses) < 2:
        return None
    losses, y_ticks = encoder.layer_losses, ticks(max(encoder.layer_losses))
    last, top = len(losses) - 1, y_ticks[-1]
    points = tuple((layer / last, 1 - loss / top) for layer, loss in enumerate(losses))
    return Plot(
        "Log loss by layer",
        "of each layer alone, on training clips whose group was held out, in nats",
        "layer, 0 being the embedding",
        (Line("valid", points),),
        tuple((layer / last, str(layer)) for layer in range(0, len(losses), 1 + last // 16)),
        tuple((1 - tick / top, f"{tick:g}") for tick in y_ticks),
        dots=tuple(points[layer] for layer in encoder.layers),
    )


def _validation(points: Iterable[CurvePoint], name: str) -> _Series:
    """(epoch, value) of a validation metric, where it was measured."""
    pairs = [(point.epoch, (point.valid or {}).get(name)) for point in points]
    return [(epoch, value) for epoch, value in pairs if value is not None and math.isfinite(value)]


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
