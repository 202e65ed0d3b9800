"""The check of `auricle export --int8`: what it measures of two models, and which it keeps.

One is a speech encoder of HuBERT-base's size, with random weights and a head trained on EmoDB; the other a small
network for everyday sounds, whose convolutions gain little from int8. The last line is the speed-up of the first model
by int8.
"""

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests import checkpoints

from auricle.errors import AuricleError, RunError
from auricle.export.onnx import export
from benchmarks._environment import Screen, command, corpus

CHECKPOINT = "hubert-base"
EPOCHS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tolerance", type=float, default=0.01, help="accuracy that int8 may lose (default: 0.01)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Train both, export both with --int8, and print the results."""
    screen.machine()
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        checkpoints.make(CHECKPOINT, checkpoint, head=False)
        head = ["model.freeze=all", "model.stages=[]", f"model.checkpoint={checkpoint}", f"train.epochs={EPOCHS}"]
        large = train("emodb", "emotion-reference", head, Path(scratch) / "large", screen)
        small = train("esc10", "sound", ["data.split=holdout", "train.epochs=5"], Path(scratch) / "small", screen)
        speedup = export_int8(large, options.tolerance, screen)
        export_int8(small, options.tolerance, screen)
    if speedup is None:
        raise AuricleError("The int8 export of the large model was refused.")
    screen.result("int8", "ratio", speedup)


def train(data: str, recipe: str, settings: list[str], out: Path, screen: Screen) -> Path:
    """Train on one corpus; the run folder."""
    screen.say(f"Training {recipe} on {data} ...")
    arguments = [word for setting in settings for word in ("--set", setting)]
    command("train", str(corpus(data)), "--recipe", recipe, *arguments, "--no-audio", "--out", str(out))
    return out


def export_int8(run_folder: Path, tolerance: float, screen: Screen) -> float | None:
    """Export as int8: the speed-up, or None if it is refused."""
    try:
        result = export(run_folder, int8=True, tolerance=tolerance, message=screen.say)
    except RunError as refused:
        screen.say(f"Refused. {refused}")
        screen.record("int8", run=run_folder.name, exported=False, reason=str(refused))
        return None
    assert result.int8 is not None, "an int8 export has an int8 result"
    screen.record("int8", run=run_folder.name, exported=True, **asdict(result.int8))
    return result.int8.speedup
