"""The commands about voices: enrol, identify, verify, voices, trials. As `cli`: parse, call, print.

Exit codes as everywhere; `verify` ends with 0 only where every recording was accepted.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auricle.cli.options import check_run, command, print_json

if TYPE_CHECKING:
    from auricle.voices.identify import SpeakerMatcher

_FILES_HELP = "files, folders, archives, globs, or - for standard input"
_COHORT_HELP = "recordings of other people, a folder per person, against which scores are normalised"
_SHOWN_MATCHES = 3


def declare(commands: Any) -> None:
    """Add the commands to the parser."""
    enrol = command(
        commands,
        "enrol",
        _enrol,
        "add recordings of a speaker to a store of voices",
        "auricle enrol voices.db anna anna-1.wav anna-2.wav --run runs/speaker --cohort other-people",
    )
    _store(enrol)
    enrol.add_argument("name", metavar="NAME", help="the speaker")
    enrol.add_argument("files", nargs="+", metavar="FILE", help=_FILES_HELP)
    _run(enrol, "the speaker encoder, a run or model folder: required the first time, and when it has moved")
    enrol.add_argument("--cohort", metavar="DATA", help=f"{_COHORT_HELP} (default: clips that the run was trained on)")
    enrol.add_argument(
        "--max-false-accept-rate",
        type=float,
        metavar="RATE",
        help="share of impostors that thresholds may accept (default: 0.01)",
    )
    identify = command(
        commands,
        "identify",
        _identify,
        "identify the speaker of recordings, or answer unknown",
        "auricle identify voices.db meeting.wav",
    )
    _store(identify)
    identify.add_argument("files", nargs="+", metavar="FILE", help=_FILES_HELP)
    _run(identify, "the store's encoder, if it has moved")

    verify = command(
        commands,
        "verify",
        _verify,
        "verify that recordings are of one enrolled speaker",
        "auricle verify voices.db anna call.wav",
    )
    _store(verify)
    verify.add_argument("name", metavar="NAME", help="the claimed speaker")
    verify.add_argument("files", nargs="+", metavar="FILE", help=_FILES_HELP)
    _run(verify, "the store's encoder, if it has moved")

    voices = command(
        commands, "voices", _voices, "list the voices of a store", "auricle voices voices.db --remove anna"
    )
    _store(voices)
    voices.add_argument("--remove", metavar="NAME", help="remove this voice with all its clips")

    _declare_trials(commands)


def _declare_trials(commands: Any) -> None:
    trials = command(
        commands,
        "trials",
        _trials,
        "evaluate a speaker encoder on a list of verification trials",
        "auricle trials runs/speaker trials.txt --root recordings",
    )
    trials.add_argument("run", type=Path, metavar="RUN", help="a run folder or a model folder")
    trials.add_argument(
        "list", type=Path, metavar="LIST", help="trial list, one trial a line: 1 or 0, a file, another file"
    )
    trials.add_argument("--root", type=Path, metavar="FOLDER", help="where the files lie (default: where LIST lies)")
    trials.add_argument("--cohort", metavar="DATA", help=_COHORT_HELP)


def _store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, metavar="STORE", help="the store's file")


def _run(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--run", type=Path, metavar="RUN", help=help)


def _check_store(path: Path) -> None:
    """Refuse a file that is no store, before an encoder is loaded."""
    from auricle.voices.store import VoiceStore

    with VoiceStore.open(path):
        pass


def _enrol(options: argparse.Namespace) -> int:
    if options.run is not None:
        check_run(options.run)
    from auricle.cli import console
    from auricle.voices.enrol import enrol

    done = enrol(
        options.store,
        options.name,
        options.files,
        run=options.run,
        cohort=options.cohort,
        max_false_accept_rate=options.max_false_accept_rate,
    )
    found = {
        "store": str(options.store),
        "voice": done.enrolled and done.enrolled.name,
        "added": list(done.enrolled.added) if done.enrolled else [],
        "duplicates": list(done.enrolled.duplicates) if done.enrolled else [],
        "clips": done.enrolled.clips if done.enrolled else 0,
        "cohort": {"clips": done.cohort_clips, "description": done.cohort_description},
        "max_false_accept_rate": done.max_false_accept_rate,
        "failed": [{"file": name, "error": why} for name, why in done.failed],
        "warnings": [{"file": name, "warning": why} for name, why in done.warnings],
        "notes": list(done.notes),
    }
    if options.json:
        print_json(found)
    else:
        console.show_enrolment(console.Screen(False), done)
    return 1 if done.failed else 0


def _identify(options: argparse.Namespace) -> int:
    _check_store(options.store)
    from auricle.voices.identify import load_matcher

    return _decide(options, load_matcher(options.store, run=options.run), None)


def _verify(options: argparse.Namespace) -> int:
    _check_store(options.store)
    from auricle.voices.identify import load_matcher

    return _decide(options, load_matcher(options.store, options.name, run=options.run), options.name.strip())


def _decide(options: argparse.Namespace, matcher: "SpeakerMatcher", claimed: str | None) -> int:
    """Print each decision as it comes, or all as JSON; `claimed` names the voice to be verified."""
    from auricle.audio.recordings import recordings
    from auricle.cli import console

    screen = console.Screen(options.json)
    rows, good = [], True
    for note in matcher.notes:
        screen.print(f"! {note}")
    for decision in matcher.decide(recordings(options.files)):
        good = good and decision.error is None and (claimed is None or decision.accepted is True)
        row = {
            "file": decision.name,
            "voice": decision.voice,
            "accepted": decision.accepted,
            "scores": [{"voice": match.voice, "score": _finite(match.score)} for match in decision.matches],
            "seconds": round(decision.seconds, 3),
            "warnings": list(decision.warnings),
            "error": decision.error,
        }
        rows.append(row)
        console.show_decision(screen, decision, matcher.threshold, claimed, _SHOWN_MATCHES)
    if options.json:
        about = {
            "threshold": None if matcher.threshold is None else round(matcher.threshold, 6),
            "normalised": matcher.contents.cohort is not None,
            "max_false_accept_rate": matcher.contents.max_false_accept_rate,
        }
        print_json({**about, "notes": list(matcher.notes), "files": rows})
    return 0 if good else 1


def _finite(score: float) -> float | None:
    """JSON has no infinity: the score of a voice without impostors in the cohort."""
    return round(score, 6) if abs(score) != float("inf") else None


def _voices(options: argparse.Namespace) -> int:
    from auricle.cli import console
    from auricle.errors import UsageError, unknown
    from auricle.voices.store import VoiceStore

    with VoiceStore.open(options.store, write=options.remove is not None) as store:
        if options.remove is not None and not store.remove(options.remove.strip()):
            raise UsageError(unknown("voice", options.remove, [voice.name for voice in store.read().voices]))
        contents = store.read()
    cohort_clips = 0 if contents.cohort is None else len(contents.cohort)
    listing = {
        "run": contents.encoder.run,
        "model": contents.encoder.fingerprint,
        "cohort": {"clips": cohort_clips, "description": contents.cohort_description},
        "max_false_accept_rate": contents.max_false_accept_rate,
        "voices": [
            {"voice": voice.name, "clips": voice.clips, "seconds": round(voice.seconds, 3)} for voice in contents.voices
        ],
        "removed": options.remove,
    }
    if options.json:
        print_json(listing)
    else:
        console.show_voices(console.Screen(False), contents, options.remove)
    return 0


def _trials(options: argparse.Namespace) -> int:
    check_run(options.run)
    from auricle.cli import console
    from auricle.voices.trials import evaluate_trials

    screen = console.Screen(options.json)
    report = evaluate_trials(options.run, options.list, screen.progress, root=options.root, cohort=options.cohort)
    screen.finish()
    if options.json:
        print_json({**asdict(report), "failed": [{"file": name, "error": why} for name, why in report.failed]})
    else:
        console.show_trials(screen, report)
    return 1 if report.failed else 0
