"""Many concurrent clients: `auricle serve` compared with a server that scores each request alone, and with --batch 1.

Clients and server share this machine. Every response is compared with the classifier's own answer; some
requests are too large, too long or no audio, and must be rejected while the others continue. Then a full queue must
respond 429, and a server that is stopped must lose nothing. The last line is the ratio of throughputs.
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
from auricle.models.device import is_bf16
from benchmarks._environment import Screen, command, corpus

MODELS = ("sound", "baseline", "hubert-base")
MAX_SECONDS, MAX_MEGABYTES = 30, 3
INVALID_SHARE = 0.06
TOLERANCE = {"bf16": 3e-2, "float32": 1e-3}
READY_SECONDS = 120
UNBATCHED = ("unbatched, in threads", "unbatched, one at a time")


@dataclass(frozen=True)
class Load:
    """What clients got: responses of each kind, the latencies of correct ones, and the server's CPU seconds."""

    seconds: float
    latencies: Sequence[float]
    counts: dict[str, int]
    notes: Sequence[str]
    cpu_seconds: float = float("nan")

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def bad(self) -> int:
        return sum(self.counts.get(kind, 0) for kind in ("wrong", "lost", "rejected wrongly"))

    def percentile(self, share: float) -> float:
        return float(np.quantile(self.latencies, share)) if self.latencies else float("nan")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="sound", help=f"{', '.join(MODELS)}, or a folder (default: sound)")
    parser.add_argument("--data", default="", help="corpus of the clips (default: esc10, or emodb for hubert-base)")
    parser.add_argument("--clients", type=int, default=64, help="concurrent clients (default: 64)")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds of load for each server (default: 60)")
    parser.add_argument("--clips", type=int, default=100, help="number of different clips (default: 100)")
    parser.add_argument("--precision", choices=("auto", "float32"), default="auto", help="of auricle (default: auto)")
    parser.add_argument("--only", action="append", help="tests: unbatched, batch1, auricle, full, stop (default: all)")
    parser.add_argument(
        "--option", action="append", default=[], help="extra option for auricle serve, such as --option=--batch=16"
    )


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Load all servers in turn; raise AuricleError for a wrong or lost response of auricle."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    screen.machine()
    data = corpus(options.data or ("emodb" if options.model == "hubert-base" else "esc10"))
    files = sorted(path for path in data.rglob("*") if path.suffix in (".wav", ".ogg"))
    files = files[:: max(1, len(files) // options.clips)][: options.clips]
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options, Path(scratch), model_of(options.model, data, files, Path(scratch)), files)
        tests = options.only or ["unbatched", "batch1", "auricle", "full", "stop"]
        loads: dict[str, Load] = {}
        if "unbatched" in tests:
            for name, flags in zip(UNBATCHED, ((), ("--one-at-a-time",)), strict=True):
                with server(bench.unbatched(flags)) as (url, process):
                    loads[name] = bench.load(url, "/v1/classify", invalid=False, server=process)
        ours = {"batch1": ("auricle --batch 1", ("--batch", "1")), "auricle": ("auricle", ())}
        for key, (name, flags) in ours.items():
            if key in tests:
                with server(bench.ours(flags)) as (url, process):
                    loads[name] = bench.load(url, bench.path, server=process)
        show(loads, screen)
        if "full" in tests:
            full(bench, screen)
        if "stop" in tests:
            stop(bench, screen)
    unbatched = [loads[name].rate for name in UNBATCHED if name in loads]
    if "auricle" in loads and unbatched:
        screen.result("serve", "ratio", loads["auricle"].rate / max(unbatched))


def model_of(name: str, data: Path, files: Sequence[Path], scratch: Path) -> Path:
    """The folder of a model: an existing one, a network of HuBERT-base's size, or one trained on the corpus now."""
    if name == "hubert-base":
        from benchmarks.classify import make_model

        return make_model(scratch / "model", data, [str(file) for file in files])
    if name not in MODELS:
        return Path(name)
    short = ["--set", "train.epochs=4"] if name == "sound" else []
    arguments = ["--recipe", name, "--out", str(scratch / "run"), "--no-audio", "--set", "data.split=holdout", *short]
    command("train", str(data), *arguments)
    return scratch / "run" / "model"


class Bench:
    """One model, the expected answer for each clip, and invalid requests."""

    def __init__(self, options: argparse.Namespace, scratch: Path, model: Path, files: Sequence[Path]) -> None:
        self.options = options
        self.scratch = scratch
        self.model = model
        classifier = load(model, options.precision)
        self.path = f"/v1/classify?top={len(classifier.labels)}"
        uses_bf16 = is_bf16(options.precision) and classifier.model.config.model_type == "hubert"
        self.tolerance = TOLERANCE["bf16" if uses_bf16 else "float32"]
        answers = list(classifier.predict(recordings([str(file) for file in files])))
        self.clips = [
            {"path": str(file), "probabilities": {choice.label: choice.probability for choice in answer.choices}}
            for file, answer in zip(files, answers, strict=True)
        ]
        self.invalid = self._invalid()

    def _invalid(self) -> list[dict[str, object]]:
        """A file that is too large, one that is too long, and one that is no audio."""
        random = np.random.default_rng(0)
        (self.scratch / "large").write_bytes(random.bytes(MAX_MEGABYTES * (1 << 20) + 1))
        soundfile.write(self.scratch / "long.flac", np.zeros((MAX_SECONDS + 1) * 16_000), 16_000)
        (self.scratch / "noise").write_bytes(random.bytes(20_000))
        kinds = (("large", 413), ("long.flac", 422), ("noise", 422))
        return [{"path": str(self.scratch / name), "status": status} for name, status in kinds]

    def unbatched(self, flags: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "benchmarks._unbatched_server", str(self.model), "PORT", *flags]

    def ours(self, extra: Sequence[str] = ()) -> list[str]:
        limits = ["--max-seconds", str(MAX_SECONDS), "--max-mb", str(MAX_MEGABYTES), "--no-page"]
        flags = ["--precision", self.options.precision, "--port", "PORT", *limits, *self.options.option, *extra]
        return [sys.executable, "-m", "auricle", "serve", str(self.model), *flags]

    def load(
        self,
        url: str,
        path: str,
        *,
        invalid: bool = True,
        seconds: float | None = None,
        server: "subprocess.Popen[bytes] | None" = None,
    ) -> Load:
        """Run the clients for so many seconds."""
        process = psutil.Process(server.pid) if server is not None else None
        before = sum(process.cpu_times()[:2]) if process else float("nan")
        load = self.end(self.start(url, path, invalid=invalid, seconds=seconds))
        return replace(load, cpu_seconds=sum(process.cpu_times()[:2]) - before if process else float("nan"))

    def start(
        self, url: str, path: str, *, invalid: bool = True, seconds: float | None = None
    ) -> "subprocess.Popen[bytes]":
        plan = {
            "url": url,
            "path": path,
            "clients": self.options.clients,
            "seconds": seconds or self.options.seconds,
            "clips": self.clips,
            "invalid": self.invalid if invalid else [],
            "invalid_share": INVALID_SHARE,
            "tolerance": self.tolerance,
            "out": str(self.scratch / "load.json"),
        }
        (self.scratch / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        return subprocess.Popen([sys.executable, "-m", "benchmarks._load_clients", str(self.scratch / "plan.json")])

    def end(self, process: "subprocess.Popen[bytes]") -> Load:
        if process.wait(timeout=600):
            raise AuricleError("The clients failed; see their output above.")
        return Load(**json.loads((self.scratch / "load.json").read_text(encoding="utf-8")))


@contextlib.contextmanager
def server(command: Sequence[str]) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Start a server on a free port, wait until it is ready, and kill it afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [str(port) if argument == "PORT" else argument for argument in command],
        stdout=subprocess.DEVNULL,
        env={**os.environ},
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
            "correct",
            "responses/s",
            "p50 s",
            "p99 s",
            "CPU s/response",
            "wrong",
            "lost",
            "rejected correctly",
            "rejected wrongly",
        )
    ]
    for name, result in loads.items():
        counts = [
            str(result.counts.get(kind, 0)) for kind in ("wrong", "lost", "rejected correctly", "rejected wrongly")
        ]
        times = [f"{result.percentile(share):.2f}" for share in (0.5, 0.99)]
        cpu = result.cpu_seconds / max(1, len(result.latencies))
        times.append(f"{cpu:.3f}")
        rows.append((name, str(len(result.latencies)), f"{result.rate:.1f}", *times, *counts))
        screen.record(
            "serve",
            server=name,
            rate=result.rate,
            p50=result.percentile(0.5),
            p99=result.percentile(0.99),
            cpu_seconds=cpu,
            **result.counts,
        )
    screen.table(rows)
    for name, result in loads.items():
        if result.bad and name.startswith("auricle"):
            raise AuricleError(f"{name}: {result.bad} responses are wrong or lost: {' | '.join(result.notes)}")


