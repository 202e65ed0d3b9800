"""report.html: the report as one page to read, to listen to and to share.

In: a Report, the measured Cost, and the decoded store for the audio. Out: a single file that loads nothing; it reads
without scripts, in dark mode, on a phone and on paper. Arithmetic is done here, words and layout are in `templates/`.
Labels and file names are untrusted text: Jinja escapes them, and the page's content security policy allows no script
but its own.
"""

import base64
import hashlib
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup

from auricle.audio import FULL_SCALE
from auricle.audio.image import audio_uri, spectrogram_uri
from auricle.audio.store import Store
from auricle.corpus.clip import Excluded
from auricle.evaluation import plots
from auricle.evaluation.html import render
from auricle.evaluation.intervals import Interval
from auricle.evaluation.metrics import MetricInfo, metric_info
from auricle.evaluation.report import Cost, Report
from auricle.preparation.audit import Fault
from auricle.run_folder import write_text

EXCERPT_SECONDS = 10.0
MOST_SUSPECT_LABELS = 12
MOST_LISTED = 100
MATRIX_CLASSES = 50
BALANCE_CLASSES = 40


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
class Listing:
    """Some of the rows under one title, each a name and a detail, and how many there are in all."""

    title: str
    rows: tuple[tuple[str, str], ...]
    total: int


def write_page(
    path: Path,
    report: Report,
    cost: Cost,
    store: Store | None,
    positions: Mapping[str, int],
    repo: str | None = None,
) -> None:
    """Write the page completely or not at all. `positions` gives a clip's position in the store by its id.

    Without a store the page has no audio. `repo` is the page's repository on the Hub, instead of a run folder.
    """
    has_features = report.model.num_features is not None  # precomputed features cannot be played
    has_audio = store is not None and not has_features and report.recipe.evaluate.embed_audio
    suspect_labels = report.suspect_labels[:MOST_SUSPECT_LABELS]
    script = render("script.js")
    folder = str(path.parent) if repo is None else repo.rpartition("/")[2]
    audit = report.audit
    text = render(
        "report.html",
        report=report,
        cost=cost,
        cards=metric_cards(report),
        curves=plots.learning_curves(report),
        coverage=plots.accuracy_by_coverage(report.risk_coverage),
        matrix=_shares(report.confusion_matrix),
        excerpts={
            row.id: _excerpt(store, positions[row.id])
            for row in (*report.misclassified, *suspect_labels)
            if has_audio and store is not None and row.id in positions
        },
        has_audio=has_audio,
        has_features=has_features,
        suspect_labels=suspect_labels,
        class_sizes=_class_sizes(audit.classes),
        quarantined=_fault_listings(audit.quarantined),
        warnings=_fault_listings(audit.warnings),
        excluded=_excluded_listings(audit.excluded),
        most_listed=MOST_LISTED,
        recipe=yaml.safe_dump(report.recipe.model_dump(), sort_keys=False, allow_unicode=True),
        repo=repo,
        run=repr(folder),
        quoted_run=shlex.quote(folder),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
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
        if info.has_majority:
            bars.append(Bar("majority class", "majority", report.majority[name]))
        largest = max(bar.interval.high if bar.interval else bar.value for bar in bars)
        scale = 1.0 if info.is_share else 1.05 * largest or 1.0
        cards.append(MetricCard(info, own, tuple(bars), scale, gain))
    return cards


def gain_sentence(info: MetricInfo, gain: Interval) -> str:
    """Compare the model with the instant baseline, with the interval of the difference."""
    scale, unit, digits = (100, " points", 1) if info.is_share else (1, "", 2)
    sign = scale if info.higher_is_better else -scale
    value, (low, high) = gain.value * sign, sorted((gain.low * sign, gain.high * sign))
    if low <= 0 <= high:
        return f"Not distinguishable from the instant baseline ({low:+.{digits}f} to {high:+.{digits}f}{unit})."
    between = f"{min(abs(low), abs(high)):.{digits}f} to {max(abs(low), abs(high)):.{digits}f}"
    return f"{abs(value):.{digits}f}{unit} {'better' if low > 0 else 'worse'} than the instant baseline ({between})."


def _shares(matrix: Sequence[Sequence[int]]) -> list[list[tuple[int, float]]]:
    """(clips, share of the row) of each cell; empty where there are too many classes to draw."""
    if len(matrix) > MATRIX_CLASSES:
        return []
    return [[(count, count / max(1, sum(row))) for count in row] for row in matrix]


def _class_sizes(classes: Mapping[str, int]) -> list[tuple[str, int]]:
    """Clips of each class, the largest first; of very many classes the largest and the smallest."""
    rows = sorted(classes.items(), key=lambda pair: -pair[1])
    half = BALANCE_CLASSES // 2
    return rows if len(rows) <= BALANCE_CLASSES else [*rows[:half], *rows[-half:]]


def _fault_listings(faults: Sequence[Fault]) -> list[Listing]:
    return _listings([(fault.kind, (fault.id, fault.detail)) for fault in faults])


def _excluded_listings(excluded: Sequence[Excluded]) -> list[Listing]:
    return _listings([(item.reason, (item.name, "")) for item in excluded])


def _listings(rows: Sequence[tuple[str, tuple[str, str]]]) -> list[Listing]:
    """Rows under their titles, the most frequent title first; long listings are cut."""
    by_title: dict[str, list[Any]] = defaultdict(list)
    for title, row in rows:
        by_title[title].append(row)
    order = sorted(by_title.items(), key=lambda pair: -len(pair[1]))
    return [Listing(title, tuple(group[:MOST_LISTED]), len(group)) for title, group in order]


def _excerpt(store: Store, position: int) -> Excerpt:
    """The first seconds of a clip at the model's sample rate, mixed to one channel."""
    sample_rate = store.settings.sample_rate
    samples = store.samples(position)
    mono = samples[:, : round(EXCERPT_SECONDS * sample_rate)].astype(np.float32).mean(0) / FULL_SCALE
    seconds, clip_seconds = len(mono) / sample_rate, samples.shape[1] / sample_rate
    return Excerpt(spectrogram_uri(mono, sample_rate), audio_uri(mono, sample_rate), seconds, clip_seconds)
