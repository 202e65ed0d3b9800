"""The command `listen-live`: raw samples on standard input, events on standard output as they happen. No logic."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auricle.cli.options import command, quiet_libraries
from auricle.cli.predict import event_options, rules_of, seconds_of
from auricle.errors import UsageError

if TYPE_CHECKING:
    from auricle.inference.live import Said

# Of a window. A finer hop gives sharper edges, and costs more: it leaves room for a window that takes twice as long.
_HOP, _ROOM = 0.125, 2.0
_EXAMPLES = """Feed it from a recorder:
  arecord -q -t raw -f S16_LE -r 16000 -c 1 | auricle listen-live RUN --rate 16000
  sox -q -d -t raw -e signed -b 16 -r 16000 -c 1 - | auricle listen-live RUN --rate 16000
  ffmpeg -v error -i rtsp://camera/audio -f s16le -ar 16000 -ac 1 - | auricle listen-live RUN --rate 16000
"""


def declare(commands: Any) -> None:
    """Add the command to the parser."""
    live = command(commands, "listen-live", _listen_live, "name sounds as they happen, from raw samples on stdin")
    live.formatter_class = argparse.RawDescriptionHelpFormatter
    live.epilog = _EXAMPLES
    live.add_argument("run", type=Path, metavar="RUN", help="a run folder, model folder or exported folder")
    live.add_argument("--rate", type=int, default=16_000, metavar="HZ", help="of what comes in (default: 16000)")
    live.add_argument("--channels", type=int, default=1, help="of what comes in, interleaved (default: 1)")
    live.add_argument("--form", choices=("s16le", "f32le"), default="s16le", help="of a sample (default: s16le)")
    live.add_argument("--window", type=seconds_of, metavar="SECONDS", help="heard at once (default: the model's own)")
    live.add_argument(
        "--hop", type=seconds_of, metavar="SECONDS", help="from one window to the next (default: 1/8 of it)"
    )
    live.add_argument(
        "--no-unknown", dest="refuse", action="store_false", help="name a class even where the model is not sure enough"
    )
    live.add_argument(
        "--precision", choices=("auto", "float32", "bf16"), default="auto", help="of large encoders (default: auto)"
    )
    live.add_argument(
        "--runtime", choices=("auto", "torch", "onnx"), default="auto", help="what runs the model (default: auto)"
    )
    event_options(live)


def _listen_live(options: argparse.Namespace) -> int:
    from auricle.audio import stream
    from auricle.inference.classifier import load
    from auricle.inference.live import latency, listen
    from auricle.inference.predictor import WindowSpec

    rules = rules_of(options)
    quiet_libraries()
    classifier = load(options.run, options.precision, refuse=options.refuse, runtime=options.runtime)
    if classifier.settings.num_features is not None:
        raise UsageError(
            "listen-live received a model of precomputed features, and sound is what comes in. Use another model."
        )
    window = options.window or classifier.window_seconds
    cut = WindowSpec(window, options.hop or window * _HOP)
    if cut.hop > cut.seconds:
        raise UsageError(f"--hop received {cut.hop:g}, and windows are {window:g} s long. Allowed: up to that.")
    blocks = stream.pcm(sys.stdin.buffer, options.rate, options.channels, options.form, classifier.settings)  # type: ignore[arg-type]  # a BufferedReader
    bound = latency(classifier, cut, rules)
    if options.hop is None and cut.hop < _ROOM * bound.scoring:
        cut = WindowSpec(window, min(window, _ROOM * bound.scoring))
        bound = latency(classifier, cut, rules)
    if options.json:
        known = {"rate": options.rate, "channels": options.channels, "window": cut.seconds, "hop": cut.hop}
        known |= {"begin_within": bound.begin, "end_within": bound.end, "scoring": bound.scoring}
        _line(json.dumps({"said": "listening", **{name: round(value, 3) for name, value in known.items()}}))
    else:
        _line(
            f"Listening: {options.rate} Hz, {options.channels} channel(s), {options.form}; windows of {cut.seconds:g} "
            f"s, one every {cut.hop:g} s, {bound.scoring * 1000:.0f} ms to score each."
        )
        _line(f"An event is named at most {bound.begin:.1f} s after it begins, its end {bound.end:.1f} s after it.")
        if bound.scoring > cut.hop:
            _line(
                "! Scoring is slower than the sound comes: windows will be skipped, and lines come later than that. "
                f"Try --hop {_ROOM * bound.scoring:.2g}."
            )
    for said in listen(classifier, blocks, cut, rules):
        _line(json.dumps(_as_json(said), ensure_ascii=False) if options.json else _told(said))
    return 0


def _line(text: str) -> None:
    print(text, flush=True)


def _told(said: "Said") -> str:
    event = said.event
    if event is None:
        if said.kind == "skipped":
            return f"! {said.windows} windows skipped: scoring is slower than the sound comes. A longer --hop helps."
        return f"{said.seconds:.1f} s heard in {said.windows} windows."
    if said.kind == "begin":
        return f"begin  {event.start:9.2f} s             {event.label}  (said {said.after:.1f} s after)"
    return (
        f"end    {event.start:9.2f} - {event.end:.2f} s   {event.label} {event.probability * 100:.0f} %  "
        f"(said {said.after:.1f} s after)"
    )


def _as_json(said: "Said") -> dict[str, Any]:
    event = said.event
    if event is None:
        return {"said": said.kind, "windows": said.windows, "seconds": round(said.seconds, 3)}
    times = {"start": round(event.start, 3)} | ({"end": round(event.end, 3)} if said.kind == "end" else {})
    known = {"probability": round(event.probability, 6), "after": round(said.after, 3)}
    return {"said": said.kind, "label": event.label, **times, **known}
