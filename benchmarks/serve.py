"""Many clients at once: `auricle serve` beside a server that scores each request alone, and beside itself in ones.

Clients and server share this machine. Every answer is compared with what the classifier says of that clip; some
requests are too large, too long or no sound, and must be refused while the others go on. Then a full queue is shown to
answer 429, and a server that is told to stop to lose nothing. The last line is the ratio of throughputs.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import soundfile
from transformers.utils import logging as transformers_logging

from auricle.audio.recordings import recordings
from auricle.errors import AuricleError
from auricle.inference.classifier import load
from auricle.models.precision import is_bf16
from benchmarks._figures import Screen, command, corpus

MODELS = ("sound", "baseline", "hubert-base")
MOST_SECONDS, MOST_MEGABYTES = 30, 3
REFUSED_SHARE = 0.06
TOLERANCE = {"bf16": 3e-2, "float32": 1e-3}
READY_SECONDS = 120
ALONE = ("alone, in threads", "alone, one at a time")


@dataclass(frozen=True)
class Load:
    """What clients met: answers of each kind, and how long right ones took; and the server's seconds of processor."""

    seconds: float
    latencies: Sequence[float]
    kinds: dict[str, int]
    notes: Sequence[str]
    processor: float = float("nan")

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def bad(self) -> int:
        return sum(self.kinds.get(kind, 0) for kind in ("wrong", "lost", "refused wrongly"))

    def percentile(self, share: float) -> float:
        return float(np.quantile(self.latencies, share)) if self.latencies else float("nan")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="sound", help=f"{', '.join(MODELS)}, or a folder (default: sound)")
    parser.add_argument("--data", default="", help="clips of this corpus (default: esc10, of speech models emodb)")
    parser.add_argument("--clients", type=int, default=64, help="at once (default: 64)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of load for each server (default: 60)")
    parser.add_argument("--clips", type=int, default=100, help="so many different ones (default: 100)")
    parser.add_argument("--precision", choices=("auto", "float32"), default="auto", help="of our side (default: auto)")
    parser.add_argument("--only", action="append", help="rows: alone, ones, ours, full, stop (default: all)")
    parser.add_argument("--option", action="append", default=[], help="more for auricle serve: --option=--batch=16")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Load all servers in turn; raise AuricleError for a wrong or lost answer of ours."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    screen.machine()
    data = corpus(options.data or ("emodb" if options.model == "hubert-base" else "esc10"))
    files = sorted(path for path in data.rglob("*") if path.suffix in (".wav", ".ogg"))
    files = files[:: max(1, len(files) // options.clips)][: options.clips]
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options, Path(scratch), model_of(options.model, data, files, Path(scratch)), files)
        wanted = options.only or ["alone", "ones", "ours", "full", "stop"]
        loads: dict[str, Load] = {}
        if "alone" in wanted:
            for name, more in zip(ALONE, ((), ("--one-at-a-time",)), strict=True):
                with server(bench.alone(more)) as (url, process):
                    loads[name] = bench.load(url, "/v1/classify", refused=False, server=process)
        ours = {"ones": ("auricle, in ones", ("--batch", "1")), "ours": ("auricle", ())}
        for key, (name, more) in ours.items():
            if key in wanted:
                with server(bench.ours(more)) as (url, process):
                    loads[name] = bench.load(url, bench.path, server=process)
        show(loads, screen)
        if "full" in wanted:
            full(bench, screen)
        if "stop" in wanted:
            stop(bench, screen)
    alone = [loads[name].rate for name in ALONE if name in loads]
    if "auricle" in loads and alone:
        screen.verdict("serve", "ratio", loads["auricle"].rate / max(alone))


def model_of(name: str, data: Path, files: Sequence[Path], scratch: Path) -> Path:
    """The folder of a model: one that is there, a network of HuBERT-base's size, or one that learns the corpus now."""
    if name == "hubert-base":
        from benchmarks.classify import make_model

        return make_model(scratch / "model", data, [str(file) for file in files])
    if name not in MODELS:
        return Path(name)
    short = ["--set", "train.epochs=4"] if name == "sound" else []
    words = ["--recipe", name, "--out", str(scratch / "run"), "--no-audio", "--set", "data.split=holdout", *short]
    command("train", str(data), *words)
    return scratch / "run" / "model"


class Bench:
    """One model, the answers that are right of each clip, and what must be refused."""

    def __init__(self, options: argparse.Namespace, scratch: Path, model: Path, files: Sequence[Path]) -> None:
        self.options = options
        self.scratch = scratch
        self.model = model
        classifier = load(model, options.precision)
        self.path = f"/v1/classify?top={len(classifier.labels)}"
        is_half = is_bf16(options.precision) and classifier.model.config.model_type == "hubert"
        self.tolerance = TOLERANCE["bf16" if is_half else "float32"]
        answers = list(classifier.predict(recordings([str(file) for file in files])))
        self.clips = [
            {"path": str(file), "chances": {choice.label: choice.probability for choice in answer.choices}}
            for file, answer in zip(files, answers, strict=True)
        ]
        self.refused = self._refused()

    def _refused(self) -> list[dict[str, object]]:
        """Something too large, something too long, and no sound at all."""
        random = np.random.default_rng(0)
        (self.scratch / "large").write_bytes(random.bytes(MOST_MEGABYTES * (1 << 20) + 1))
        soundfile.write(self.scratch / "long.flac", np.zeros((MOST_SECONDS + 1) * 16_000), 16_000)
        (self.scratch / "noise").write_bytes(random.bytes(20_000))
        kinds = (("large", 413), ("long.flac", 422), ("noise", 422))
        return [{"path": str(self.scratch / name), "status": status} for name, status in kinds]

    def alone(self, more: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "benchmarks._alone", str(self.model), "PORT", *more]

    def ours(self, more: Sequence[str] = ()) -> list[str]:
        limits = ["--max-seconds", str(MOST_SECONDS), "--max-mb", str(MOST_MEGABYTES), "--no-page"]
        asked = ["--precision", self.options.precision, "--port", "PORT", *limits, *self.options.option, *more]
        return [sys.executable, "-m", "auricle.cli", "serve", str(self.model), *asked]

    def load(
        self,
        url: str,
        path: str,
        *,
        refused: bool = True,
        seconds: float | None = None,
        server: "subprocess.Popen[bytes] | None" = None,
    ) -> Load:
        """Let the clients ask for so many seconds."""
        watched = psutil.Process(server.pid) if server is not None else None
        before = sum(watched.cpu_times()[:2]) if watched else float("nan")
        met = self.end(self.start(url, path, refused=refused, seconds=seconds))
        return replace(met, processor=sum(watched.cpu_times()[:2]) - before if watched else float("nan"))

    def start(
        self, url: str, path: str, *, refused: bool = True, seconds: float | None = None
    ) -> "subprocess.Popen[bytes]":
        plan = {
            "url": url,
            "path": path,
            "clients": self.options.clients,
            "seconds": seconds or self.options.seconds,
            "clips": self.clips,
            "refused": self.refused if refused else [],
            "refused_share": REFUSED_SHARE,
            "tolerance": self.tolerance,
            "out": str(self.scratch / "load.json"),
        }
        (self.scratch / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        return subprocess.Popen([sys.executable, "-m", "benchmarks._clients", str(self.scratch / "plan.json")])

    def end(self, process: "subprocess.Popen[bytes]") -> Load:
        if process.wait(timeout=600):
            raise AuricleError("The clients failed; what they said stands above.")
        return Load(**json.loads((self.scratch / "load.json").read_text(encoding="utf-8")))


@contextlib.contextmanager
def server(command: Sequence[str]) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Start a server on a free port and wait until it is ready; it is gone afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [str(port) if word == "PORT" else word for word in command], stdout=subprocess.DEVNULL, env={**os.environ}
    )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + READY_SECONDS
        while True:
            with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(f"{url}/readyz"):
                break
            if process.poll() is not None or time.monotonic() > end:
                raise AuricleError(f"The server did not start: {' '.join(command)}")
            time.sleep(0.2)
        yield url, process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def show(loads: dict[str, Load], screen: Screen) -> None:
    rows: list[tuple[str, ...]] = [
        (
            "server",
            "right",
            "answers/s",
            "p50 s",
            "p99 s",
            "processor s/answer",
            "wrong",
            "lost",
            "refused rightly",
            "refused wrongly",
        )
    ]
    for name, met in loads.items():
        kinds = [str(met.kinds.get(kind, 0)) for kind in ("wrong", "lost", "refused rightly", "refused wrongly")]
        times = [f"{met.percentile(share):.2f}" for share in (0.5, 0.99)]
        each = met.processor / max(1, len(met.latencies))
        times.append(f"{each:.3f}")
        rows.append((name, str(len(met.latencies)), f"{met.rate:.1f}", *times, *kinds))
        screen.record(
            "serve",
            server=name,
            rate=met.rate,
            p50=met.percentile(0.5),
            p99=met.percentile(0.99),
            processor=each,
            **met.kinds,
        )
    screen.table(rows)
    for name, met in loads.items():
        if met.bad and name.startswith("auricle"):
            raise AuricleError(f"{name}: {met.bad} answers are wrong or lost: {' | '.join(met.notes)}")


def full(bench: Bench, screen: Screen) -> None:
    """Fewer places than clients: the others are told so at once, and those inside are answered rightly."""
    with server(bench.ours(("--max-requests", "8"))) as (url, _):
        load = bench.load(url, bench.path, seconds=min(10.0, bench.options.seconds))
    screen.say(
        f"Room for 8 of {bench.options.clients} clients: {load.kinds.get('right', 0)} right, "
        f"{load.kinds.get('full', 0)} got 429, {load.bad} wrong or lost."
    )
    screen.record("full", **load.kinds)
    if load.bad or not load.kinds.get("full"):
        raise AuricleError(f"A full queue: {load.kinds} {' | '.join(load.notes)}")


def stop(bench: Bench, screen: Screen) -> None:
    """Told to stop under load, the server answers what it accepted and ends with 0."""
    with server(bench.ours()) as (url, process):
        clients = bench.start(url, bench.path, seconds=60.0)
        time.sleep(min(5.0, bench.options.seconds))
        process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        code = process.wait(timeout=60)
        seconds = time.monotonic() - start
        load = bench.end(clients)
    screen.say(
        f"Told to stop under load: {load.kinds.get('right', 0)} right, {load.kinds.get('lost', 0)} lost, "
        f"{load.kinds.get('not accepted', 0)} clients found it closed; it ended with {code} after {seconds:.1f} s."
    )
    screen.record("stop", code=code, seconds=seconds, **load.kinds)
    if code or load.bad:
        raise AuricleError(f"Stopping: exit code {code}, {load.kinds} {' | '.join(load.notes)}")
