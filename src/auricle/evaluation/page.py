"""report.html: the report as one page to read, to listen to and to pass on.

In: report.json's content, the measured cost, and the decoded store for the sounds. Out: a single file that loads
nothing from anywhere; it reads without scripts, in the dark, on a phone and on paper. What needs arithmetic is worked
out here, words and layout are in `templates/`. Labels and file names are strangers' text: Jinja escapes them, and the
page's own content security policy lets no script run but the one that it came with.
"""

import base64
import hashlib
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup

from auricle.audio.image import picture, player
from auricle.audio.store import Store
from auricle.evaluation import html, plots
from auricle.run_folder import write_text

HEARD_SECONDS = 10.0
DOUBTS = 12
LISTED = 100
MATRIX_CLASSES = 50
BALANCE_CLASSES = 40


@dataclass(frozen=True)
class MetricInfo:
    """How a metric is called and explained; `share` is shown in per cent, `chance` says that the majority has one."""

    title: str
    words: str
    share: bool = True
    higher: bool = True
    chance: bool = True


MEANINGS = {
    "accuracy": MetricInfo("Accuracy", "How many of the test clips it names right."),
    "balanced_accuracy": MetricInfo("Balanced accuracy", "The same with every class counting alike (also called UAR)."),
    "macro_f1": MetricInfo("Macro F1", "Misses and false alarms weighed together, then averaged over the classes."),
    "log_loss": MetricInfo("Log loss", "What being wrong with confidence costs. Lower is better.", False, False),
    "calibration_error": MetricInfo(
        "Calibration error",
        "How far its stated confidence is from how often it is right. Lower is better.",
        higher=False,
        chance=False,
    ),
}


@dataclass(frozen=True)
class Bar:
    """One bar of a metric's card, with its interval where there is one; all on the card's scale."""

    who: str
    kind: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Card:
    """A metric, its bars from 0 to `scale`, and what it gains on the baseline in words."""

    meaning: MetricInfo
    bars: tuple[Bar, ...]
    scale: float
    gain: str


@dataclass(frozen=True)
class Excerpt:
    """The start of a clip to see and to hear, as data URIs; `seconds` of the clip's `whole` length."""

    picture: str
    audio: str
    seconds: float
    whole: float


@dataclass(frozen=True)
class Listing:
    """Some of the rows under one heading, and how many there are in all."""

    title: str
    rows: tuple[Mapping[str, Any], ...]
    total: int


def write_page(
    path: Path,
    report: Mapping[str, Any],
    cost: Mapping[str, Any],
    store: Store | None,
    positions: Mapping[str, int],
    repo: str | None = None,
) -> None:
    """Write the page whole or not at all. `positions` gives a clip's place in the store by its id.

    Without a store no sound is shown. `repo` is where on the Hub the page will lie, instead of in a run folder.
    """
    is_silent = store is None or not store.settings.is_audio  # precomputed features cannot be played
    private = is_silent or not report["recipe"]["evaluate"]["embed_audio"]
    place = str(path.parent) if repo is None else repo.rpartition("/")[2]
    suspect_labels = report["doubted"][:DOUBTS]
    shown = [] if private else [*report["mistakes"], *suspect_labels]
    script = _environment().get_template("script.js").render()
    audit = report["audit"]
    text = (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            cost=cost,
            cards=_cards(report),
            plots=plots.learning(report),
            covered=plots.coverage(report),
            matrix=_matrix(report),
            excerpts={
                row["id"]: _excerpt(store, positions[row["id"]])
                for row in shown
                if store is not None and row["id"] in positions
            },
            private=private,
            suspect_labels=suspect_labels,
            balance=_balance(audit["classes"]),
            quarantined=_listings(audit["quarantined"], "kind"),
            warnings=_listings(audit["warnings"], "kind"),
            excluded=_listings(audit["excluded"], "reason"),
            listed=LISTED,
            recipe=yaml.safe_dump(report["recipe"], sort_keys=False, allow_unicode=True),
            repo=repo,
            run=repr(place),
            quoted=shlex.quote(place),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )
    write_text(path, text)


def _environment() -> jinja2.Environment:
    environment = html.environment("auricle.evaluation")
    environment.filters.update(percent=_percent, bound=_bound, amount=_amount, duration=_duration, place=_place)
    return environment


