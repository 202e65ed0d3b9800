"""Training in two processes of one thread each, compared with one: clips a second of the reference conformer.

`auricle train` runs on LibriSpeech's speakers with one process, then with two, in turn; an epoch's rate is the run's
own, without validation. The limit is what two processes multiply together in the time of one: two threads of one core
share its units. The last line is the ratio of the rates.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from auricle.errors import AuricleError
from benchmarks._environment import Screen, corpus, median

PROCESSES = (1, 2)
# A product as large as the network's, multiplied for some seconds.
MULTIPLY = """
import sys, time, torch
torch.set_num_threads(1)
left, right = torch.randn(512, 512), torch.randn(512, 2048)
end, done = time.perf_counter() + 3.0, 0
while time.perf_counter() < end:
    left @ right
    done += 1
print(done)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=1, help="runs of each (default: 1)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of a run, the first not counted (default: 3)")
    parser.add_argument("--size", default="reference", help="size of the conformer (default: reference)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Train in turn, multiply in turn, and print both ratios."""
    data = corpus("librispeech10")
    screen.machine()
    rates: dict[int, list[float]] = {processes: [] for processes in PROCESSES}
    products: dict[int, list[float]] = {processes: [] for processes in PROCESSES}
    for _ in range(options.rounds):
        for processes in PROCESSES:
            rates[processes].append(trained(data, processes, options))
            products[processes].append(multiplied(processes))
    rows: list[tuple[str, ...]] = [("processes of one thread", "clips/s", "products/s")]
    for processes in PROCESSES:
        rate, multiplications = median(rates[processes]), median(products[processes])
        rows.append((str(processes), f"{rate:.2f}", f"{multiplications:.0f}"))
        screen.record("ranks", processes=processes, rate=rate, products=multiplications)
    screen.table(rows)
    ratios = [median(found[2]) / median(found[1]) for found in (rates, products)]
    screen.say(f"Two processes multiply {ratios[1]:.2f} times as much as one.")
    screen.result("ranks", "ratio", ratios[0])


def trained(data: Path, processes: int, options: argparse.Namespace) -> float:
    """Clips a second of an epoch. Raises AuricleError where training fails."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = [f"model.size={options.size}", "model.ensemble_baseline=false", f"train.epochs={options.epochs}"]
        settings += ["train.precision=float32", "train.crop_seconds=1.28", "data.split=holdout"]
        command = [sys.executable, "-m", "auricle", "train", str(data), "--recipe", "speaker", "--no-audio"]
        command += ["--nproc", str(processes), "--out", f"{scratch}/run"]
        command += [word for setting in settings for word in ("--set", setting)]
        alone = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **alone})
        if done.returncode:
            raise AuricleError(f"auricle train failed: {(done.stderr or done.stdout).strip()[-2000:]}")
        lines = Path(scratch, "run", "history.jsonl").read_text(encoding="utf-8").splitlines()
        return median([json.loads(line)["clips_per_second"] for line in lines[1:]])


def multiplied(processes: int) -> float:
    """Products a second of so many processes together."""
    begun = [
        subprocess.Popen([sys.executable, "-c", MULTIPLY], stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    return sum(int(process.communicate()[0]) for process in begun) / 3.0
