"""Compare finished runs, or any models, on the test clips that they share: which is better, or that none is.

In: for each its scores of the clips that it tested, none of which it was trained on. Out: a Comparison: the metrics on
the shared clips, and each run's paired difference from the best. Runs that err on the same clips are distinguished by
far fewer clips than separate intervals suggest; so `intervals.metric_intervals` takes the differences clip by clip.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from auricle.errors import RunError, UsageError, unknown
from auricle.evaluation.html import render
from auricle.evaluation.intervals import Bootstrap, Interval, Resampling, bootstrap, metric_intervals, unit_numbers
from auricle.evaluation.metrics import IMBALANCE, ClipOutcomes, compute_metrics, evaluate_logits, metric_info
from auricle.evaluation.report import Cost, IntervalBasis, Report
from auricle.evaluation.scoring import Scores
from auricle.preparation.formatting import counted, percent
from auricle.run_folder import RunFolder

METRIC = "accuracy"
MOST_DISAGREEMENTS = 50
# A larger difference of a clip's duration between runs, in seconds, is no rounding.
_SECONDS = 0.1


@dataclass(frozen=True)
class Candidate:
    """A model to compare: its scores of test clips, and what is known of it; None is not known.

    `group_name` is what a group of the clips is called; `train_seconds` counts everything from the decoded clips on.
    """

    name: str
    scores: Scores
    recipe: str = ""
    family: str = ""
    group_name: str = "group"
    parameters: int | None = None
    train_seconds: float | None = None


@dataclass(frozen=True)
class PairedCounts:
    """How many of the shared clips a run and the best run classify correctly."""

    both_correct: int
    only_best_correct: int
    only_this_correct: int
    both_wrong: int


@dataclass(frozen=True)
class ComparedRun:
    """One run on the shared clips; `test_clips` counts all that it tested.

    `differences` are its metrics minus those of the best. `is_distinguishable`: the difference
    in the comparison's metric is reliable, and its interval excludes 0.
    """

    name: str
    recipe: str
    family: str
    test_clips: int
    metrics: dict[str, Interval]
    differences: dict[str, Interval]
    is_distinguishable: bool
    counts: PairedCounts
    parameters: int | None
    train_seconds: float | None


@dataclass(frozen=True)
class Disagreement:
    """A clip that runs predict differently: in the order of the runs, each one's prediction and its probability."""

    id: str
    label: str
    predicted: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """Runs on the same `clips` test clips, the best in `metric` first.

    `disagreements` are those of `total_disagreements` whose label's probability differs most between runs.
    """

    verdict: str
    cautions: tuple[str, ...]
    metric: str
    clips: int
    labels: tuple[str, ...]
    interval: IntervalBasis
    runs: tuple[ComparedRun, ...]
    disagreements: tuple[Disagreement, ...]
    total_disagreements: int

    def __str__(self) -> str:
        return self.verdict

    def _repr_html_(self) -> str:
        return render(
            "comparison_summary.html",
            comparison=self,
            format_metric=format_metric,
            format_difference=format_difference,
        )


def compare(runs: Sequence[str | os.PathLike[str]], metric: str = METRIC) -> Comparison:
    """Compare finished runs on the test clips that all of them share; `metric` decides which is the best.

    Raises UsageError for fewer than two runs or an unknown metric, RunError for a run without scores, and for runs that
    have different classes or share no test clip.
    """
    if isinstance(runs, str | os.PathLike) or len(runs) < 2:
        given = f"'{runs}'" if isinstance(runs, str | os.PathLike) else counted(len(runs), "run")
        raise UsageError(f"compare received {given}. Name at least two: `auricle compare RUN RUN`.")
    loaded = [(Path(run), Report.load(_folder(run).report)) for run in runs]
    settings = loaded[0][1].recipe
    check_metric(metric, loaded[0][1].metrics)
    return compare_candidates(
        [_candidate(path, report) for path, report in loaded],
        metric,
        resamples=settings.evaluate.bootstrap_resamples,
        seed=settings.train.seed,
        top_k=settings.evaluate.top_k,
    )


