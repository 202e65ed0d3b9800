"""The command `predict`: classify recordings, whole, window by window, or as events. As `cli`: no logic."""

import argparse
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auricle import parallel
from auricle.cli.options import RUN_HELP, command, engine_options, model_options, positive
from auricle.errors import UsageError
from auricle.inference.events import EventRules
from auricle.inference.formats import FORMATS, SINGLE, RowFormat, View
from auricle.inference.writer import Output
from auricle.run_folder import check_model

if TYPE_CHECKING:
    from auricle.audio.recordings import Recording
    from auricle.inference.classifier import Classifier
    from auricle.inference.job import Job
    from auricle.preparation.windows import WindowSpec

TABLE_CHOICES = 3
_KINDS = ("table", "csv", "jsonl", "submission", "audacity", "vtt")
_ENDINGS = {".csv": "csv", ".jsonl": "jsonl", ".txt": "audacity", ".vtt": "vtt"}
# Windows of a timeline overlap by half. Events need a finer grid: an eighth of a window is a second or less.
_WINDOWS_HOP, _EVENTS_HOP = 0.5, 0.125


def declare(commands: Any) -> None:
    """Add the command to the parser."""
    predict = command(commands, _predict, "auricle predict runs/first night.flac --events --out night.csv")
    predict.add_argument("run", type=Path, metavar="RUN", help=RUN_HELP)
    files = "files, folders, archives, globs, testdata.json, or - for standard input"
    predict.add_argument("files", nargs="+", metavar="FILE", help=files)
    predict.output.add_argument(
        "--top", type=positive, default=TABLE_CHOICES, metavar="K", help="how many classes to list (default: 3)"
    )
    predict.output.add_argument(
        "--out", type=str, metavar="FILE", help="write a .csv, .jsonl, .txt (Audacity) or .vtt file, or a FOLDER/"
    )
    predict.output.add_argument("--resume", action="store_true", help="resume the interrupted job of --out")
    predict.output.add_argument(
        "--format", choices=_KINDS, help="row format (default: by the ending of --out, else table)"
    )
    model_options(predict)
    engine_options(predict)
    timeline = predict.add_argument_group("recordings as a timeline")
    windows = "a row for each window; how long windows are (default: the model's own), with --events too"
    timeline.add_argument("--windows", type=seconds_option, nargs="?", const=0.0, metavar="SECONDS", help=windows)
    timeline.add_argument("--events", action="store_true", help="a row for each event: label, start, end, probability")
    timeline.add_argument("--hop", type=seconds_option, metavar="SECONDS", help="from one window to the next")
    event_options(timeline)


def event_options(group: Any) -> None:
    """When an event begins and ends, for every command that detects events."""
    group.add_argument("--onset", type=float, metavar="P", help="an event begins at this probability")
    group.add_argument("--offset", type=float, metavar="P", help="an event ends below this probability")
    group.add_argument("--min-seconds", type=float, metavar="SECONDS", help="drop shorter events")
    group.add_argument("--max-gap", type=float, metavar="SECONDS", help="merge events with a shorter gap between them")
    group.add_argument("--min-level", type=float, metavar="DBFS", help="no event where the audio is quieter (RMS)")


def event_rules(options: argparse.Namespace) -> EventRules:
    """The rules that the options give; what they leave open is as in `events`."""
    names = ("onset", "offset", "min_seconds", "max_gap", "min_level")
    values = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if "onset" in values and "offset" not in values:
        values["offset"] = min(EventRules.offset, values["onset"])
    return EventRules(**values)


