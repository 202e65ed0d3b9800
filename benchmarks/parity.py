"""The same 100 real clips classified by PyTorch, by ONNX Runtime and over HTTP: the greatest difference.

For every family a model is trained briefly, exported and served, all through the command line, in float32. The last
line is the greatest difference of any probability of any family.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import checkpoints

from auricle.errors import AuricleError
from benchmarks._environment import Screen, command, corpus

CHECKPOINT = "distilhubert"
TOLERANCE = 1e-4
REQUEST_TIMEOUT_SECONDS = 120

Probabilities = Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """One family: its corpus, and the settings of a short training."""

    corpus: str
    pattern: str
    recipe: str
    settings: tuple[str, ...] = ()


CASES = {
    "baseline": Case("emodb", "*.wav", "baseline"),
    "cnn": Case("esc10", "*/*.ogg", "sound", ("train.epochs=3",)),
    "conformer": Case("fsdd", "recordings/*.wav", "speaker", ("data.label=speaker", "train.epochs=1")),
    "pretrained": Case(
        "emodb", "*.wav", "emotion-reference", ("train.epochs=1", "model.stages=[]", "model.freeze=all")
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=int, default=100, help="number of clips (default: 100)")
    parser.add_argument("--family", action="append", choices=CASES, help="only this family (default: all)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Train, export, serve and compare; raise AuricleError where a probability differs by more than 1e-4."""
    screen.machine()
    rows: list[tuple[str, ...]] = [("family", "clips", "ONNX", "HTTP, PyTorch", "HTTP, ONNX")]
    greatest = 0.0
    for family in options.family or CASES:
        case = CASES[family]
        folder = corpus(case.corpus)
        paths = sorted(folder.glob(case.pattern))
        files = [str(paths[number * len(paths) // options.clips]) for number in range(min(options.clips, len(paths)))]
        with tempfile.TemporaryDirectory() as scratch:
            trained = train(family, folder, Path(scratch), screen)
            reference = predicted(trained, files, "torch")
            others = {"onnx": predicted(trained, files, "onnx")}
            others |= {f"http {runtime}": served(trained, files, runtime) for runtime in ("torch", "onnx")}
        differences = {path: max_difference(reference, answers) for path, answers in others.items()}
        rows.append((family, str(len(files)), *(f"{value:.1e}" for value in differences.values())))
        screen.record("parity", family=family, clips=len(files), **differences)
        greatest = max(greatest, *differences.values())
    screen.table(rows)
    screen.result("parity", "difference", greatest)
    if greatest > TOLERANCE:
        raise AuricleError(f"A probability differs by {greatest:.1e}; {TOLERANCE:g} is allowed.")


def train(family: str, data: Path, scratch: Path, screen: Screen) -> Path:
    """Train a model of the family and export it: the run folder."""
    case, run_folder = CASES[family], scratch / "run"
    settings = list(case.settings)
    if family == "pretrained":
        checkpoints.make(CHECKPOINT, scratch / "checkpoint", head=False)
        settings.append(f"model.checkpoint={scratch / 'checkpoint'}")
    arguments = [word for setting in settings for word in ("--set", setting)]
    screen.say(f"Training and exporting {family} on {case.corpus} ...")
    command("train", str(data), "--recipe", case.recipe, *arguments, "--out", str(run_folder))
    command("export", str(run_folder), "--onnx")
    return run_folder


def predicted(run_folder: Path, files: Sequence[str], runtime: str) -> list[Probabilities]:
    """The probabilities of each file by `auricle predict`."""
    flags = ("--runtime", runtime, "--precision", "float32", "--format", "jsonl", "--top", "1000")
    lines = command("predict", str(run_folder), *files, *flags).splitlines()
    return [probabilities(json.loads(line)) for line in lines]


def served(run_folder: Path, files: Sequence[str], runtime: str) -> list[Probabilities]:
    """The probabilities of each file by `auricle serve`."""
    with serving(run_folder, runtime) as address:
        return [probabilities(post(address.rstrip("/"), Path(file).read_bytes())) for file in files]


@contextlib.contextmanager
def serving(run_folder: Path, runtime: str) -> Iterator[str]:
    """Serve the run on a free port of this machine; yields its URL."""
    arguments = ["serve", str(run_folder), "--runtime", runtime, "--precision", "float32", "--port", "0", "--json"]
    process = subprocess.Popen([sys.executable, "-m", "auricle", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        output = ""
        for line in process.stdout:
            output += line
            if line.startswith("}"):
                break
        if not output:
            raise AuricleError(f"The server ended with {process.wait()} before it printed its URL.")
        yield str(json.loads(output)["url"])
    finally:
        process.terminate()
        process.wait(60)


def post(address: str, content: bytes) -> Mapping[str, object]:
    """The response to one POST."""
    request = urllib.request.Request(f"{address}/v1/classify?top=1000", content, {"Content-Type": "audio/*"})
    with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_SECONDS) as response:
        answer: Mapping[str, object] = json.load(response)
    return answer


def probabilities(answer: Mapping[str, object]) -> Probabilities:
    choices = answer["choices"]
    assert isinstance(choices, list)
    return {choice["label"]: choice["probability"] for choice in choices}


def max_difference(reference: Sequence[Probabilities], answers: Sequence[Probabilities]) -> float:
    """The greatest difference of any clip's probability of any class."""
    pairs = zip(reference, answers, strict=True)
    return max(abs(first[label] - second[label]) for first, second in pairs for label in first)
