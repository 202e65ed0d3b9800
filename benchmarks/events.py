"""An hour of everyday sounds at known times: which are found, what it costs in memory, and a job that is killed.

The clips of one fold of ESC-10 stand at random places in quiet noise; the model has learnt from the other folds. Truth
is the stretch of a clip that is louder than -60 dBFS. `auricle predict --events` runs in a fresh process: on the hour;
on it and on its repetition, with windows that do not overlap, to see whether memory grows; and once more, killed
half-way and resumed. The last line is the F1 of events in the hour.
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
from benchmarks._figures import Screen, corpus
from benchmarks._watching import Watched, watch

SAMPLE_RATE = 44_100
# What is quieter in a clip is taken for silence that was added to make it five seconds long.
HEARD_DBFS, FRAME_SECONDS = -60.0, 0.1
LEAST_GAP, MEAN_GAP = 2.0, 6.0
# An event is found where it shares so much of the time that it and the truth take together.
OVERLAP = 0.5
SEGMENT_SECONDS = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fold", default="5", choices=tuple("12345"), help="whose clips are heard (default: 5)")
    parser.add_argument("--run", type=Path, help="a model that has not seen the fold (default: one is trained)")
    parser.add_argument("--recipe", default="sound", help="of the model that is trained (default: sound)")
    parser.add_argument("--epochs", type=int, default=30, help="of its training (default: 30)")
    parser.add_argument("--noise", type=float, default=-65.0, help="RMS level between clips, dBFS (default: -65)")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long the recording is (default: 60)")
    parser.add_argument("--times", type=int, default=8, help="how often it is repeated for memory (default: 8)")
    parser.add_argument("--hop", type=float, default=5.0, help="of the runs that measure growth, seconds (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other places")
    parser.add_argument("--predict", default="", metavar="OPTIONS", help="more options for auricle predict")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Train, place the clips, find them, and measure."""
    data = corpus("esc10")
    screen.machine()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        model = options.run or train(data, options.fold, options.recipe, options.epochs, scratch)
        hour = scratch / "hour.wav"
        truth = write_hour(data, options, hour)
        screen.say(
            f"{options.minutes:g} minutes with {len(truth)} clips of fold {options.fold}, in noise of "
            f"{options.noise:g} dBFS."
        )
        more = options.predict.split()
        once = predicted(model, hour, scratch / "once.csv", more)
        found = read(scratch / "once.csv")
        f1, precision, recall = event_f1(truth, found)
        segments = segment_f1(truth, found, options.minutes * 60)
        screen.say(
            f"Events: {len(found)} found, precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}; "
            f"F1 of {SEGMENT_SECONDS:g}-second segments {segments:.3f}."
        )
        screen.record("events", f1=f1, precision=precision, recall=recall, segment_f1=segments, found=len(found))
        rows: list[tuple[str, ...]] = [("recording", "took", "peak GB"), _row("once", once)]
        if options.times > 1:
            repeated = scratch / "repeated.wav"
            repeat(hour, options.times, repeated)
            apart = [*more, "--hop", f"{options.hop:g}"]
            single = predicted(model, hour, scratch / "single.csv", apart)
            often = predicted(model, repeated, scratch / "often.csv", apart)
            rows += [_row(f"once, --hop {options.hop:g}", single), _row(f"{options.times} times, likewise", often)]
            growth = often.peak.total / single.peak.total - 1
            screen.record("memory", once=single.peak.total, often=often.peak.total, times=options.times, growth=growth)
        screen.table(rows)
        same = killed_and_resumed(model, hour, scratch / "killed.csv", more, (scratch / "once.csv").stat().st_size)
        same = same and (scratch / "killed.csv").read_bytes() == (scratch / "once.csv").read_bytes()
        screen.say(f"Killed half-way and resumed: {'the same bytes' if same else 'ANOTHER FILE'}.")
        screen.record("resumed", same=same)
    screen.verdict("events", "f1", f1)


def _row(name: str, watched: Watched) -> tuple[str, ...]:
    return name, f"{watched.seconds:.0f} s", f"{watched.peak.total:.3f}"


def fold_of(path: Path) -> str:
    """ESC names its files {fold}-{source}-{take}."""
    return path.name.partition("-")[0]


