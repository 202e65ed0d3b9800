"""Event detection in an hour of everyday sounds: accuracy, memory, and resuming after a kill.

The clips of one fold of ESC-10 are placed at random times in quiet noise; the model is trained on the other folds. The
reference events are the parts of clips louder than -60 dBFS. `auricle predict --events` runs in a new process: on the
hour; on the hour and on its repetition, with windows that do not overlap, to see whether memory grows; and once more,
killed half-way and resumed. The last line is the F1 of events in the hour.
"""

import argparse
import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from auricle.errors import AuricleError
from auricle.inference.events import Event
from benchmarks._environment import Screen, corpus
from benchmarks._memory_monitor import MonitoredRun, run_monitored

SAMPLE_RATE = 44_100
# Quieter parts of a clip are padding to five seconds.
ACTIVE_DBFS, FRAME_SECONDS = -60.0, 0.1
MIN_GAP, MEAN_GAP = 2.0, 6.0
# A detection matches a reference event from this intersection over union on.
MIN_IOU = 0.5
SEGMENT_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fold", default="5", choices=tuple("12345"), help="fold whose clips are detected (default: 5)"
    )
    parser.add_argument("--run", type=Path, help="a model trained without the fold (default: train one)")
    parser.add_argument("--recipe", default="sound", help="recipe of the model that is trained (default: sound)")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of its training (default: 30)")
    parser.add_argument("--noise", type=float, default=-65.0, help="RMS level between clips, dBFS (default: -65)")
    parser.add_argument("--minutes", type=float, default=60.0, help="duration of the recording (default: 60)")
    parser.add_argument("--times", type=int, default=8, help="repetitions in the memory test (default: 8)")
    parser.add_argument("--hop", type=float, default=5.0, help="hop of the memory test, seconds (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the event times (default: 0)")
    parser.add_argument("--predict", default="", metavar="OPTIONS", help="additional options for auricle predict")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Train, place the clips, detect them, and measure."""
    data = corpus("esc10")
    screen.machine()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        model = options.run or train(data, options.fold, options.recipe, options.epochs, scratch)
        hour = scratch / "hour.wav"
        reference = write_hour(data, options, hour)
        screen.say(
            f"{options.minutes:g} minutes with {len(reference)} clips of fold {options.fold}, in noise of "
            f"{options.noise:g} dBFS."
        )
        extra = options.predict.split()
        once = predicted(model, hour, scratch / "once.csv", extra)
        detected = read(scratch / "once.csv")
        f1, precision, recall = event_f1(reference, detected)
        segments = segment_f1(reference, detected, options.minutes * 60)
        screen.say(
            f"Events: {len(detected)} detected, precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}; "
            f"F1 of {SEGMENT_SECONDS:g}-second segments {segments:.3f}."
        )
        screen.record("events", f1=f1, precision=precision, recall=recall, segment_f1=segments, detected=len(detected))
        rows: list[tuple[str, ...]] = [("recording", "took", "peak GB"), _row("once", once)]
        if options.times > 1:
            repeated = scratch / "repeated.wav"
            repeat(hour, options.times, repeated)
            separate = [*extra, "--hop", f"{options.hop:g}"]
            single = predicted(model, hour, scratch / "single.csv", separate)
            often = predicted(model, repeated, scratch / "often.csv", separate)
            rows += [_row(f"once, --hop {options.hop:g}", single), _row(f"{options.times} times, same hop", often)]
            growth = often.peak.total / single.peak.total - 1
            screen.record("memory", once=single.peak.total, often=often.peak.total, times=options.times, growth=growth)
        screen.table(rows)
        same = killed_and_resumed(model, hour, scratch / "killed.csv", extra, (scratch / "once.csv").stat().st_size)
        same = same and (scratch / "killed.csv").read_bytes() == (scratch / "once.csv").read_bytes()
        screen.say(f"Killed half-way and resumed: {'the same bytes' if same else 'DIFFERENT BYTES'}.")
        screen.record("resumed", same=same)
    screen.result("events", "f1", f1)


def _row(name: str, monitored: MonitoredRun) -> tuple[str, ...]:
    return name, f"{monitored.seconds:.0f} s", f"{monitored.peak.total:.3f}"


def fold_of(path: Path) -> str:
    """ESC names its files {fold}-{source}-{take}."""
    return path.name.partition("-")[0]


def train(data: Path, fold: str, recipe: str, epochs: int, scratch: Path) -> Path:
    """Train on all folds but one; returns the run folder."""
    others = scratch / "others"
    for path in sorted(data.glob("*/*.ogg")):
        if fold_of(path) != fold:
            link = others / path.parent.name.partition(" - ")[2] / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    command = [sys.executable, "-m", "auricle", "train", str(others), "--recipe", recipe, "--reader", "folder"]
    settings = ["data.split=holdout", "data.test_size=0.1"] + (
        [f"train.epochs={epochs}"] if recipe != "baseline" else []
    )
    command += [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run(
        [*command, "--out", str(scratch / "run"), "--no-audio"],
        capture_output=True,
        text=True,
        env={**os.environ, "AURICLE_CACHE": str(scratch / "cache")},
    )
    if done.returncode:
        raise AuricleError(f"auricle train failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return scratch / "run"


def write_hour(data: Path, options: argparse.Namespace, path: Path) -> list[Event]:
    """Place a fold's clips, each about equally often, in noise; write 16-bit wav and return the reference events."""
    rng = random.Random(options.seed)
    noise = np.random.default_rng(options.seed)
    clips = [clip for clip in sorted(data.glob("*/*.ogg")) if fold_of(clip) == options.fold]
    length = round(options.minutes * 60 * SAMPLE_RATE)
    level = 10 ** (options.noise / 20)
    reference: list[Event] = []
    queue: list[Path] = []
    position = 0
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16") as file:
        while position < length:
            gap = round((MIN_GAP + rng.expovariate(1 / MEAN_GAP)) * SAMPLE_RATE)
            queue = queue or rng.sample(clips, len(clips))
            clip = queue.pop()
            samples, rate = soundfile.read(clip, always_2d=True)
            if rate != SAMPLE_RATE:
                raise AuricleError(f"'{clip}' has {rate} Hz; ESC-10 has {SAMPLE_RATE} Hz.")
            piece = np.concatenate([np.zeros(gap), samples.mean(axis=1)])[: length - position]
            first, last = active_span(piece[gap:])
            if last > first:
                label = clip.parent.name.partition(" - ")[2]
                start = (position + gap) / SAMPLE_RATE
                reference.append(Event(label, start + first, start + last, 1.0))
            piece = piece + noise.normal(0.0, level, len(piece))
            file.write(piece.clip(-1, 1))
            position += len(piece)
    return reference