def compare_candidates(
    candidates: Sequence[Candidate],
    metric: str = METRIC,
    *,
    resamples: int = 1000,
    seed: int = 0,
    top_k: int = 3,
) -> Comparison:
    """Compare two or more models by their scores of test clips. Errors as in `compare`."""
    shared, cautions = _shared(candidates)
    outcomes = [evaluate_logits(scores.truth, scores.logits, top_k) for scores in shared]
    values = [compute_metrics(one) for one in outcomes]
    check_metric(metric, values[0])
    sign = -1 if metric_info(metric).higher_is_better else 1
    order = sorted(range(len(candidates)), key=lambda number: sign * values[number][metric])
    units = [int(unit_numbers(scores.groups)[0].max()) + 1 for scores in shared]
    # Where runs group the clips differently, the fewest units: clips that one keeps together may be correlated.
    coarsest = int(np.argmin(units))
    group_name = candidates[coarsest].group_name
    resampled = bootstrap(shared[coarsest].groups, Resampling(resamples, seed, group_name))
    if len({scores.groups for scores in shared}) > 1:
        cautions.append(f"Runs group the clips differently; intervals use the groups of '{candidates[coarsest].name}'.")
    rows = [_compared(candidates[number], outcomes[number], outcomes[order[0]], resampled, metric) for number in order]
    disagreements = _disagreements([shared[number] for number in order])
    basis = IntervalBasis.of(resampled)
    return Comparison(
        verdict=_verdict(rows, metric, basis, len(shared[0])),
        cautions=(*cautions, *_cautions(rows, metric, basis, shared[0])),
        metric=metric,
        clips=len(shared[0]),
        labels=shared[0].labels,
        interval=basis,
        runs=tuple(rows),
        disagreements=tuple(disagreements[:MOST_DISAGREEMENTS]),
        total_disagreements=len(disagreements),
    )


def format_metric(metric: str, interval: Interval) -> tuple[str, str]:
    """A metric's value and its interval, in per cent where it is a share."""
    if metric_info(metric).is_share:
        return percent(interval.value), interval.percents
    return f"{interval.value:.3f}", interval.decimals()


def format_difference(metric: str, difference: Interval) -> tuple[str, str]:
    """A difference with its sign and its interval, in points where the metric is a share."""
    scale, unit, digits = (100, " points", 1) if metric_info(metric).is_share else (1, "", 3)
    value, low, high = (round(scale * one, digits) + 0.0 for one in (difference.value, difference.low, difference.high))
    rough = "" if difference.reliable else ", rough"
    text, *ends = (f"{one:+.{digits}f}" if one else f"{one:.{digits}f}" for one in (value, low, high))
    return text + unit, " to ".join(ends) + rough


def _folder(run: str | os.PathLike[str]) -> RunFolder:
    folder = RunFolder(Path(run))
    if not folder.path.exists():
        raise RunError(f"There is no run folder at '{folder.path}'. `auricle train` makes one.")
    return folder


def check_metric(metric: str, known: Iterable[str]) -> None:
    """Raise UsageError for a metric that is none of the known."""
    if metric not in known:
        raise UsageError(unknown("metric", metric, known))


def _candidate(path: Path, report: Report) -> Candidate:
    folder = RunFolder(path)
    try:
        scores = Scores.load(folder.scores)
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise RunError(
            f"'{path}' has no readable {folder.scores.name}, its predictions of the test clips, which compare needs "
            f"({type(error).__name__}). Train again, or copy the file from where the run was trained."
        ) from error
    cost = Cost.load(folder.cost) if folder.cost.is_file() else None
    return Candidate(
        name=str(path),
        scores=scores,
        recipe=report.name,
        family=report.family,
        group_name=report.corpus.group_name,
        parameters=report.model.parameters,
        train_seconds=cost.shared_seconds + cost.train_seconds if cost else None,
    )


