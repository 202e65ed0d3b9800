"""Fine-tuning the top of a speech encoder: auricle beside the speech-emotion tutorial, preparation and evaluations in.

A checkpoint of HuBERT-base's size with random weights; its top layers and a head are trained on EmoDB, with an
evaluation after every epoch. Both sides get the same clips, split, batches, steps and learning rate; each is a process
of its own. Compared is the time from the recordings to the trained model; imports, and saving at the end, stand apart.
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
from auricle.models.precision import native_bf16
from benchmarks._arithmetic import forward_work, matrix_peak
from benchmarks._figures import Screen, corpus, spread
from benchmarks._finetuning import Done, Task
from benchmarks._watching import Watched, watch

CHECKPOINT = "hubert-base"
TOP = 2
SAMPLING_SECONDS = 1.0  # a look at the memory takes time from the side that is measured
BATCH, ACCUMULATION = 8, 4
# The tutorial augments nothing, crops nothing and trains all its epochs.
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
    parser.add_argument("--clips", type=int, default=120, help="so many clips of EmoDB (default: 120, some 7 minutes)")
    parser.add_argument("--full", action="store_true", help="all 535 clips")
    parser.add_argument("--epochs", type=int, default=10, help="of each side (default: 10)")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint folder (default: random weights, made anew)")
    parser.add_argument("--reference-bf16", action="store_true", help="let the tutorial's Trainer run in bf16 too")
    parser.add_argument(
        "--to-waveform",
        action="store_true",
        help="let the tutorial's gradients run down to the waveform, as they do where weights alone are frozen",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one recipe value")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Fine-tune on both sides, print their stages and what share of the machine they use, and end with the ratio."""
    recordings = corpus("emodb")
    transformers_logging.disable_progress_bar()
    screen.machine()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        data = recordings if options.full else subset(recordings, options.clips, scratch / "emodb")
        checkpoint = options.checkpoint or checkpoints.make(CHECKPOINT, scratch / CHECKPOINT, head=False)
        settings = (f"model.checkpoint={checkpoint}", *SETTINGS, f"train.epochs={options.epochs}", *options.set)
        ways = (options.reference_bf16, options.to_waveform)
        task = Task(str(data), str(checkpoint), str(scratch), TOP, settings, {}, *ways)
        ours, our_watch = side("ours", task, scratch)
        shared = {**asdict(task), "parts": ours.parts}
        reference, reference_watch = side("reference", Task(**shared), scratch)
        config = checkpoints.config_of(CHECKPOINT)
        if options.checkpoint:
            config = type(config).from_pretrained(options.checkpoint)
    if ours.steps != reference.steps:
        raise AuricleError(f"We made {ours.steps} optimiser steps and the tutorial {reference.steps}: no comparison.")
    counts = {name: len(part["paths"]) for name, part in ours.parts.items()}
    screen.say(
        f"{counts['train']} clips to train on and {counts['valid']} to evaluate, {options.epochs} epochs, batches of "
        f"{BATCH} x {ACCUMULATION}: {ours.steps} optimiser steps on either side. The top {TOP} layers are trained."
    )
    screen.table(stage_rows(reference, ours))
    for name, done, watched in (("tutorial", reference, reference_watch), ("auricle", ours, our_watch)):
        screen.say(
            f"{name}: {done.precision}, accuracy on the validation clips {done.accuracy:.3f}, peak memory "
            f"{watched.peak.total:.2f} GB ({watched.peak.anonymous:.2f} GB of it no file's)."
        )
        screen.record("finetune", side=name, **{**asdict(done), "parts": counts}, memory=asdict(watched.peak))
    tell_arithmetic(config, reference, ours, options.epochs, screen)
    screen.verdict("finetune", "ratio", reference.compared / ours.compared)


def subset(recordings: Path, clips: int, folder: Path) -> Path:
    """Copy so many clips, spread evenly over the sorted names and so over speakers and emotions, into a folder."""
    folder.mkdir()
    for source in spread(recordings, clips):
        shutil.copyfile(source, folder / source.name)
    return folder


def side(name: str, task: Task, scratch: Path) -> tuple[Done, Watched]:
    """Run one side in a fresh process. Raises AuricleError with its last words if it fails."""
    own = scratch / name
    own.mkdir()
    written = own / "task.json"
    written.write_text(json.dumps({**asdict(task), "scratch": str(own)}), encoding="utf-8")
    watched = watch([sys.executable, "-m", "benchmarks._finetuning", name, str(written)], SAMPLING_SECONDS)
    if watched.code:
        raise AuricleError(f"The side '{name}' failed: {watched.errors.strip()[-2000:]}")
    return Done(**json.loads(watched.out.splitlines()[-1])), watched


def stage_rows(reference: Done, ours: Done) -> list[tuple[str, ...]]:
    """The seconds of each stage, side by side."""
    stages = list(dict.fromkeys([*ours.seconds, *reference.seconds]))
    rows: list[tuple[str, ...]] = [("stage", "tutorial, s", "auricle, s")]
    for stage in stages:
        cells = (done.seconds.get(stage) for done in (reference, ours))
        rows.append((stage, *("" if value is None else f"{value:.1f}" for value in cells)))
    return [*rows, ("all but saving", f"{reference.compared:.1f}", f"{ours.compared:.1f}")]


def tell_arithmetic(config: PreTrainedConfig, reference: Done, ours: Done, epochs: int, screen: Screen) -> None:
    """Print this machine's matrix-product peak and the share of it that each side reaches from opening on."""
    peaks = {"float32": matrix_peak(torch.float32)}
    if native_bf16() or "bf16" in (reference.precision, ours.precision):
        peaks["bf16"] = matrix_peak(torch.bfloat16)
    screen.say(
        "Products of large matrices reach "
        + ", ".join(f"{peak / 1e9:.0f} GFLOP/s in {name}" for name, peak in peaks.items())
        + f" on {torch.get_num_threads()} threads."
    )
    needed = operations(config, ours.parts["train"]["samples"], ours.parts["valid"]["samples"], epochs)
    for name, done, count in zip(("tutorial", "auricle"), (reference, ours), needed, strict=True):
        seconds = done.compared - done.seconds["prepare"]
        rate = count / seconds
        screen.say(
            f"{name}: {count / 1e12:.2f} TFLOP of real frames in {seconds:.1f} s, {rate / 1e9:.0f} GFLOP/s: "
            f"{100 * rate / peaks[done.precision]:.0f} % of the peak in {done.precision}."
        )
        screen.record(
            "arithmetic", side=name, operations=count, rate=rate, peaks=peaks, share=rate / peaks[done.precision]
        )


def operations(
    config: PreTrainedConfig, learned: Sequence[int], chosen: Sequence[int], epochs: int
) -> tuple[float, float]:
    """Operations of the tutorial's way and of ours, for clips of so many samples.

    Both: the trained top forward, and twice that again backward, for each training clip and epoch; forward alone for
    each evaluated one. What lies below the top runs in every epoch there, and once here.
    """
    learn = [forward_work(config, samples, TOP) for samples in learned]
    choose = [forward_work(config, samples, TOP) for samples in chosen]
    top = epochs * (3 * sum(work.top for work in learn) + sum(work.top for work in choose))
    below = sum(work.below for work in (*learn, *choose))
    return epochs * below + top, below + top