def active_span(samples: np.ndarray) -> tuple[float, float]:
    """The first and the last active tenth of a second, in seconds; 0, 0 where none is active."""
    size = round(FRAME_SECONDS * SAMPLE_RATE)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    loud = np.flatnonzero(np.square(frames).mean(axis=1) >= 10 ** (ACTIVE_DBFS / 10))
    return (float(loud[0] * FRAME_SECONDS), float((loud[-1] + 1) * FRAME_SECONDS)) if len(loud) else (0.0, 0.0)


def repeat(source: Path, times: int, path: Path) -> None:
    """Write a recording several times, one after the other."""
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16") as file:
        for _ in range(times):
            for block in soundfile.blocks(source, 1 << 20, dtype="int16"):
                file.write(block)


def command_of(model: Path, recording: Path, out: Path, extra: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", "auricle", "predict", str(model), str(recording), "--events"]
    return [*command, "--out", str(out), *extra]


def predicted(model: Path, recording: Path, out: Path, extra: Sequence[str]) -> MonitoredRun:
    monitored = run_monitored(command_of(model, recording, out, extra), every=0.1)
    if monitored.code:
        raise AuricleError(f"auricle predict failed: {(monitored.errors or monitored.out).strip()[-2000:]}")
    return monitored


def read(path: Path) -> list[Event]:
    rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
    return [Event(row["label"], float(row["start"]), float(row["end"]), float(row["probability"])) for row in rows]


def intersection_over_union(one: Event, other: Event) -> float:
    """Intersection over union of the times of two events."""
    shared = min(one.end, other.end) - max(one.start, other.start)
    return max(shared, 0.0) / (max(one.end, other.end) - min(one.start, other.start))


def event_f1(reference: Sequence[Event], detected: Sequence[Event]) -> tuple[float, float, float]:
    """F1, precision and recall of events; each reference event matches once, with the first correct detection."""
    unmatched = list(reference)
    hits = 0
    for event in detected:
        match = next(
            (t for t in unmatched if t.label == event.label and intersection_over_union(t, event) >= MIN_IOU), None
        )
        if match is not None:
            unmatched.remove(match)
            hits += 1
    precision, recall = hits / max(len(detected), 1), hits / max(len(reference), 1)
    return 2 * hits / max(len(detected) + len(reference), 1), precision, recall


def segment_f1(reference: Sequence[Event], detected: Sequence[Event], seconds: float) -> float:
    """F1 over seconds and classes: a class is active in each second that one of its events overlaps."""
    active = []
    for events in (reference, detected):
        overlapped = set()
        for event in events:
            last = min(event.end, seconds) - 1e-6
            overlapped |= {
                (event.label, second)
                for second in range(int(event.start / SEGMENT_SECONDS), int(last / SEGMENT_SECONDS) + 1)
            }
        active.append(overlapped)
    return 2 * len(active[0] & active[1]) / max(len(active[0]) + len(active[1]), 1)


def killed_and_resumed(model: Path, recording: Path, out: Path, extra: Sequence[str], size: int) -> bool:
    """Kill the job when its journal records half of the `size` bytes that it will write, and resume it."""
    command = command_of(model, recording, out, extra)
    journal = out.with_name(f".{out.name}.journal")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None:
            time.sleep(0.1)
            if journal.is_file() and json.loads(journal.read_text(encoding="utf-8"))["offset"] >= size / 2:
                child.send_signal(signal.SIGKILL)
                child.wait()
    if child.returncode != -signal.SIGKILL or out.exists():
        return False
    return subprocess.run([*command, "--resume"], capture_output=True).returncode == 0 and not journal.exists()
