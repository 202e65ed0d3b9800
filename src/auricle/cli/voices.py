"""The commands about voices: enrol, identify, verify, voices, trials. As `cli`: parse, call, print.

`verify` ends with 0 only where every recording was accepted.
"""

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from auricle.cli.options import FILES_HELP, command
from auricle.run_folder import check_model

_COHORT_HELP = "recordings of other people, a folder per person, against which scores are normalised"


def declare(commands: Any) -> None:
    """Add the commands to the parser."""
    example = "auricle enrol voices.db anna anna-1.wav anna-2.wav --run runs/speaker --cohort other-people"
    enrol = command(commands, _enrol, example)
    _store(enrol)
    enrol.add_argument("name", metavar="NAME", help="the speaker")
    enrol.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)
    _run(enrol, "the speaker encoder, a run, model folder or ONNX file: required the first time, and when it has moved")
    enrol.add_argument("--cohort", metavar="DATA", help=f"{_COHORT_HELP} (default: clips that the run was trained on)")
    rate = "share of impostors that thresholds may accept (default: 0.01)"
    enrol.add_argument("--max-false-accept-rate", type=float, metavar="RATE", help=rate)

    identify = command(commands, _identify, "auricle identify voices.db meeting.wav")
    verify = command(commands, _verify, "auricle verify voices.db anna call.wav")
    for parser in (identify, verify):
        _store(parser)
        if parser is verify:
            parser.add_argument("name", metavar="NAME", help="the claimed speaker")
        parser.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)
        _run(parser, "the store's encoder, if it has moved")

    voices = command(commands, _voices, "auricle voices voices.db --remove anna")
    _store(voices)
    voices.add_argument("--remove", metavar="NAME", help="remove this voice with all its clips")

    trials = command(commands, _trials, "auricle trials runs/speaker trials.txt --root recordings")
    trials.add_argument("run", type=Path, metavar="RUN", help="a run folder, a model folder or an ONNX file")
    trials.add_argument(
        "list", type=Path, metavar="LIST", help="trial list, one trial a line: 1 or 0, a file, another file"
    )
    trials.add_argument("--root", type=Path, metavar="FOLDER", help="where the files lie (default: where LIST lies)")
    trials.add_argument("--cohort", metavar="DATA", help=_COHORT_HELP)


def _store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, metavar="STORE", help="the store's file")


def _run(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--run", type=Path, metavar="RUN", help=help)


def _enrol(options: argparse.Namespace) -> int:
    """Add recordings of a speaker to a store of voices."""
    if options.run is not None:
        check_model(options.run)
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
    screen, enrolled = console.Screen(options.json), done.enrolled
    console.show_enrolment(screen, done)
    screen.print_json(
        {
            "store": str(options.store),
            "voice": enrolled and enrolled.name,
            "added": list(enrolled.added) if enrolled else [],
            "duplicates": list(enrolled.duplicates) if enrolled else [],
            "clips": enrolled.clips if enrolled else 0,
            "cohort": {"clips": done.cohort_clips, "description": done.cohort_description},
            "max_false_accept_rate": done.max_false_accept_rate,
            "failed": [{"file": name, "error": why} for name, why in done.failed],
            "warnings": [{"file": name, "warning": why} for name, why in done.warnings],
            "notes": list(done.notes),
        }
    )
    return 1 if done.failed else 0


def _identify(options: argparse.Namespace) -> int:
    """Identify the speaker of recordings, or answer unknown."""
    return _decide(options, None)


def _verify(options: argparse.Namespace) -> int:
    """Verify that recordings are of one enrolled speaker."""
    return _decide(options, options.name)


def _decide(options: argparse.Namespace, claimed: str | None) -> int:
    """Print each decision as it comes, or all as JSON; `claimed` names the voice to be verified."""
    from auricle.voices.store import VoiceStore

    VoiceStore.open(options.store).close()  # refuses a file that is no store, before an encoder is loaded
    from auricle.audio.recordings import recordings
    from auricle.cli import console
    from auricle.voices.identify import load_matcher

    matcher = load_matcher(options.store, claimed, run=options.run)
    screen = console.Screen(options.json)
    rows, good = [], True
    screen.notes(matcher.notes)
    for decision in matcher.decide(recordings(options.files)):
        good = good and decision.error is None and (claimed is None or decision.accepted is True)
        # JSON has no infinity: the score of a voice without impostors in the cohort.
        scores = [(match.voice, round(match.score, 6)) for match in decision.matches]
        rows.append(
            {
                "file": decision.name,
                "voice": decision.voice,
                "accepted": decision.accepted,
                "scores": [
                    {"voice": voice, "score": score if math.isfinite(score) else None} for voice, score in scores
                ],
                "seconds": round(decision.seconds, 3),
                "warnings": list(decision.warnings),
                "error": decision.error,
            }
        )
        console.show_decision(screen, decision, matcher.threshold, is_claim=claimed is not None)
    screen.print_json(
        {
            "threshold": None if matcher.threshold is None else round(matcher.threshold, 6),
            "normalised": matcher.contents.cohort is not None,
            "max_false_accept_rate": matcher.contents.max_false_accept_rate,
            "notes": list(matcher.notes),
            "files": rows,
        }
    )
    return 0 if good else 1


def _voices(options: argparse.Namespace) -> int:
    """List the voices of a store."""
    from auricle.cli import console
    from auricle.errors import UsageError, unknown
    from auricle.voices.store import VoiceStore

    with VoiceStore.open(options.store, write=options.remove is not None) as store:
        if options.remove is not None and not store.remove(options.remove.strip()):
            raise UsageError(unknown("voice", options.remove, [voice.name for voice in store.read().voices]))
        contents = store.read()
    screen = console.Screen(options.json)
    console.show_voices(screen, contents, options.remove)
    cohort_clips = 0 if contents.cohort is None else len(contents.cohort)
    screen.print_json(
        {
            "run": contents.encoder.run,
            "model": contents.encoder.fingerprint,
            "cohort": {"clips": cohort_clips, "description": contents.cohort_description},
            "max_false_accept_rate": contents.max_false_accept_rate,
            "voices": [
                {"voice": voice.name, "clips": voice.clips, "seconds": round(voice.seconds, 3)}
                for voice in contents.voices
            ],
            "removed": options.remove,
        }
    )
    return 0


def _trials(options: argparse.Namespace) -> int:
    """Evaluate a speaker encoder on a list of verification trials."""
    check_model(options.run)
    from auricle.cli import console
    from auricle.voices.trials import evaluate_trials

    screen = console.Screen(options.json)
    report = evaluate_trials(options.run, options.list, screen.progress, root=options.root, cohort=options.cohort)
    console.show_trials(screen, report)
    screen.print_json({**asdict(report), "failed": [{"file": name, "error": why} for name, why in report.failed]})
    return 1 if report.failed else 0
