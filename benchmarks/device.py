"""Training, evaluation, resuming and parity of every family on the accelerator of this machine, or on its CPU.

On a generated corpus, without downloads: pretrained encoders have small random weights. Per case: one epoch in float32
and in bf16, evaluation, training resumed after an interruption, and logits compared with the CPU's. A case that fails
is reported, the others still run, and the exit status is 1. The last line is the CPU seconds of the cnn's epoch divided
by the accelerator's; 1 on a CPU.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import soundfile
import torch
from tests import checkpoints
from transformers.utils import logging as transformers_logging

from auricle import recipes
from auricle.errors import AuricleError
from auricle.evaluation import scoring
from auricle.models import device
from auricle.models.load import load_model
from auricle.preparation.prepare import PreparedCorpus, prepare, read
from auricle.run_folder import RunFolder
from auricle.training.cross_validation import prepare_training, train_fold
from auricle.training.fold import FoldData
from auricle.training.progress import Epoch, ProgressReporter
from auricle.training.resolve import ResolvedRecipe, resolve
from benchmarks._environment import Screen

SAMPLE_RATE = 16_000
PITCHES = {"low": 150.0, "middle": 400.0, "high": 1100.0}
EPOCHS = 2
# Relative to the largest logit. In bf16, where 8 bits of mantissa leave 0.4 %, the difference is only reported.
FLOAT32_TOLERANCE = 1e-3
# Accelerators add in any order, so a resumed training differs slightly there; on a CPU it must be exact.
RESUME_TOLERANCE = {"cpu": 0.0, "cuda": 1e-2}
FAMILIES = {"baseline": "baseline", "cnn": "sound", "conformer": "speaker", "pretrained": "emotion"}
SETTINGS = ("data.split=random", "data.validation_size=0.2", f"train.epochs={EPOCHS}", "train.report_to=none")


class Interrupted(Exception):
    """Raised in the middle of a training, as a kill would stop it."""


@dataclass(frozen=True)
class Case:
    """One family, or one kind of encoder of the family pretrained, and the settings on top of its recipe."""

    name: str
    family: str
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaseResult:
    """Measurements of one case: seconds of an epoch, relative differences, accuracy on the test clips, peak GB."""

    float32_seconds: float
    bf16_seconds: float
    accuracy: float
    float32_difference: float
    bf16_difference: float
    resume_difference: float | None
    peak_gb: float

    def failures(self, kind: str) -> list[str]:
        """What exceeds its tolerance on a device of this kind."""
        failures = []
        if not self.float32_difference <= FLOAT32_TOLERANCE:
            failures.append(f"float32 logits differ by {self.float32_difference:.1e}; {FLOAT32_TOLERANCE:g} is allowed")
        if not np.isfinite(self.bf16_difference):
            failures.append("bf16 logits are not finite")
        if self.resume_difference is not None and not self.resume_difference <= RESUME_TOLERANCE[kind]:
            failures.append(
                f"resumed weights differ by {self.resume_difference:.1e}; {RESUME_TOLERANCE[kind]:g} is allowed"
            )
        return failures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", action="append", choices=FAMILIES, help="only this family (default: all)")
    parser.add_argument("--encoder", action="append", choices=checkpoints.TINY, help="only this encoder (default: all)")
    parser.add_argument("--clips", type=int, default=240, help="number of clips (default: 240)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--max-seconds", type=float, default=420.0, help="start no case after so long (default: 420)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Run every case, print the table, and exit with 1 if one failed."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    start = time.perf_counter()
    screen.machine()
    with device.use(options.device):
        target = device.current()
    name = torch.cuda.get_device_name(target) if target.type == "cuda" else "CPU"
    screen.say(f"Device: {name}, {options.clips} clips, {EPOCHS} epochs.")
    rows: list[tuple[str, ...]] = [
        ("case", "float32 s", "bf16 s", "accuracy", "float32 diff", "bf16 diff", "resume diff", "peak GB", "result")
    ]
    results: dict[str, CaseResult] = {}
    is_failed = False
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        os.environ["AURICLE_CACHE"] = str(scratch / "cache")
        data = write_corpus(scratch / "corpus", options.clips)
        for case in cases(options.family or list(FAMILIES), options.encoder or checkpoints.TINY, scratch):
            try:
                if time.perf_counter() - start > options.max_seconds:
                    raise AuricleError(f"not run: {options.max_seconds:g} s are over (--max-seconds)")
                results[case.name] = result = measure(case, data, scratch / case.name, str(target))
                failures = result.failures(target.type)
            except Exception as error:  # whatever fails, the other cases still run
                traceback.print_exc(file=sys.stderr)
                failures = [f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"]
            is_failed = is_failed or bool(failures)
            rows.append(_row(case.name, results.get(case.name), failures))
            screen.say(f"{case.name}: {'; '.join(failures) or 'ok'} ({time.perf_counter() - start:.0f} s)")
            measured = asdict(results[case.name]) if case.name in results else {}
            screen.record("device", case=case.name, device=name, failures=failures, **measured)
        ratio = 1.0
        if target.type != "cpu" and "cnn" in results:
            ratio = cpu_seconds(data, scratch / "cpu") / results["cnn"].float32_seconds
    screen.table(rows)
    screen.result("device", "ratio", ratio)
    if is_failed:
        raise SystemExit(1)


def cases(families: Sequence[str], encoders: Sequence[str], scratch: Path) -> list[Case]:
    """The families, and for pretrained a checkpoint of every kind of encoder."""
    chosen = [Case(family, family) for family in families if family != "pretrained"]
    if "pretrained" in families:
        for encoder in encoders:
            checkpoint = checkpoints.make(encoder, scratch / "checkpoints" / encoder, head=False)
            settings = (f"model.checkpoint={checkpoint}", "model.stages=[]", "model.freeze={top: 1}")
            chosen.append(Case(encoder, "pretrained", settings))
    return chosen


def measure(case: Case, data: Path, folder: Path, target: str) -> CaseResult:
    """Train in float32 and bf16, resume an interrupted training, and compare logits with the CPU's."""
    if target != "cpu":
        torch.cuda.reset_peak_memory_stats()
    with device.use(target):
        corpus, resolved = prepared(case, data)
        float32 = Trained.fold(corpus.with_train(precision="float32"), resolved, folder / "float32")
        bf16 = Trained.fold(corpus.with_train(precision="bf16", epochs=1), resolved, folder / "bf16")
        resume_difference = None
        if resolved.training != "closed_form":
            resume_difference = resumed(corpus.with_train(precision="float32"), resolved, folder, float32)
    return CaseResult(
        float32_seconds=float32.seconds,
        bf16_seconds=bf16.seconds,
        accuracy=float32.accuracy,
        float32_difference=logit_difference(corpus, float32.folder, "float32", target),
        bf16_difference=logit_difference(corpus, bf16.folder, "bf16", target),
        resume_difference=resume_difference,
        peak_gb=torch.cuda.max_memory_allocated() / 1e9 if target != "cpu" else float("nan"),
    )


