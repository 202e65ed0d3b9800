"""A Ray cluster of two machines on this one: the same bytes as local processes, with a machine lost in the middle.

Generated clips of half a second are inspected, prepared (by training the baseline) and predicted, first by local
processes, then on the cluster, where a third machine joins and is killed while the work runs. Then `predict` is killed
at random times and resumed. What each clip costs is printed, for the arithmetic of docs/scale.md. The last line is how
many of the outputs are the local ones.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from auricle.errors import AuricleError
from benchmarks._environment import Screen
from benchmarks.growth import write_corpus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=int, default=20_000, help="clips of half a second (default: 20000)")
    parser.add_argument("--kills", type=int, default=10, help="kills of predict, each resumed (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kills' times (default: 0)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Compare every output, and print times and sizes. Raises AuricleError where one differs."""
    from ray.cluster_utils import Cluster

    screen.machine()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        write_corpus(scratch / "data", options.clips)
        size = sum(path.stat().st_size for path in (scratch / "data").rglob("*.wav")) / options.clips
        machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        machines.add_node(num_cpus=1)
        try:
            equal = [
                compare(command, machines, scratch, options, screen) for command in ("inspect", "train", "predict")
            ]
            equal.append(killed(machines, scratch, options, screen))
        finally:
            machines.shutdown()
        stored = sum(path.stat().st_size for path in (scratch / "cache-local").rglob("shard-*.arrow")) / options.clips
        screen.say(f"A clip of {size / 1e3:.1f} kB takes {stored / 1e3:.1f} kB in the store.")
        screen.record("cluster", clips=options.clips, bytes=size, stored=stored)
    screen.result("cluster", "equal", float(sum(equal)))
    if not all(equal):
        raise AuricleError("An output of the cluster is not the local one.")


def arguments(command: str, scratch: Path, name: str) -> list[str]:
    data, model = str(scratch / "data"), str(scratch / "run-local")
    return {
        "inspect": ["inspect", data, "--json"],
        "train": ["train", data, "--recipe", "baseline", "--no-audio", "--out", str(scratch / f"run-{name}")],
        "predict": ["predict", model, data, "--out", str(scratch / f"{name}.csv")],
    }[command]


def auricle(command: list[str], scratch: Path, name: str) -> "subprocess.Popen[str]":
    """Start a command with a cache of its own."""
    around = {**os.environ, "AURICLE_CACHE": str(scratch / f"cache-{name}")}
    begun = [sys.executable, "-m", "auricle", *command]
    return subprocess.Popen(begun, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=around)


def finished(process: "subprocess.Popen[str]") -> str:
    out, errors = process.communicate()
    if process.returncode:
        raise AuricleError(f"auricle failed: {(errors or out).strip()[-2000:]}")
    return out


def compare(command: str, machines: object, scratch: Path, options: argparse.Namespace, screen: Screen) -> bool:
    """Run a command here and on the cluster, with a machine that is killed halfway; whether the outputs are equal."""
    start = time.perf_counter()
    outputs = [finished(auricle(arguments(command, scratch, "local"), scratch, "local"))]
    local = time.perf_counter() - start
    lost = machines.add_node(num_cpus=2)  # type: ignore[attr-defined]
    timer = threading.Timer(
        5.0 + local / 2,
        lambda: machines.remove_node(lost, allow_graceful=False),  # type: ignore[attr-defined]
    )
    timer.start()
    start = time.perf_counter()
    outputs.append(finished(auricle([*arguments(command, scratch, "ray"), *at(machines)], scratch, "ray")))
    seconds = time.perf_counter() - start
    timer.join()
    same = digest(command, scratch, "local", outputs[0]) == digest(command, scratch, "ray", outputs[1])
    screen.say(
        f"{command}: {local:.1f} s here, {seconds:.1f} s on the cluster, "
        f"{1000 * local / options.clips:.2f} ms a clip here; {'the same bytes' if same else 'DIFFERENT'}."
    )
    screen.record("cluster", command=command, local=local, ray=seconds, same=same)
    return same


def digest(command: str, scratch: Path, name: str, output: str) -> str:
    """A hash of what a command wrote: its answer, the store's shards and vectors with the scores, or the rows."""
    summed = hashlib.sha256()
    if command == "inspect":
        summed.update(output.encode())
    elif command == "predict":
        summed.update((scratch / f"{name}.csv").read_bytes())
    else:
        cache = scratch / f"cache-{name}"
        for path in (*sorted(one for one in cache.rglob("*") if one.is_file()), scratch / f"run-{name}/scores.parquet"):
            summed.update(path.name.encode() + path.read_bytes())
    return summed.hexdigest()


def killed(machines: object, scratch: Path, options: argparse.Namespace, screen: Screen) -> bool:
    """Kill predict on the cluster at random times and resume it; whether every recording has its row, once."""
    chance, resumes = random.Random(options.seed), 0
    command = [*arguments("predict", scratch, "killed"), *at(machines)]
    journal, out = scratch / ".killed.csv.journal", scratch / "killed.csv"
    process = auricle(command, scratch, "killed")
    for _ in range(options.kills):
        before = json.loads(journal.read_text(encoding="utf-8"))["state"]["done"] if journal.is_file() else 0
        # Some are killed while they start, others after rows were written.
        until = time.monotonic() + chance.uniform(4.0, 14.0)
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        after = json.loads(journal.read_text(encoding="utf-8"))["state"]["done"] if journal.is_file() else 0
        screen.say(f"Killed: {after - before} recordings were done since the last kill, {after} in all.")
        resumes += 1
        process = auricle([*command, "--resume"] if journal.is_file() else command, scratch, "killed")
    finished(process)
    same = out.read_bytes() == (scratch / "local.csv").read_bytes()
    screen.say(f"Killed {resumes} times and resumed: {'the same bytes' if same else 'DIFFERENT'}.")
    screen.record("cluster", command="kills", kills=resumes, same=same)
    return same


def at(machines: object) -> list[str]:
    return ["--engine", "ray", "--ray-address", str(machines.address)]  # type: ignore[attr-defined]