def _cards(report: Mapping[str, Any]) -> list[Card]:
    """One card for each metric, the model above what it has to beat."""
    cards = []
    baseline = report["baseline"]
    for name, own in report["metrics"].items():
        meaning = MEANINGS.get(name) or _top_k(name)
        bars = [Bar("this model", "model", own["value"], own["low"], own["high"])]
        gain = ""
        if not baseline["is_this_model"]:
            other = baseline["metrics"][name]
            bars.append(Bar("instant baseline", "baseline", other["value"], other["low"], other["high"]))
            gain = _gain(meaning, baseline["gain"][name])
        if meaning.chance:
            bars.append(Bar("commonest class", "majority", report["majority"][name]))
        largest = max(value for bar in bars for value in (bar.value, bar.high or 0.0))
        cards.append(Card(meaning, tuple(bars), 1.0 if meaning.share else 1.05 * largest or 1.0, gain))
    return cards


def _top_k(name: str) -> MetricInfo:
    """The meaning of top_3_accuracy; the majority has none, since its ranking of the other classes says nothing."""
    count = name.removeprefix("top_").removesuffix("_accuracy")
    return MetricInfo(
        f"Top {count} accuracy", f"How often the right class is among its {count} best guesses.", chance=False
    )


def _gain(meaning: MetricInfo, gain: Mapping[str, float]) -> str:
    """Say how the model compares with the instant baseline, and how sure that is."""
    scale, unit, digits = (100, " points", 1) if meaning.share else (1, "", 2)
    sign = scale if meaning.higher else -scale
    value, (low, high) = gain["value"] * sign, sorted((gain["low"] * sign, gain["high"] * sign))
    if low <= 0 <= high:
        return f"Not distinguishable from the instant baseline ({low:+.{digits}f} to {high:+.{digits}f}{unit})."
    between = f"{min(abs(low), abs(high)):.{digits}f} to {max(abs(low), abs(high)):.{digits}f}"
    return f"{abs(value):.{digits}f}{unit} {'better' if low > 0 else 'worse'} than the instant baseline ({between})."


def _matrix(report: Mapping[str, Any]) -> list[list[tuple[int, float]]]:
    """(clips, share of the row) of each cell; empty where there are too many classes to draw."""
    if len(report["labels"]) > MATRIX_CLASSES:
        return []
    return [[(count, count / max(1, sum(row))) for count in row] for row in report["confusion"]]


def _balance(classes: Mapping[str, int]) -> Listing:
    """Clips of each class, the largest first; of very many classes the two ends."""
    rows = [{"label": label, "clips": clips} for label, clips in sorted(classes.items(), key=lambda pair: -pair[1])]
    if len(rows) > BALANCE_CLASSES:
        half = BALANCE_CLASSES // 2
        return Listing("", (*rows[:half], *rows[-half:]), len(rows))
    return Listing("", tuple(rows), len(rows))


def _listings(rows: Iterable[Mapping[str, Any]], key: str) -> list[Listing]:
    """Rows under one heading for each value of `key`, the most frequent first; long ones are cut."""
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row[key]].append(row)
    order = sorted(found.items(), key=lambda pair: -len(pair[1]))
    return [Listing(title, tuple(group[:LISTED]), len(group)) for title, group in order]


def _excerpt(store: Store, position: int) -> Excerpt:
    """The first seconds of a clip as the model heard it, mixed to one channel."""
    sample_rate = store.settings.sample_rate
    samples = store.samples(position)
    cut = samples[:, : round(HEARD_SECONDS * sample_rate)]
    mono = cut.astype(np.float32).mean(0) / 32768
    seconds = (len(mono) / sample_rate, samples.shape[1] / sample_rate)
    return Excerpt(picture(mono, sample_rate), player(mono, sample_rate), *seconds)


def _percent(share: float, digits: int = 1) -> str:
    return f"{share * 100:.{digits}f}\u00a0%"


def _amount(number: float) -> str:
    """A count with thin spaces between thousands."""
    return f"{number:,.0f}".replace(",", "\u202f")


def _place(share: float) -> str:
    """A share of a drawing's width as SVG and CSS take it, kept inside."""
    return f"{min(1.0, max(0.0, share)) * 100:.2f}%"


def _bound(text: str) -> str:
    """Keep a figure and its per cent sign on one line."""
    return text.replace(" %", "\u00a0%")


def _duration(seconds: float) -> str:
    """A length of time in the units that a person would choose."""
    if seconds < 60:
        return f"{seconds:.1f}\u00a0s" if seconds < 10 else f"{seconds:.0f}\u00a0s"
    if seconds < 3600:
        return f"{seconds // 60:.0f}\u00a0min {seconds % 60:.0f}\u00a0s"
    return f"{seconds // 3600:.0f}\u00a0h {seconds % 3600 // 60:.0f}\u00a0min"