def prepared(case: Case, data: Path) -> tuple[PreparedCorpus, ResolvedRecipe]:
    """Prepare the corpus for the family's recipe."""
    resolved = resolve(recipes.load(FAMILIES[case.family], [*SETTINGS, *case.settings]))
    corpus = prepare(read(data, resolved.recipe), resolved.recipe, lambda *_: None)
    return corpus, ResolvedRecipe(corpus.recipe, resolved.options)


@dataclass(frozen=True)
class Trained:
    """One finished training: its folder, the seconds of its last epoch, and its accuracy on the test clips."""

    folder: RunFolder
    seconds: float
    accuracy: float
    epochs: tuple[int, ...]

    @classmethod
    def of(
        cls, corpus: PreparedCorpus, resolved: ResolvedRecipe, folder: Path, stop_at: int | None = None
    ) -> "Trained":
        """Train, save and evaluate one fold. Raises Interrupted where the epoch `stop_at` ends."""
        epochs: list[Epoch] = []

        def on_epoch(_: str, epoch: Epoch) -> None:
            epochs.append(epoch)
            if epoch.epoch == stop_at:
                raise Interrupted

        reporter = ProgressReporter(epoch=on_epoch)
        start = time.perf_counter()
        training = prepare_training(corpus, resolved, reporter)
        run_folder = RunFolder(folder)
        result = train_fold(FoldData(corpus, corpus.split.folds[0], run_folder, reporter), training, [])
        seconds = epochs[-1].seconds if epochs else time.perf_counter() - start
        assert result.scores is not None, "a fold that is not the final model of several has test scores"
        accuracy = float((result.scores.predicted == result.scores.truth).mean())
        return cls(run_folder, seconds, accuracy, tuple(epoch.epoch for epoch in epochs))