def _shared(candidates: Sequence[Candidate]) -> tuple[list[Scores], list[str]]:
    """The scores of the clips that all tested, in one order of clips and classes, and cautions about the others."""
    first = candidates[0]
    rows_of = [{id: row for row, id in enumerate(one.scores.ids)} for one in candidates]
    for one, rows in zip(candidates, rows_of, strict=True):
        _check_scores(one, rows, first)
    ids = [id for id in first.scores.ids if all(id in rows for rows in rows_of)]
    if not ids:
        examples = " and ".join(f"'{one.scores.ids[0]}' ('{one.name}')" for one in candidates[:2])
        raise RunError(
            f"{_names(candidates)} share no test clip: clips are matched by name, such as {examples}. "
            "Compare runs on the same corpus with the same `--split`."
        )
    matched = [
        one.scores.take(np.array([rows[id] for id in ids])) for one, rows in zip(candidates, rows_of, strict=True)
    ]
    same = np.array([len(set(labels)) == 1 for labels in zip(*(scores.classes for scores in matched), strict=True)])
    if not same.any():
        raise RunError(f"{_names(candidates)} give none of their {len(ids)} shared test clips the same label.")
    shared = []
    for scores in matched:
        order = [scores.labels.index(label) for label in first.scores.labels]
        shared.append(replace(scores.select(same), labels=first.scores.labels, logits=scores.logits[same][:, order]))
    cautions = []
    if any(len(one.scores) != len(shared[0]) for one in candidates):
        tested = ", ".join(f"'{one.name}' {len(one.scores)}" for one in candidates)
        cautions.append(
            f"Compared on the {counted(len(shared[0]), 'clip')} that all runs tested; clips tested: {tested}."
        )
    if not same.all():
        row = int(np.argmin(same))
        labels = ", ".join(f"'{label}'" for label in dict.fromkeys(scores.classes[row] for scores in matched))
        cautions.append(
            f"{counted(int((~same).sum()), 'clip')} not compared, because their labels differ between runs: "
            f"'{ids[row]}' is {labels}."
        )
    seconds = np.array([scores.seconds for scores in shared])
    if differing := int((np.ptp(seconds, axis=0) > _SECONDS).sum()):
        cautions.append(
            f"{counted(differing, 'shared clip')} of different duration in the runs: the recordings differ, or "
            "audio.max_seconds does."
        )
    return shared, cautions


def _check_scores(one: Candidate, rows: dict[str, int], first: Candidate) -> None:
    """Refuse scores with a clip more than once, and other classes than those of the first."""
    if len(rows) < len(one.scores):
        repeated = Counter(one.scores.ids).most_common(1)[0][0]
        raise RunError(
            f"'{one.name}' tested '{repeated}' in more than one fold; compare takes one answer for each clip."
        )
    own, other = set(one.scores.labels), set(first.scores.labels)
    if own != other:
        extra = "; ".join(
            f"only '{name}' has {', '.join(repr(label) for label in sorted(labels)[:5])}"
            for name, labels in ((first.name, other - own), (one.name, own - other))
            if labels
        )
        raise RunError(
            f"'{first.name}' and '{one.name}' have different classes: {extra}. Compare runs of the same classes."
        )


def _compared(
    candidate: Candidate, outcomes: ClipOutcomes, best: ClipOutcomes, resampled: Bootstrap, metric: str
) -> ComparedRun:
    differences = metric_intervals(outcomes, resampled, minus=best)
    own, other = outcomes.correct > 0, best.correct > 0
    return ComparedRun(
        name=candidate.name,
        recipe=candidate.recipe,
        family=candidate.family,
        test_clips=len(candidate.scores),
        metrics=metric_intervals(outcomes, resampled),
        differences=differences,
        is_distinguishable=differences[metric].reliable and differences[metric].excludes_zero,
        counts=PairedCounts(
            int((own & other).sum()), int((~own & other).sum()), int((own & ~other).sum()), int((~own & ~other).sum())
        ),
        parameters=candidate.parameters,
        train_seconds=candidate.train_seconds,
    )


