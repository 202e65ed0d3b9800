"""The commands about voices: enrol, identify, verify, voices, trials. As `cli`: parse, call, print.

Exit codes as everywhere; `verify` ends with 0 only where every recording was accepted.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auricle.cli.options import command, print_json, quiet_libraries

if TYPE_CHECKING:
    from auricle.voices.identify import Desk

_FILES_HELP = "files, folders, archives, globs, or - for standard input"
_COHORT_HELP = "recordings of other people, in a folder each: what scores are normalised by"
_SHOWN = 3


def declare(commands: Any) -> None:
    """Add the commands to the parser."""
    enrol = command(commands, "enrol", _enrol, "add recordings of a person to a store of voices")
    _store(enrol)
    enrol.add_argument("name", metavar="NAME", help="the person")
    enrol.add_argument("files", nargs="+", metavar="FILE", help=_FILES_HELP)
    _run(enrol, "the model that hears, a run or model folder: needed the first time, and where it has moved")
    enrol.add_argument("--cohort", metavar="DATA", help=f"{_COHORT_HELP} (default: clips that the run was trained on)")
    enrol.add_argument(
        "--false-accept", type=float, metavar="SHARE", help="of strangers that thresholds let through (default: 0.01)"
    )
    identify = command(commands, "identify", _identify, "say whose voice is heard in recordings, or that it is unknown")
    _store(identify)
    identify.add_argument("files", nargs="+", metavar="FILE", help=_FILES_HELP)
    _run(identify, "where the store's model is, if it has moved")

    verify = command(commands, "verify", _verify, "say whether recordings are of the person they are said to be of")
    _store(verify)
    verify.add_argument("name", metavar="NAME", help="who it is said to be")
    verify.add_argument("files", nargs="+", metavar="FILE", help=_FILES_HELP)
    _run(verify, "where the store's model is, if it has moved")

    voices = command(commands, "voices", _voices, "list the voices of a store")
    _store(voices)
    voices.add_argument("--remove", metavar="NAME", help="take this voice out, with all its clips")

    trials = command(commands, "trials", _trials, "judge a model by a list of verification trials")
    trials.add_argument("run", type=Path, metavar="RUN", help="a run folder or a model folder")
    trials.add_argument("list", type=Path, metavar="LIST", help="lines of: 1 or 0, a file, another file")
    trials.add_argument("--root", type=Path, metavar="FOLDER", help="where the files lie (default: where LIST lies)")
    trials.add_argument("--cohort", metavar="DATA", help=_COHORT_HELP)


def _store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, metavar="STORE", help="the store's file")


def _run(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--run", type=Path, metavar="RUN", help=help)


def _enrol(options: argparse.Namespace) -> int:
    from auricle.cli import console

    quiet_libraries()
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
        "known": list(done.enrolled.known) if done.enrolled else [],
        "clips": done.enrolled.clips if done.enrolled else 0,
        "cohort": {"clips": done.cohort, "described": done.cohort_named},
        "max_false_accept_rate": done.max_false_accept_rate,
        "failed": [{"file": name, "error": why} for name, why in done.failed],
        "warnings": [{"file": name, "warning": why} for name, why in done.warnings],
        "notes": list(done.notes),
    }
    if options.json:
        print_json(found)
    else:
        console.show_enrolment(console.Screen(False), found)
    return 1 if done.failed else 0


def _identify(options: argparse.Namespace) -> int:
    quiet_libraries()
    from auricle.voices.identify import desk

    return _answer(options, desk(options.store, run=options.run), None)


def _verify(options: argparse.Namespace) -> int:
    quiet_libraries()
    from auricle.voices.identify import desk

    return _answer(options, desk(options.store, options.name, run=options.run), options.name.strip())


def _answer(options: argparse.Namespace, asked: "Desk", claimed: str | None) -> int:
    """Print what is found of each recording as it comes, or all as JSON; `claimed` names the voice to be verified."""
    from auricle.audio.recordings import recordings
    from auricle.cli import console

    screen = console.Screen(options.json)
    rows, good = [], True
    for note in asked.notes:
        screen.say(f"! {note}")
    for found in asked.findings(recordings(options.files)):
        good = good and found.error is None and (claimed is None or found.accepted is True)
        row = {
            "file": found.name,
            "voice": found.voice,
            "accepted": found.accepted,
            "scores": [{"voice": match.voice, "score": _finite(match.score)} for match in found.matches],
            "seconds": round(found.seconds, 3),
            "warnings": list(found.warnings),
            "error": found.error,
        }
        rows.append(row)
        console.show_finding(screen, row, asked.threshold, claimed, _SHOWN)
    if options.json:
        threshold = None if asked.threshold is None else round(asked.threshold, 6)
        normalised = asked.contents.cohort is not None
        about = {
            "threshold": threshold,
            "normalised": normalised,
            "max_false_accept_rate": asked.contents.max_false_accept_rate,
        }
        print_json({**about, "notes": list(asked.notes), "files": rows})
    return 0 if good else 1


def _finite(score: float) -> float | None:
    """JSON has no infinity: the score of a voice that nobody in the cohort is a stranger to."""
    return round(score, 6) if abs(score) != float("inf") else None


def _voices(options: argparse.Namespace) -> int:
    from auricle.cli import console
    from auricle.errors import UsageError, unknown
    from auricle.voices.store import Store

    with Store.open(options.store, write=options.remove is not None) as store:
        if options.remove is not None and not store.remove(options.remove.strip()):
            raise UsageError(unknown("voice", options.remove, [voice.name for voice in store.read().voices]))
        held = store.read()
    found = {
        "run": held.origin.run,
        "model": held.origin.fingerprint,
        "cohort": {"clips": len(held.cohort) if held.cohort is not None else 0, "described": held.cohort_named},
        "max_false_accept_rate": held.max_false_accept_rate,
        "voices": [
            {"voice": voice.name, "clips": voice.clips, "seconds": round(voice.seconds, 3)} for voice in held.voices
        ],
        "removed": options.remove,
    }
    if options.json:
        print_json(found)
    else:
        console.show_voices(console.Screen(False), found)
    return 0


def _trials(options: argparse.Namespace) -> int:
    from auricle.cli import console

    quiet_libraries()
    from auricle.voices.trials import judge

    screen = console.Screen(options.json)
    found = judge(options.run, options.list, screen.progress, root=options.root, cohort=options.cohort)
    screen.finish()
    if options.json:
        print_json(found)
    else:
        console.show_trials(screen, found)
    return 1 if found["failed"] else 0