def full(bench: Bench, screen: Screen) -> None:
    """A queue for fewer requests than clients: the others get 429 at once, and the accepted ones correct answers."""
    with server(bench.ours(("--max-requests", "8"))) as (url, _):
        load = bench.load(url, bench.path, seconds=min(10.0, bench.options.seconds))
    screen.say(
        f"Queue of 8 requests, {bench.options.clients} clients: {load.counts.get('correct', 0)} correct, "
        f"{load.counts.get('full', 0)} got 429, {load.bad} wrong or lost."
    )
    screen.record("full", **load.counts)
    if load.bad or not load.counts.get("full"):
        raise AuricleError(f"Full queue: {load.counts} {' | '.join(load.notes)}")


def stop(bench: Bench, screen: Screen) -> None:
    """Stopped under load, the server answers what it accepted and ends with 0."""
    with server(bench.ours()) as (url, process):
        clients = bench.start(url, bench.path, seconds=60.0)
        time.sleep(min(5.0, bench.options.seconds))
        process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        code = process.wait(timeout=60)
        seconds = time.monotonic() - start
        load = bench.end(clients)
    screen.say(
        f"Stopped under load: {load.counts.get('correct', 0)} correct, {load.counts.get('lost', 0)} lost, "
        f"{load.counts.get('not accepted', 0)} clients were not accepted; it ended with {code} after {seconds:.1f} s."
    )
    screen.record("stop", code=code, seconds=seconds, **load.counts)
    if code or load.bad:
        raise AuricleError(f"Stopping: exit code {code}, {load.counts} {' | '.join(load.notes)}")
