"""What the command line prints for people: tables, progress, one line per epoch. Nothing is computed here."""

import math
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from auricle.cli.options import print_json
from auricle.preparation.formatting import counted, decimal_range, duration, file_size, percent, short_duration
from auricle.preparation.inspection import Inspection

if TYPE_CHECKING:
    from auricle.evaluation.compare import Comparison
    from auricle.evaluation.evaluate import Evaluation
    from auricle.evaluation.intervals import Interval
    from auricle.evaluation.report import Report
    from auricle.hub.push import Upload
    from auricle.models.catalogue import Encoder, Fetched, Status
    from auricle.training.audition import Audition, EncoderFacts
    from auricle.voices.enrol import Enrolment
    from auricle.voices.identify import Decision
    from auricle.voices.store import StoreContents
    from auricle.voices.trials import TrialsReport

MOST_ROWS = 20
MOST_MATCHES = 3


class Screen:
    """The terminal; nothing is printed when the output is JSON."""

    def __init__(self, quiet: bool) -> None:
        # Tables in a pipe or a log are not folded at 80 columns.
        width = None if sys.stdout.isatty() else max(120, shutil.get_terminal_size((160, 24)).columns)
        self.console = Console(quiet=quiet, soft_wrap=True, highlight=False, width=width)
        self._progress: Progress | None = None
        self._task: Any = None

    def print(self, text: str) -> None:
        self.finish()
        self.console.print(text, markup=False)

    def line(self, *columns: str) -> None:
        """One line of columns separated by tabs, which a table would replace by spaces."""
        self.finish()
        if not self.console.quiet:
            print(*columns, sep="\t", file=self.console.file, flush=True)

    def print_json(self, content: Any) -> None:
        """Print the answer for programs, where the output is JSON."""
        self.finish()
        if self.console.quiet:
            print_json(content)

    def notes(self, notes: Iterable[str]) -> None:
        for note in notes:
            self.print(f"! {note}")

    def progress(self, done: int, total: int) -> None:
        """Show how many recordings of a long task are done."""
        self._show(done, total, "Decoding", MofNCompleteColumn())

    def download(self, done: int, total: int) -> None:
        """Show how many bytes of a file are here."""
        self._show(done, total, "Downloading", DownloadColumn())

    def _show(self, done: int, total: int, description: str, count: Any) -> None:
        """One bar at a time, removed when it is full."""
        if not self.console.is_terminal or self.console.quiet:
            return
        if self._progress is None:
            columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._progress.start()
            self._task = self._progress.add_task(description, total=total)
        self._progress.update(self._task, completed=done, total=total)
        if done >= total:
            self.finish()

    def finish(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def epoch(self, fold: str, epoch: Any) -> None:
        """One line per epoch: losses, validation, speed, time left."""
        valid = epoch.valid or {}
        parts = [f"epoch {epoch.epoch:3d}/{epoch.epochs}", f"loss {epoch.loss:.3f}"]
        if valid:
            parts.append(f"valid loss {valid['log_loss']:.3f}")
            parts.append(f"accuracy {valid['accuracy']:.3f}")
            parts.append(f"balanced {valid['balanced_accuracy']:.3f}")
        parts.append(f"{epoch.clips_per_second:.0f} clips/s")
        parts.append(f"{duration(epoch.seconds_left)} left")
        self.print("  ".join(parts))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table with numbers aligned to the right and text to the left."""
        self.finish()
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for number, column in enumerate(columns):
            numeric = bool(rows) and all(row[number][:1] in "0123456789.-" for row in rows)
            table.add_column(column, justify="right" if numeric and number else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)
        self.console.print()


def show_inspection(screen: Screen, inspection: Inspection) -> None:
    """What is in the corpus, what is wrong with it, and how it would be split."""
    for line in inspection.summary:
        screen.print(line)
    screen.print("")
    classes, *findings = inspection.tables
    screen.table(classes.title, classes.columns, classes.rows)
    for table in findings:
        screen.table(table.title, table.columns, table.rows[:MOST_ROWS])
        if len(table.rows) > MOST_ROWS:
            screen.print(f"… and {len(table.rows) - MOST_ROWS} more; --json lists all.")
    screen.notes(inspection.notes)
    screen.print(inspection.split_summary)


def show_report(screen: Screen, report: "Report") -> None:
    """The end of a training on the terminal: the metrics in context, the verdict, the cautions."""
    baseline = report.baseline.metrics
    others = {"baseline": {name: baseline[name].value for name in report.metrics}}
    if (probe := report.probe) is not None:
        others[f"probe of {probe.encoder}"] = {name: probe.metrics[name].value for name in report.metrics}
    others["majority"] = report.majority
    rows = [
        (*_metric(name, metric), *(f"{values[name]:.3f}" for values in others.values()))
        for name, metric in report.metrics.items()
    ]
    screen.print("")
    title = f"{report.test_clips} test clips; intervals over {report.interval.description}"
    screen.table(title, ("metric", "value", "95 % interval", *others), rows)
    screen.print(report.verdict)
    if report.seeds:
        accuracy = report.seeds.metrics["accuracy"]
        screen.print(
            f"Variance across {len(report.seeds.seeds)} seeds: accuracy {accuracy.mean:.3f} ± {accuracy.deviation:.3f} "
            f"({decimal_range(accuracy.low, accuracy.high)})."
        )
    _show_duration_and_rejection(screen, report)
    screen.notes(report.cautions)
    if report.suspect_labels:
        names = ", ".join(f"'{row.id}' ({row.label}, or {row.predicted}?)" for row in report.suspect_labels[:5])
        screen.print(f"! {counted(len(report.suspect_labels), 'suspect label')}: {names}")


def show_evaluation(screen: Screen, evaluation: "Evaluation") -> None:
    """The metrics of `auricle evaluate`."""
    screen.print(evaluation.description)
    title = f"{evaluation.test_clips} clips; intervals over {evaluation.interval.description}"
    rows = [_metric(name, metric) for name, metric in evaluation.metrics.items()]
    screen.table(title, ("metric", "value", "95 % interval"), rows)
    classes = [
        (row.label, str(row.clips), f"{row.precision:.3f}", f"{row.recall:.3f}", f"{row.f1:.3f}")
        for row in evaluation.per_class
    ]
    screen.table("Classes", ("class", "clips", "precision", "recall", "F1"), classes)
    _show_duration_and_rejection(screen, evaluation)
    screen.notes(evaluation.cautions)
    if evaluation.unusable:
        screen.print(f"! {counted(evaluation.unusable, 'unusable clip')}; `auricle inspect` lists the reasons.")


def show_comparison(screen: Screen, comparison: "Comparison") -> None:
    """The table, the verdict and the cautions of `auricle compare`."""
    from auricle.evaluation.compare import format_difference, format_metric

    metric = comparison.metric
    rows: list[tuple[str, ...]] = []
    for row in comparison.runs:
        difference = format_difference(metric, row.differences[metric]) if rows else ("best", "")
        time = "" if row.train_seconds is None else duration(row.train_seconds)
        size = "" if row.parameters is None else f"{row.parameters:,}"
        rows.append((row.name, row.recipe, *format_metric(metric, row.metrics[metric]), *difference, time, size))
    title = f"{counted(comparison.clips, 'shared test clip')}; intervals over {comparison.interval.description}"
    columns = ("run", "recipe", metric.replace("_", " "), "95 % interval", "difference", "95 % interval")
    screen.table(title, (*columns, "training", "parameters"), rows)
    screen.print(comparison.verdict)
    screen.notes(comparison.cautions)


def show_audition(screen: Screen, audition: "Audition") -> None:
    """The table of `auricle audition`, the verdict, the cautions and the command that trains."""
    from auricle.evaluation.compare import format_difference, format_metric

    comparison = audition.comparison
    shown = ("accuracy", "balanced_accuracy", *({comparison.metric} - {"accuracy", "balanced_accuracy"}))
    rows: list[tuple[str, ...]] = []
    for run, facts in zip(comparison.runs, audition.encoders, strict=True):
        difference = format_difference(comparison.metric, run.differences[comparison.metric])
        rows.append((
            run.name,
            *(text for metric in shown for text in format_metric(metric, run.metrics[metric])),
            *(difference if rows else ("best", "")),
            _layers(facts),
            short_duration(facts.seconds_per_clip),
            "" if facts.parameters is None else f"{facts.parameters / 1e6:.1f} M",
            facts.license or ("" if facts.checkpoint is None else "not known"),
        ))  # fmt: skip
    majority = [f"{percent(audition.majority[metric])}" for metric in shown[:2]]
    rows.append(("majority class", majority[0], "", majority[1], *("" for _ in rows[0][4:])))
    metrics = [text for metric in shown for text in (metric.replace("_", " "), "95 % interval")]
    columns = ("encoder", *metrics, "difference", "95 % interval", "layers", "a clip", "parameters", "licence")
    screen.print("")
    title = f"{counted(audition.clips, 'clip')}, {audition.split}; intervals over {comparison.interval.description}"
    screen.table(title, columns, rows)
    device = "one core" if audition.best.device == "cpu" else audition.best.device
    screen.print(f"Layers: those of a model of all clips. Time: of {device}, without decoding.")
    screen.print(comparison.verdict)
    screen.notes(filter(None, (audition.advice, *comparison.cautions)))
    screen.print("Train with the best:")
    screen.print(f"  {audition.command}")


def _layers(facts: "EncoderFacts") -> str:
    """The layers that a model of all clips chooses, and whether it joins descriptors: 2 to 3 of 4 + descriptors."""
    first, last = min(facts.layers, default=0), max(facts.layers, default=0)
    numbers = f"{first} to {last}" if facts.layers == (*range(first, last + 1),) else ", ".join(map(str, facts.layers))
    layers = [f"{numbers if first < last else first} of {facts.num_layers - 1}"] if facts.layers else []
    return " + ".join([*layers, *(["descriptors"] if facts.joins_descriptors else [])])


def _metric(name: str, metric: "Interval", digits: int = 3) -> tuple[str, str, str]:
    return name.replace("_", " "), f"{metric.value:.{digits}f}", metric.decimals(digits)


def _show_duration_and_rejection(screen: Screen, result: "Report | Evaluation") -> None:
    """One line each: accuracy by duration, and how well rejection works."""
    if result.accuracy_by_duration:
        parts = [
            f"{row.accuracy.value:.3f} at {row.seconds:g} s ({row.full_clips.value:.3f} in full, "
            f"{counted(row.clips, 'clip')})"
            for row in result.accuracy_by_duration
        ]
        parts.append(f"{result.metrics['accuracy'].value:.3f} on all {result.test_clips} in full")
        screen.print(f"Accuracy by duration: {', '.join(parts)}.")
    rejection = result.rejection
    if rejection is None or rejection.threshold is None:
        return
    parts = [f"Rejection: 'unknown' below a confidence of {rejection.threshold:.4f}"]
    if rate := rejection.measured_false_accept_rate:
        parts.append(
            f"measured false-accept rate {percent(rate.value)} of "
            f"{'clips of held-out classes' if rejection.has_classes else 'misclassified clips'} "
            f"({rate.percents}; at most {percent(rejection.max_false_accept_rate)} requested)"
        )
    if rejection.false_rejection_rate is not None:
        known = "known clips" if rejection.has_classes else "correct predictions"
        parts.append(f"false-rejection rate {percent(rejection.false_rejection_rate)} of {known}")
    if rejection.auroc:
        parts.append(f"AUROC {rejection.auroc.value:.3f}")
    screen.print("; ".join(parts) + ".")


def show_upload(screen: Screen, upload: "Upload") -> None:
    """What `auricle push` would upload, and where to."""
    total = file_size(sum(file.size for file in upload.files))
    visibility = "private" if upload.private else "public"
    screen.table(
        f"To {upload.repo} ({visibility}, revision {upload.revision or 'main'}): {total}",
        ("file", "size"),
        [(file.name, file_size(file.size)) for file in upload.files],
    )
    screen.print("Model card:")
    for key, value in upload.metadata.items():
        if key != "model-index":
            screen.print(f"  {key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    for index in upload.metadata.get("model-index", []):
        for result in index["results"]:
            metrics = ", ".join(f"{row.get('name', row['type'])} {row['value']}" for row in result["metrics"])
            screen.print(f"  results on {result['dataset']['name']}: {metrics}")
    screen.notes(upload.notes)


def show_encoders(screen: Screen, statuses: Sequence["Status"]) -> None:
    """The table of `auricle encoders`."""
    rows = []
    for status in statuses:
        encoder = status.encoder
        cached = ("yes" if status.cached else "no") if encoder.is_supported else "not yet supported"
        rows.append((
            encoder.name,
            encoder.source if encoder.is_on_hub else "EfficientAT",
            encoder.license,
            f"{encoder.parameters / 1e6:.1f} M",
            file_size(encoder.download),
            f"{encoder.sample_rate / 1000:g} kHz",
            ", ".join(encoder.good_for),
            cached,
        ))  # fmt: skip
    columns = ("name", "from", "licence", "parameters", "download", "rate", "good for", "cached")
    screen.table("Pretrained encoders", columns, rows)
    screen.print("Download one: auricle encoders --fetch NAME. Any other encoder on the Hub works by its Hub name.")


def show_encoder(screen: Screen, encoder: "Encoder") -> None:
    """What `auricle encoders --fetch` is about to download."""
    screen.print(f"{encoder.name}: {encoder.source}, {encoder.description}")
    pinned = f"sha256 {encoder.sha256} expected" if encoder.sha256 else "no pinned hash: the Hub's own is verified"
    screen.print(f"licence {encoder.license}, about {file_size(encoder.download)}, {pinned}")


def show_fetched(screen: Screen, fetched: "Fetched") -> None:
    """The files of a downloaded encoder."""
    for file in fetched.files:
        verified = f"equals {file.verified_by}" if file.verified_by else "nothing to compare it with"
        screen.print(f"{file.path}: {file_size(file.size)}, sha256 {file.sha256} ({verified})")
    screen.notes(fetched.notes)
    name = fetched.encoder.name if fetched.encoder.is_on_hub else fetched.files[0].path
    screen.print(f"Licence: {fetched.license}. Use it: --checkpoint {name}")


def show_enrolment(screen: Screen, done: "Enrolment") -> None:
    """What `auricle enrol` added, and the cohort that will normalise scores."""
    if done.enrolled is not None:
        added, clips = len(done.enrolled.added), counted(done.enrolled.clips, "clip")
        screen.print(f"Enrolled '{done.enrolled.name}': {added} added, {clips} in all.")
        duplicates = done.enrolled.duplicates
        screen.notes(f"{name}: this voice already has this audio; it is stored once." for name in duplicates)
    for name, error in done.failed:
        screen.line(name, f"FAILED: {error}")
    screen.notes(f"{name}: {warning}" for name, warning in done.warnings)
    if done.cohort_clips:
        rate = done.max_false_accept_rate
        screen.print(f"Cohort: {done.cohort_description}. Maximum false-accept rate: {rate:g}.")
    screen.notes(done.notes)


def show_decision(screen: Screen, decision: "Decision", threshold: float | None, is_claim: bool) -> None:
    """One line of `auricle identify`, or of `auricle verify`, which checks a claim."""
    if decision.error is not None:
        screen.line(decision.name, f"FAILED: {decision.error}")
        return
    scores = "   ".join(
        f"{match.voice} {match.score:.2f}" if math.isfinite(match.score) else f"{match.voice} no score"
        for match in decision.matches[:MOST_MATCHES]
    )
    note = f"   ({'; '.join(decision.warnings)})" if decision.warnings else ""
    if threshold is None:
        screen.line(decision.name, scores + note)
        return
    accepted, refused = ("accepted", "rejected") if is_claim else (decision.voice or "", "unknown")
    verdict = accepted if decision.accepted else refused
    screen.line(decision.name, verdict, f"{scores}   (threshold {threshold:.2f}){note}")


def show_voices(screen: Screen, contents: "StoreContents", removed: str | None) -> None:
    """The voices of a store."""
    if removed is not None:
        screen.print(f"Removed '{removed}'.")
    rows = [(voice.name, str(voice.clips), duration(voice.seconds)) for voice in contents.voices]
    screen.table(f"{len(rows)} voices, encoded by {contents.encoder.run}", ("voice", "clips", "duration"), rows)
    cohort = contents.cohort_description or "none, hence no threshold"
    screen.print(f"Cohort: {cohort}. Maximum false-accept rate: {contents.max_false_accept_rate:g}.")


def show_trials(screen: Screen, report: "TrialsReport") -> None:
    """The error rates of `auricle trials`."""
    rows = [
        (score, *_metric(name, rate, digits=4))
        for score, rates in report.metrics.items()
        for name, rate in rates.items()
    ]
    title = f"{report.targets} target and {report.nontargets} non-target trials; "
    title += f"intervals over {report.interval.units} {report.interval.unit}s"
    screen.table(title, ("score", "metric", "value", "95 % interval"), rows)
    if report.cohort:
        screen.print(f"Normalised by {report.cohort}.")
    if report.excluded:
        screen.print(f"! Excluded {report.excluded} trials: {len(report.failed)} files cannot be decoded.")
    for name, error in report.failed[:MOST_ROWS]:
        screen.line(name, f"FAILED: {error}")
    screen.notes(report.notes)