def train(data: Path, fold: str, recipe: str, epochs: int, scratch: Path) -> Path:
    """Train on all folds but one; returns the run folder."""
    seen = scratch / "seen"
    for path in sorted(data.glob("*/*.ogg")):
        if fold_of(path) != fold:
            link = seen / path.parent.name.partition(" - ")[2] / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    command = [sys.executable, "-m", "auricle.cli", "train", str(seen), "--recipe", recipe, "--reader", "folder"]
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
        raise AuricleError(f"The training failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return scratch / "run"


def write_hour(data: Path, options: argparse.Namespace, path: Path) -> list[Event]:
    """Place a fold's clips, each about as often, in noise; write 16-bit wav and return what is where."""
    draw = random.Random(options.seed)
    noise = np.random.default_rng(options.seed)
    clips = [clip for clip in sorted(data.glob("*/*.ogg")) if fold_of(clip) == options.fold]
    length = round(options.minutes * 60 * SAMPLE_RATE)
    level = 10 ** (options.noise / 20)
    truth: list[Event] = []
    waiting: list[Path] = []
    at = 0
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16") as file:
        while at < length:
            gap = round((LEAST_GAP + draw.expovariate(1 / MEAN_GAP)) * SAMPLE_RATE)
            waiting = waiting or draw.sample(clips, len(clips))
            clip = waiting.pop()
            samples, rate = soundfile.read(clip, always_2d=True)
            if rate != SAMPLE_RATE:
                raise AuricleError(f"'{clip}' has {rate} Hz, and {SAMPLE_RATE} Hz are expected of ESC-10.")
            piece = np.concatenate([np.zeros(gap), samples.mean(axis=1)])[: length - at]
            first, last = heard(piece[gap:])
            if last > first:
                label = clip.parent.name.partition(" - ")[2]
                truth.append(Event(label, (at + gap) / SAMPLE_RATE + first, (at + gap) / SAMPLE_RATE + last, 1.0))
            piece = piece + noise.normal(0.0, level, len(piece))
            file.write(piece.clip(-1, 1))
            at += len(piece)
    return truth


def heard(samples: np.ndarray) -> tuple[float, float]:
    """From the first to the last tenth of a second (in seconds) that is loud enough; 0, 0 where none is."""
    size = round(FRAME_SECONDS * SAMPLE_RATE)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    loud = np.flatnonzero(np.square(frames).mean(axis=1) >= 10 ** (HEARD_DBFS / 10))
    return (float(loud[0] * FRAME_SECONDS), float((loud[-1] + 1) * FRAME_SECONDS)) if len(loud) else (0.0, 0.0)


def repeat(source: Path, times: int, path: Path) -> None:
    """Write a recording several times, one after the other."""
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16") as file:
        for _ in range(times):
            for block in soundfile.blocks(source, 1 << 20, dtype="int16"):
                file.write(block)


def command_of(model: Path, recording: Path, out: Path, more: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", "auricle.cli", "predict", str(model), str(recording), "--events"]
    return [*command, "--out", str(out), *more]


def predicted(model: Path, recording: Path, out: Path, more: Sequence[str]) -> Watched:
    watched = watch(command_of(model, recording, out, more), every=0.1)
    if watched.code:
        raise AuricleError(f"The prediction failed: {(watched.errors or watched.out).strip()[-2000:]}")
    return watched


def read(path: Path) -> list[Event]:
    rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
    return [Event(row["label"], float(row["start"]), float(row["end"]), float(row["probability"])) for row in rows]


def overlap(one: Event, other: Event) -> float:
    """The share that two stretches have in common of what they take together."""
    shared = min(one.end, other.end) - max(one.start, other.start)
    return max(shared, 0.0) / (max(one.end, other.end) - min(one.start, other.start))


def event_f1(truth: Sequence[Event], found: Sequence[Event]) -> tuple[float, float, float]:
    """F1, precision and recall of events; each is matched once, with the first that is right."""
    left = list(truth)
    hits = 0
    for event in found:
        match = next((t for t in left if t.label == event.label and overlap(t, event) >= OVERLAP), None)
        if match is not None:
            left.remove(match)
            hits += 1
    precision, recall = hits / max(len(found), 1), hits / max(len(truth), 1)
    return 2 * hits / max(len(found) + len(truth), 1), precision, recall


def segment_f1(truth: Sequence[Event], found: Sequence[Event], seconds: float) -> float:
    """F1 over seconds and classes: a class is active in each second that one of its events touches."""
    active = []
    for events in (truth, found):
        touched = set()
        for event in events:
            last = min(event.end, seconds) - 1e-6
            touched |= {
                (event.label, second)
                for second in range(int(event.start / SEGMENT_SECONDS), int(last / SEGMENT_SECONDS) + 1)
            }
        active.append(touched)
    return 2 * len(active[0] & active[1]) / max(len(active[0]) + len(active[1]), 1)


def killed_and_resumed(model: Path, recording: Path, out: Path, more: Sequence[str], size: int) -> bool:
    """Kill the job when its journal vouches for half of the `size` bytes that it will write, and resume it."""
    command = command_of(model, recording, out, more)
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