def resumed(corpus: PreparedCorpus, resolved: ResolvedRecipe, folder: Path, whole: Trained) -> float:
    """Interrupt a training in its last epoch, resume it, and return the relative difference of its weights.

    Raises AuricleError where the training starts over instead of resuming from its checkpoint.
    """
    with contextlib.suppress(Interrupted):
        Trained.fold(corpus, resolved, folder / "resumed", stop_at=EPOCHS)
    again = Trained.fold(corpus, resolved, folder / "resumed")
    if again.epochs != (EPOCHS,):
        raise AuricleError(f"The resumed training ran the epochs {again.epochs}, and only {EPOCHS} was left.")
    ours, theirs = (safetensors.torch.load_file(one.folder.model / "model.safetensors") for one in (whole, again))
    scale = max(float(weight.abs().max()) for weight in ours.values())
    return max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours) / scale


def logit_difference(corpus: PreparedCorpus, folder: RunFolder, precision: str, target: str) -> float:
    """The greatest difference of logits on the device in a precision from the CPU's in float32, relative."""
    audio = corpus.labelled(corpus.split.folds[0].test).audio
    logits = []
    for device_name, model_precision in (("cpu", "float32"), (target, precision)):
        with device.use(device_name):
            model = load_model(folder.model, model_precision)
            logits.append(scoring.score(model, audio, batch_seconds=60.0))
    return float(np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max())


def cpu_seconds(data: Path, folder: Path) -> float:
    """The seconds of the cnn's epoch on the CPU."""
    with device.use("cpu"):
        corpus, resolved = prepared(Case("cnn", "cnn"), data)
        return Trained.fold(corpus.with_train(precision="float32"), resolved, folder).seconds


def write_corpus(folder: Path, clips: int) -> Path:
    """Write class folders of harmonic tones in noise, one to two seconds long."""
    random = np.random.default_rng(0)
    for number in range(clips):
        label = list(PITCHES)[number % len(PITCHES)]
        time_axis = np.arange(round(random.uniform(1.0, 2.0) * SAMPLE_RATE)) / SAMPLE_RATE
        pitch = PITCHES[label] * random.uniform(0.9, 1.1)
        tone = sum(np.sin(2 * np.pi * harmonic * pitch * time_axis) / harmonic for harmonic in range(1, 5))
        samples = 0.2 * tone + random.normal(0.0, 0.05, len(time_axis))
        (folder / label).mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / label / f"{number:03d}.wav", samples.clip(-1, 1), SAMPLE_RATE, subtype="PCM_16")
    return folder


def _row(name: str, result: CaseResult | None, failures: Sequence[str]) -> tuple[str, ...]:
    verdict = "FAILED" if failures else "ok"
    if result is None:
        return (name, *[""] * 7, verdict)
    resume = "" if result.resume_difference is None else f"{result.resume_difference:.1e}"
    return (
        name,
        f"{result.float32_seconds:.2f}",
        f"{result.bf16_seconds:.2f}",
        f"{result.accuracy:.3f}",
        f"{result.float32_difference:.1e}",
        f"{result.bf16_difference:.1e}",
        resume,
        "" if np.isnan(result.peak_gb) else f"{result.peak_gb:.2f}",
        verdict,
    )
