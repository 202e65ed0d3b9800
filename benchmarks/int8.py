"""The gate of `auricle export --int8`: what it measures of two models, and which it keeps.

One is a speech encoder of HuBERT-base's size, random weights with a head that is trained on EmoDB; the other a small
network of everyday sounds, whose convolutions have few products to gain by. The last line is how many times as fast as
float32 the first one's int8 graph is.
"""

import argparse
import json
import tempfile
from pathlib import Path

from tests import checkpoints

from auricle.errors import AuricleError, RunError
from auricle.export.onnx import export
from benchmarks._figures import Screen, command, corpus

CHECKPOINT = "hubert-base"
EPOCHS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tolerance", type=float, default=0.01, help="accuracy that may be lost (default: 0.01)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Train both, put both to the gate, and print what it says."""
    screen.machine()
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        checkpoints.make(CHECKPOINT, checkpoint, head=False)
        head = ["model.freeze=all", "model.stages=[]", f"model.checkpoint={checkpoint}", f"train.epochs={EPOCHS}"]
        large = train("emodb", "emotion", head, Path(scratch) / "large", screen)
        small = train("esc10", "sound", ["data.split=holdout", "train.epochs=5"], Path(scratch) / "small", screen)
        kept = gate(large, options.tolerance, screen)
        gate(small, options.tolerance, screen)
    if kept is None:
        raise AuricleError("The large model was refused.")
    screen.verdict("int8", "ratio", kept)


def train(data: str, recipe: str, settings: list[str], out: Path, screen: Screen) -> Path:
    """Train on one corpus; the run folder."""
    screen.say(f"Training {recipe} on {data} ...")
    words = [word for setting in settings for word in ("--set", setting)]
    command("train", str(corpus(data)), "--recipe", recipe, *words, "--no-audio", "--out", str(out))
    return out


def gate(run_folder: Path, tolerance: float, screen: Screen) -> float | None:
    """Ask for int8: how many times as fast it is if it is kept, None if it is refused."""
    try:
        found = export(run_folder, int8=True, tolerance=tolerance, say=screen.say)
    except RunError as refused:
        screen.say(f"Refused. {refused}")
        screen.record("int8", run=run_folder.name, kept=False, said=str(refused))
        return None
    measured = json.loads((Path(found["out"]) / "export.json").read_text(encoding="utf-8"))["int8"]
    screen.record("int8", run=run_folder.name, kept=True, **measured)
    return float(measured["rates"][1] / measured["rates"][0])
