"""Fine-tuning the top of a speech encoder: auricle compared with the speech-emotion tutorial.

A checkpoint of HuBERT-base's size with random weights; its top layers and a head are trained on EmoDB, with an
evaluation after every epoch. Both sides get the same clips, split, batches, steps and learning rate, each in its own
process. The ratio compares the time from the recordings to the trained model, with preparation and evaluations,
without imports and the final save.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tests import checkpoints
from transformers import PreTrainedConfig
from transformers.utils import logging as transformers_logging

from auricle.errors import AuricleError
from auricle.models.device import native_bf16
from benchmarks._environment import Screen, corpus, evenly_spaced
from benchmarks._finetune_side import SideResult, SideTask
from benchmarks._flops import forward_flops, matrix_peak
from benchmarks._memory_monitor import MonitoredRun, run_monitored

CHECKPOINT = "hubert-base"
TOP = 2
SAMPLING_SECONDS = 1.0  # sampling memory slows the measured side
BATCH, ACCUMULATION = 8, 4
# The tutorial neither augments nor crops, and trains all its epochs.
SETTINGS = (
    f"model.freeze={{top: {TOP}}}",
    "model.stages=[]",
    f"train.batch_size={BATCH}",
    f"train.gradient_accumulation_steps={ACCUMULATION}",
    "train.crop_seconds=null",
    "train.class_balance=none",
    "train.early_stopping_patience=null",
    "train.report_to=none",
    "augment.shift_fraction=0",
    "augment.gain_db=0",
    "augment.noise_fraction=0",
    "augment.frequency_masks=0",
    "augment.time_masks=0",
    "augment.mixup_alpha=0",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=int, default=120, help="number of EmoDB clips (default: 120, about 7 minutes)")
    parser.add_argument("--full", action="store_true", help="all 535 clips")
    parser.add_argument("--epochs", type=int, default=10, help="of each side (default: 10)")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint folder (default: random weights, generated)")
    parser.add_argument("--reference-bf16", action="store_true", help="run the tutorial's Trainer in bf16 too")
    parser.add_argument(
        "--to-waveform",
        action="store_true",
        help="let the tutorial backpropagate to the waveform, as transformers does where only weights are frozen",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one recipe value")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Fine-tune on both sides, print their stages and their share of the peak FLOP/s, and end with the ratio."""
    recordings = corpus("emodb")
    transformers_logging.disable_progress_bar()
    screen.machine()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        data = recordings if options.full else subset(recordings, options.clips, scratch / "emodb")
        checkpoint = options.checkpoint or checkpoints.make(CHECKPOINT, scratch / CHECKPOINT, head=False)
        settings = (f"model.checkpoint={checkpoint}", *SETTINGS, f"train.epochs={options.epochs}", *options.set)
        variants = (options.reference_bf16, options.to_waveform)
        task = SideTask(str(data), str(checkpoint), str(scratch), TOP, settings, {}, *variants)
        ours, our_process = side("ours", task, scratch)
        shared = {**asdict(task), "parts": ours.parts}
        reference, reference_process = side("reference", SideTask(**shared), scratch)
        config = checkpoints.config_of(CHECKPOINT)
        if options.checkpoint:
            config = type(config).from_pretrained(options.checkpoint)
    if ours.steps != reference.steps:
        raise AuricleError(
            f"auricle made {ours.steps} optimiser steps and the tutorial {reference.steps}: they cannot be compared."
        )
    counts = {name: len(part["paths"]) for name, part in ours.parts.items()}
    screen.say(
        f"{counts['train']} clips to train on and {counts['valid']} to evaluate, {options.epochs} epochs, batches of "
        f"{BATCH} x {ACCUMULATION}: {ours.steps} optimiser steps on either side. The top {TOP} layers are trained."
    )
    screen.table(stage_rows(reference, ours))
    for name, result, process in (("tutorial", reference, reference_process), ("auricle", ours, our_process)):
        screen.say(
            f"{name}: {result.precision}, accuracy on the validation clips {result.accuracy:.3f}, peak memory "
            f"{process.peak.total:.2f} GB ({process.peak.anonymous:.2f} GB of it anonymous)."
        )
        screen.record("finetune", side=name, **{**asdict(result), "parts": counts}, memory=asdict(process.peak))
    report_flops(config, reference, ours, options.epochs, screen)
    screen.result("finetune", "ratio", reference.compared_seconds / ours.compared_seconds)