def _predict(options: argparse.Namespace) -> int:
    """Classify recordings."""
    view: View = "events" if options.events else "windows" if options.windows is not None else "recordings"
    out, kind = _destination(options, view)
    rules = event_rules(options)
    check_model(options.run, options.runtime)
    from auricle.audio.recordings import recordings
    from auricle.inference.classifier import load
    from auricle.inference.job import Job, job_id

    classifier = load(options.run, options.precision, refuse=options.refuse, runtime=options.runtime)
    row_format = RowFormat(view, kind, min(options.top, len(classifier.labels)))
    spec = None
    if view != "recordings":
        if not classifier.settings.is_audio:
            raise UsageError(
                "--windows and --events received a model of precomputed features. It classifies whole clips only."
            )
        share = _EVENTS_HOP if view == "events" else _WINDOWS_HOP
        spec = window_spec(classifier, options.windows, options.hop, share)
    listed = recordings(options.files)
    ending = SINGLE.get(kind) if out is not None and _is_folder(options.out) else None
    if kind in SINGLE and ending is None:
        first = list(itertools.islice(listed, 2))
        if len(first) > 1:
            raise UsageError(
                f"--format {kind} received several recordings, and each needs a file of its own. Name a folder: --out "
                "FOLDER/, or choose csv or jsonl."
            )
        listed = itertools.chain(first, listed)
    identity = {"format": row_format, "spec": spec or classifier.window_spec, "rules": rules, "refuse": options.refuse}
    identity |= {"precision": options.precision, "files": options.files, "out": options.out}
    job = job_id(options.run, classifier, identity) if out else ""
    output = Output(out, row_format.heading, job=job, ending=ending, resume=options.resume)
    failed, keep = None, True
    try:
        failed = _run(Job(classifier, row_format, spec, rules, output, _notify), listed, options)
    except KeyboardInterrupt:
        return 130
    except UsageError:
        keep = options.resume
        raise
    except OSError as error:
        raise UsageError(
            f"--out received '{options.out}', and writing failed: {error.strerror or error}. Free some disk space, or "
            "name another file."
        ) from error
    finally:
        if failed is None and output.abandon(keep=keep) and keep:
            _notify("stopped. Resume with the same command and --resume.")
    return 1 if failed else 0


def _run(job: "Job", listed: "Iterable[Recording]", options: argparse.Namespace) -> int:
    """Run a job here or on the cluster; returns how many recordings failed."""
    if not parallel.on_cluster():
        return job.run(listed)
    from auricle.inference.parts import PartJob

    opened = {"refuse": options.refuse, "runtime": options.runtime}
    return job.run_on_cluster(listed, PartJob.of(job, options.run, options.precision, **opened))


def _notify(sentence: str) -> None:
    print(f"auricle: {sentence}", file=sys.stderr)


def _is_folder(out: str) -> bool:
    return out.endswith("/") or Path(out).is_dir()


def _destination(options: argparse.Namespace, view: View) -> tuple[Path | None, str]:
    """Where rows go, and their format: --format, else --json, else the ending of --out."""
    if options.json and options.format not in (None, "jsonl"):
        raise UsageError(f"--json received --format {options.format} too. Remove one of them.")
    if options.resume and options.out is None:
        raise UsageError("--resume received no file. Name the file to resume: --out FILE.")
    if options.engine == "ray" and "-" in options.files:
        raise UsageError("--engine ray received '-', and no other machine reads this one's standard input. Name files.")
    if options.resume and "-" in options.files:
        raise UsageError("--resume received '-', and standard input cannot be read again. Name files.")
    out = Path(options.out) if options.out is not None else None
    kind = options.format or ("jsonl" if options.json else None)
    if kind is None and out is not None:
        kind = _ENDINGS.get(out.suffix)
        if kind is None:
            allowed = " or ".join(ending for ending, kind in _ENDINGS.items() if kind in FORMATS[view])
            raise UsageError(f"--out received '{out}'. Allowed: a file that ends in {allowed}, or --format.")
    kind = kind or "table"
    if kind not in FORMATS[view]:
        other = " Add --events or --windows." if kind in SINGLE else ""
        raise UsageError(f"The format '{kind}' is not one of {view}: {', '.join(FORMATS[view])}.{other}")
    if options.out is not None and _is_folder(options.out) and kind not in SINGLE:
        raise UsageError(f"--out received the folder '{options.out}' for {kind}. Name a file.")
    return out, str(kind)


def window_spec(classifier: "Classifier", seconds: float | None, hop: float | None, hop_share: float) -> "WindowSpec":
    """The windows of the options, or the model's own, one every `hop_share` of a window. Raises UsageError."""
    from auricle.preparation.windows import WindowSpec

    seconds = seconds or classifier.window_seconds
    hop = hop or seconds * hop_share
    if hop > seconds:
        raise UsageError(f"--hop received {hop:g}, and windows are {seconds:g} s long. Allowed: up to that.")
    return WindowSpec(seconds, hop)


def seconds_option(text: str) -> float:
    """Parse the seconds of a window or a hop, for argparse."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.01 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no number of seconds from 0.01 to 3600. Name files before this option"
        )
    return seconds