def _disagreements(shared: Sequence[Scores]) -> list[Disagreement]:
    """The clips that runs predict differently, the largest range of the label's probability first."""
    predicted = np.array([scores.predicted for scores in shared])
    probabilities = np.array([scores.probabilities for scores in shared])
    clips = np.arange(len(shared[0]))
    spread = np.ptp(probabilities[:, clips, shared[0].truth], axis=0)
    rows = np.flatnonzero(np.ptp(predicted, axis=0) > 0)
    labels = shared[0].labels
    return [
        Disagreement(
            shared[0].ids[row],
            shared[0].classes[row],
            tuple(labels[answer] for answer in predicted[:, row]),
            tuple(float(probabilities[number, row, answer]) for number, answer in enumerate(predicted[:, row])),
        )
        for row in map(int, rows[np.argsort(-spread[rows], kind="stable")])
    ]


def _lead(metric: str, difference: Interval) -> Interval:
    """By how much the best is better, from a run's metric minus that of the best."""
    if metric_info(metric).higher_is_better:
        return Interval(-difference.value, -difference.high, -difference.low, difference.reliable)
    return difference


def _verdict(rows: Sequence[ComparedRun], metric: str, basis: IntervalBasis, clips: int) -> str:
    best, *others = rows
    info = metric_info(metric)
    title, where = info.title[:1].lower() + info.title[1:], f"on {counted(clips, 'shared test clip')}"
    if len(others) == 1:
        (other,) = others
        lead = _lead(metric, other.differences[metric])
        figures = " against ".join(format_metric(metric, row.metrics[metric])[0] for row in rows)
        if lead.low == lead.high == 0:
            return f"'{best.name}' and '{other.name}' predict the same {where}: {title} {figures}."
        size, between = (
            (f"{lead.value * 100:.1f} points", lead.percents)
            if info.is_share
            else (f"{lead.value:.3f}", lead.decimals())
        )
        evidence = (
            f"{title} {figures} {where}, a difference of {size} (95 % interval {between}, over {basis.description})"
        )
        if other.is_distinguishable:
            return f"'{best.name}' is better than '{other.name}': {evidence}."
        return f"'{best.name}' and '{other.name}' are not distinguishable: {evidence}."
    worse = [f"'{row.name}'" for row in others if row.is_distinguishable]
    close = [f"'{row.name}'" for row in others if not row.is_distinguishable]
    extreme = "highest" if info.higher_is_better else "lowest"
    text = f"'{best.name}' has the {extreme} {title}, {format_metric(metric, best.metrics[metric])[0]} {where}."
    if worse:
        text += f" It is better than {', '.join(worse)}."
    return text + (f" Not distinguishable from it: {', '.join(close)}." if close else "")


def _cautions(rows: Sequence[ComparedRun], metric: str, basis: IntervalBasis, scores: Scores) -> Iterator[str]:
    if rough := [row for row in rows[1:] if not row.differences[metric].reliable]:
        discordant = ", ".join(
            f"{row.counts.only_best_correct + row.counts.only_this_correct} with '{row.name}'" for row in rough
        )
        yield (
            f"Too little test data for a reliable interval of {counted(len(rough), 'difference')} over "
            f"{basis.description}, a rough guide. Clips that only one of the two classifies correctly: {discordant}."
        )
    if len(rows) > 2:
        yield (
            f"The best of {len(rows)} was chosen on these clips, so its figure is rather too high. Each interval is "
            "of one pair: one in twenty is wrong by chance."
        )
    sizes = Counter(scores.classes).values()
    if metric == METRIC and max(sizes) >= IMBALANCE * min(sizes):
        yield (
            f"The largest class has {max(sizes) / min(sizes):.1f} times as many clips as the smallest. Compare by the "
            "mean recall, which weights all classes equally: `--metric balanced_accuracy`."
        )


def _names(candidates: Sequence[Candidate]) -> str:
    return " and ".join(f"'{one.name}'" for one in candidates)
