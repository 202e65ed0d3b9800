"""The same 100 real clips answered by PyTorch, by ONNX Runtime and over HTTP from either: the greatest difference.

For every family a model is trained for a moment, exported and served, all through the command line, in float32. Each
way is asked for each clip's probabilities of all classes; the last line is the greatest difference of any family.
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
from benchmarks._figures import Screen, command, corpus

CHECKPOINT = "distilhubert"
TOLERANCE = 1e-4
# Files have odd lengths and rates; a clip of a corpus answers within seconds, whatever the family.
SECONDS_ALLOWED = 120

Chances = Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """One family: the corpus that it learns and answers for, and the settings that keep its training short."""

    corpus: str
    pattern: str
    recipe: str
    settings: tuple[str, ...] = ()


CASES = {
    "baseline": Case("emodb", "*.wav", "baseline"),
    "cnn": Case("esc10", "*/*.ogg", "sound", ("train.epochs=3",)),
    "conformer": Case("fsdd", "recordings/*.wav", "speaker", ("data.label=speaker", "train.epochs=1")),
    "pretrained": Case("emodb", "*.wav", "emotion", ("train.epochs=1", "model.stages=[]", "model.freeze=all")),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=int, default=100, help="so many clips (default: 100)")
    parser.add_argument("--family", action="append", choices=CASES, help="only this one (default: all)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Train, export, serve and compare; raise AuricleError where an answer differs by more than 1e-4."""
    screen.machine()
    rows: list[tuple[str, ...]] = [("family", "clips", "ONNX", "HTTP, PyTorch", "HTTP, ONNX")]
    greatest = 0.0
    for family in options.family or CASES:
        case = CASES[family]
        folder = corpus(case.corpus)
        paths = sorted(folder.glob(case.pattern))
        files = [str(paths[place * len(paths) // options.clips]) for place in range(min(options.clips, len(paths)))]
        with tempfile.TemporaryDirectory() as scratch:
            trained = train(family, folder, Path(scratch), screen)
            judge = predicted(trained, files, "torch")
            others = {"onnx": predicted(trained, files, "onnx")}
            others |= {f"http {runtime}": served(trained, files, runtime) for runtime in ("torch", "onnx")}
        found = {way: difference(judge, answers) for way, answers in others.items()}
        rows.append((family, str(len(files)), *(f"{value:.1e}" for value in found.values())))
        screen.record("agreement", family=family, clips=len(files), **found)
        greatest = max(greatest, *found.values())
    screen.table(rows)
    screen.verdict("agreement", "difference", greatest)
    if greatest > TOLERANCE:
        raise AuricleError(f"An answer differs by {greatest:.1e}, where {TOLERANCE:g} is allowed.")


def train(family: str, data: Path, scratch: Path, screen: Screen) -> Path:
    """Train a model of the family and export it: the run folder."""
    case, run_folder = CASES[family], scratch / "run"
    settings = list(case.settings)
    if family == "pretrained":
        checkpoints.make(CHECKPOINT, scratch / "checkpoint", head=False)
        settings.append(f"model.checkpoint={scratch / 'checkpoint'}")
    words = [word for setting in settings for word in ("--set", setting)]
    screen.say(f"Training and exporting {family} on {case.corpus} ...")
    command("train", str(data), "--recipe", case.recipe, *words, "--out", str(run_folder))
    command("export", str(run_folder), "--onnx")
    return run_folder


def predicted(run_folder: Path, files: Sequence[str], runtime: str) -> list[Chances]:
    """What `auricle predict` says of each file."""
    asked = ("--runtime", runtime, "--precision", "float32", "--format", "jsonl", "--top", "1000")
    lines = command("predict", str(run_folder), *files, *asked).splitlines()
    return [chances(json.loads(line)) for line in lines]


def served(run_folder: Path, files: Sequence[str], runtime: str) -> list[Chances]:
    """What `auricle serve` says of each file."""
    with serving(run_folder, runtime) as address:
        return [chances(asked(address.rstrip("/"), Path(file).read_bytes())) for file in files]


@contextlib.contextmanager
def serving(run_folder: Path, runtime: str) -> Iterator[str]:
    """A server of the run on a free port of this machine: its address."""
    words = ["serve", str(run_folder), "--runtime", runtime, "--precision", "float32", "--port", "0", "--json"]
    process = subprocess.Popen([sys.executable, "-m", "auricle.cli", *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("}"):
                break
        if not said:
            raise AuricleError(f"The server ended with {process.wait()} before it said where it listens.")
        yield str(json.loads(said)["url"])
    finally:
        process.terminate()
        process.wait(60)


def asked(address: str, content: bytes) -> Mapping[str, object]:
    """The answer to one POST."""
    request = urllib.request.Request(f"{address}/v1/classify?top=1000", content, {"Content-Type": "audio/*"})
    with urllib.request.urlopen(request, timeout=SECONDS_ALLOWED) as response:
        found: Mapping[str, object] = json.load(response)
    return found


def chances(answer: Mapping[str, object]) -> Chances:
    choices = answer["choices"]
    assert isinstance(choices, list)
    return {choice["label"]: choice["probability"] for choice in choices}


def difference(judge: Sequence[Chances], answers: Sequence[Chances]) -> float:
    """The greatest difference of any clip's probability of any class."""
    pairs = zip(judge, answers, strict=True)
    return max(abs(first[label] - second[label]) for first, second in pairs for label in first)