def subset(recordings: Path, clips: int, folder: Path) -> Path:
    """Copy so many clips, evenly spaced over the sorted names and so over speakers and emotions, into a folder."""
    folder.mkdir()
    for source in evenly_spaced(recordings, clips):
        shutil.copyfile(source, folder / source.name)
    return folder


def side(name: str, task: SideTask, scratch: Path) -> tuple[SideResult, MonitoredRun]:
    """Run one side in a new process. Raises AuricleError with the end of its output if it fails."""
    own = scratch / name
    own.mkdir()
    task_file = own / "task.json"
    task_file.write_text(json.dumps({**asdict(task), "scratch": str(own)}), encoding="utf-8")
    monitored = run_monitored(
        [sys.executable, "-m", "benchmarks._finetune_side", name, str(task_file)], SAMPLING_SECONDS
    )
    if monitored.code:
        raise AuricleError(f"The side '{name}' failed: {monitored.errors.strip()[-2000:]}")
    return SideResult(**json.loads(monitored.out.splitlines()[-1])), monitored


def stage_rows(reference: SideResult, ours: SideResult) -> list[tuple[str, ...]]:
    """The seconds of each stage, side by side."""
    stages = list(dict.fromkeys([*ours.seconds, *reference.seconds]))
    rows: list[tuple[str, ...]] = [("stage", "tutorial, s", "auricle, s")]
    for stage in stages:
        cells = (done.seconds.get(stage) for done in (reference, ours))
        rows.append((stage, *("" if value is None else f"{value:.1f}" for value in cells)))
    return [*rows, ("total without save", f"{reference.compared_seconds:.1f}", f"{ours.compared_seconds:.1f}")]


def report_flops(
    config: PreTrainedConfig, reference: SideResult, ours: SideResult, epochs: int, screen: Screen
) -> None:
    """Print the peak FLOP/s of matrix products, and the share that each side reaches after preparation."""
    peaks = {"float32": matrix_peak(torch.float32)}
    if native_bf16() or "bf16" in (reference.precision, ours.precision):
        peaks["bf16"] = matrix_peak(torch.bfloat16)
    screen.say(
        "Matrix products reach "
        + ", ".join(f"{peak / 1e9:.0f} GFLOP/s in {name}" for name, peak in peaks.items())
        + f" on {torch.get_num_threads()} threads."
    )
    needed = operations(config, ours.parts["train"]["samples"], ours.parts["valid"]["samples"], epochs)
    for name, done, count in zip(("tutorial", "auricle"), (reference, ours), needed, strict=True):
        seconds = done.compared_seconds - done.seconds["prepare"]
        rate = count / seconds
        screen.say(
            f"{name}: {count / 1e12:.2f} TFLOP without padding in {seconds:.1f} s, {rate / 1e9:.0f} GFLOP/s: "
            f"{100 * rate / peaks[done.precision]:.0f} % of the peak in {done.precision}."
        )
        screen.record("flops", side=name, operations=count, rate=rate, peaks=peaks, share=rate / peaks[done.precision])


def operations(
    config: PreTrainedConfig, train_samples: Sequence[int], valid_samples: Sequence[int], epochs: int
) -> tuple[float, float]:
    """The operations of the tutorial and of auricle, for clips of so many samples.

    Both: the trained top layers forward, and twice that backward, for each training clip and epoch; forward only for
    each validation clip. The frozen layers run in every epoch of the tutorial, and once in auricle.
    """
    train = [forward_flops(config, samples, TOP) for samples in train_samples]
    valid = [forward_flops(config, samples, TOP) for samples in valid_samples]
    top = epochs * (3 * sum(clip.top for clip in train) + sum(clip.top for clip in valid))
    below = sum(clip.below for clip in (*train, *valid))
    return epochs * below + top, below + top
