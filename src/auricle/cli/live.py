"""The command `listen-live`: raw samples on standard input, events on standard output as they happen. No logic."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auricle.cli.options import RUN_HELP, command, model_options
from auricle.cli.predict import event_options, event_rules, seconds_option, window_spec
from auricle.errors import UsageError
from auricle.run_folder import check_model

if TYPE_CHECKING:
    from auricle.inference.live import Message

# Of a window. A finer hop gives sharper edges, and costs more: it leaves room for a window that takes twice as long.
_HOP, _ROOM = 0.125, 2.0
_EXAMPLES = """arecord -q -t raw -f S16_LE -r 16000 -c 1 | auricle listen-live runs/first --rate 16000
sox -q -d -t raw -e signed -b 16 -r 16000 -c 1 - | auricle listen-live runs/first --rate 16000
ffmpeg -v error -i rtsp://camera/audio -f s16le -ar 16000 -ac 1 - | auricle listen-live runs/first --rate 16000"""


def declare(commands: Any) -> None:
    """Add the command to the parser."""
    live = command(commands, _listen_live, _EXAMPLES)
    live.add_argument("run", type=Path, metavar="RUN", help=RUN_HELP)
    model_options(live)
    audio = live.add_argument_group("input")
    audio.add_argument(
        "--rate", type=int, default=16_000, metavar="HZ", help="sample rate of the input (default: 16000)"
    )
    audio.add_argument("--channels", type=int, default=1, help="channels of the input, interleaved (default: 1)")
    audio.add_argument("--encoding", choices=("s16le", "f32le"), default="s16le", help="sample format (default: s16le)")
    events = live.add_argument_group("events")
    events.add_argument(
        "--window", type=seconds_option, metavar="SECONDS", help="length of a window (default: the model's own)"
    )
    events.add_argument(
        "--hop", type=seconds_option, metavar="SECONDS", help="from one window to the next (default: 1/8 of it)"
    )
    event_options(events)


def _listen_live(options: argparse.Namespace) -> int:
    """Detect events as they happen, in raw samples on stdin."""
    rules = event_rules(options)
    check_model(options.run, options.runtime)
    from auricle.audio import stream
    from auricle.inference.classifier import load
    from auricle.inference.live import latency, listen
    from auricle.preparation.windows import WindowSpec

    classifier = load(options.run, options.precision, refuse=options.refuse, runtime=options.runtime)
    if not classifier.settings.is_audio:
        raise UsageError(
            "listen-live received a model of precomputed features, and its input is audio. Use a model of audio."
        )
    spec = window_spec(classifier, options.window, options.hop, _HOP)
    source: Any = sys.stdin.buffer
    blocks = stream.pcm(source, options.rate, options.channels, options.encoding, classifier.settings)
    bound = latency(classifier, spec, rules)
    if options.hop is None and spec.hop < _ROOM * bound.scoring:
        spec = WindowSpec(spec.seconds, min(spec.seconds, _ROOM * bound.scoring))
        bound = latency(classifier, spec, rules)
    if options.json:
        fields = {"rate": options.rate, "channels": options.channels, "window": spec.seconds, "hop": spec.hop}
        fields |= {"begin_within": bound.begin, "end_within": bound.end, "scoring": bound.scoring}
        _line(json.dumps({"type": "listening", **{name: round(value, 3) for name, value in fields.items()}}))
    else:
        _line(
            f"Listening: {options.rate} Hz, {options.channels} channel(s), {options.encoding}; windows of "
            f"{spec.seconds:g} s, one every {spec.hop:g} s, {bound.scoring * 1000:.0f} ms to score each."
        )
        _line(f"An event is reported at most {bound.begin:.1f} s after it begins, its end {bound.end:.1f} s after it.")
        if bound.scoring > spec.hop:
            _line(
                "! Scoring is slower than the audio comes: windows will be skipped, and lines come later than that. "
                f"Try --hop {_ROOM * bound.scoring:.2g}."
            )
    for message in listen(classifier, blocks, spec, rules):
        _line(json.dumps(_as_json(message), ensure_ascii=False) if options.json else _as_text(message))
    return 0


def _line(text: str) -> None:
    print(text, flush=True)


def _as_text(message: "Message") -> str:
    event = message.event
    if event is None:
        if message.kind == "skipped":
            return f"! {message.windows} windows skipped: scoring is slower than the audio comes. A longer --hop helps."
        return f"{message.seconds:.1f} s in {message.windows} windows."
    if message.kind == "begin":
        return f"begin  {event.start:9.2f} s             {event.label}  ({message.after:.1f} s after)"
    return (
        f"end    {event.start:9.2f} - {event.end:.2f} s   {event.label} {event.probability * 100:.0f} %  "
        f"({message.after:.1f} s after)"
    )


def _as_json(message: "Message") -> dict[str, str | float | None]:
    event = message.event
    if event is None:
        return {"type": message.kind, "windows": message.windows, "seconds": round(message.seconds, 3)}
    times = {"start": round(event.start, 3)} | ({"end": round(event.end, 3)} if message.kind == "end" else {})
    fields = {"probability": round(event.probability, 6), "after": round(message.after, 3)}
    return {"type": message.kind, "label": event.label, **times, **fields}
