"""Classifying clips of mixed length: auricle, with PyTorch and exported, compared with `transformers.pipeline`.

A model of HuBERT-base's size with random weights, whose head is trained on the clips' emotions. The pipeline runs at
its default, one file name at a time, and at its best batch size. The sides alternate on blocks of clips, so that a
machine that slows down affects all of them. Loading is not timed. The change by int8 never fails the benchmark. Of
what the processor multiplies at most, each side's share follows: two sides at their peaks differ by the peaks' ratio.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from sklearn.linear_model import LogisticRegression
from tests import checkpoints
from transformers import AutoModelForAudioClassification, Wav2Vec2FeatureExtractor, pipeline
from transformers.utils import logging as transformers_logging

from auricle.audio.recordings import recordings
from auricle.corpus.read import read_index
from auricle.errors import AuricleError
from auricle.evaluation import scoring
from auricle.export.quantize import quantize
from auricle.export.trace import trace
from auricle.inference.classifier import Classifier, load
from auricle.models.device import is_bf16
from auricle.models.families.pretrained.network import Model
from auricle.models.load import load_model
from auricle.models.onnx_runtime import OnnxModel
from auricle.preparation.windows import from_arrays
from benchmarks._environment import Screen, corpus, evenly_spaced
from benchmarks._flops import forward_flops, matrix_peak

CHECKPOINT = "hubert-base"
BATCHES = (1, 2, 4, 8, 16)
BATCH_TRIAL_CLIPS, WARMUP_CLIPS, BLOCK = 40, 2, 100
BATCH_SECONDS = 60.0
TOLERANCE = {"bf16": 2e-2, "float32": 1e-4}
DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}

Probabilities = Mapping[str, float]  # of one clip, by label
Classify = Callable[[Sequence[str]], list[Probabilities]]


@dataclass
class Side:
    """One side: its classify function, its answers and its seconds so far."""

    classify: Classify
    seconds: float = 0.0
    answers: list[Probabilities] = field(default_factory=list)

    def run(self, files: Sequence[str]) -> None:
        start = time.perf_counter()
        self.answers += self.classify(files)
        self.seconds += time.perf_counter() - start


@dataclass(frozen=True)
class Comparison:
    """How close some answers are to a reference: clips with the same label; clips with another label although the
    reference's two best classes are no near-tie; and the greatest difference of any probability."""

    same: int
    wrong: int
    clips: int
    difference: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=int, default=200, help="number of EmoDB clips (default: 200)")
    parser.add_argument("--precision", choices=("auto", "float32"), default="auto", help="of auricle (default: auto)")
    parser.add_argument("--model", type=Path, help="a model folder (default: random weights, generated)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Classify on all sides, print rates, ratios and differences; raise AuricleError where the answers differ."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    files = [str(path) for path in evenly_spaced(corpus("emodb"), options.clips)]
    precision = "bf16" if is_bf16(options.precision) else "float32"
    screen.machine()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model or make_model(Path(scratch) / "model", corpus("emodb"), files)
        (stock, stock_seconds), (ours, our_seconds) = (
            timed(lambda: pipeline("audio-classification", model=str(folder), device="cpu", top_k=None)),
            timed(lambda: load(folder, precision=options.precision)),
        )
        give = inputs(files, stock.feature_extractor.sampling_rate, screen)
        batch = best_batch(stock, give, files[:BATCH_TRIAL_CLIPS], screen)
        sides = {
            "pipeline, one at a time": Side(lambda some: [by_label(stock(give(file))) for file in some]),
            f"pipeline, batches of {batch}": Side(lambda some: in_batches(stock, map(give, some), batch)),
            "auricle": Side(lambda some: our_answers(ours, some)),
            **exported(folder, Path(scratch)),
        }
        for side in sides.values():
            side.classify(files[:WARMUP_CLIPS])
        for first in range(0, len(files), BLOCK):
            for side in sides.values():
                side.run(files[first : first + BLOCK])
        config, rate = stock.model.config, stock.feature_extractor.sampling_rate
    screen.say(f"Loading the model: pipeline {stock_seconds:.1f} s, auricle {our_seconds:.1f} s; not timed below.")
    samples = [round(info.frames * rate / info.samplerate) for info in map(soundfile.info, files)]
    report_flops(sum(forward_flops(config, count, 0).total for count in samples), sides, precision, screen)
    show(sides, precision, screen)


def make_model(folder: Path, data: Path, files: Sequence[str]) -> Path:
    """Write a model with random weights and a head trained on these files' emotions.

    A head with random weights gives near-ties, where rounding changes the label.
    """
    index = read_index(data)
    emotions = {Path(clip.source).name: index.labels.index(clip.label) for clip in index}
    torch.manual_seed(0)
    network = AutoModelForAudioClassification.from_config(checkpoints.config_of(CHECKPOINT, len(index.labels)))
    model = Model(network, Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)).eval()
    clips = from_arrays([np.round(soundfile.read(file)[0] * 32767).astype(np.int16)[None] for file in files])
    vectors = torch.from_numpy(scoring.embed(model.bf16_copy(), clips, batch_seconds=BATCH_SECONDS))
    with torch.no_grad():
        projected = model.network.projector(vectors).numpy()
        mean, deviation = projected.mean(0), projected.std(0) + 1e-6
        fitted = LogisticRegression(max_iter=1000).fit(
            (projected - mean) / deviation, [emotions[Path(file).name] for file in files]
        )
        weight = torch.from_numpy(fitted.coef_ / deviation).float()
        model.network.classifier.weight.copy_(weight)
        model.network.classifier.bias.copy_(
            torch.from_numpy(fitted.intercept_).float() - weight @ torch.from_numpy(mean)
        )
    model.save_pretrained(folder)
    model.extractor.save_pretrained(folder)
    return folder


def exported(folder: Path, scratch: Path) -> dict[str, Side]:
    """The same model as ONNX, in float32 and int8."""
    products = trace(load_model(folder).cpu(), scratch / "float32.onnx")
    quantize(scratch / "float32.onnx", scratch / "int8.onnx", products)
    float32, int8 = (Classifier(OnnxModel.open(scratch / f"{name}.onnx")) for name in ("float32", "int8"))
    return {
        "auricle, ONNX float32": Side(lambda some: our_answers(float32, some)),
        "auricle, ONNX int8": Side(lambda some: our_answers(int8, some)),
    }


def inputs(files: Sequence[str], sample_rate: int, screen: Screen) -> Callable[[str], str | np.ndarray]:
    """The input of the pipeline for a file: its name, or, without ffmpeg, samples read before timing."""
    if shutil.which("ffmpeg"):
        return lambda file: file
    screen.say("ffmpeg is not installed: the pipeline gets samples that soundfile read before timing.")
    samples_of = {}
    for file in files:
        samples_of[file], rate = soundfile.read(file, dtype="float32")
        if rate != sample_rate:
            raise AuricleError(f"'{file}' has {rate} Hz, and the pipeline resamples only with ffmpeg. Install ffmpeg.")
    return lambda file: samples_of[file]


def best_batch(stock: Any, give: Callable[[str], Any], files: Sequence[str], screen: Screen) -> int:
    """The pipeline's fastest batch size for these files, passed in one call in their order."""
    in_batches(stock, map(give, files[:WARMUP_CLIPS]), 1)
    seconds = {batch: timed(lambda size=batch: in_batches(stock, map(give, files), size))[1] for batch in BATCHES}
    screen.say(
        f"The pipeline on {len(files)} clips, by batch size: "
        + ", ".join(f"{batch}: {len(files) / elapsed:.1f} clips/s" for batch, elapsed in seconds.items())
        + "."
    )
    screen.record("batches", clips=len(files), seconds=seconds)
    return min(seconds, key=lambda batch: seconds[batch])


def in_batches(stock: Any, inputs: Any, batch: int) -> list[Probabilities]:
    return [by_label(answer) for answer in stock(list(inputs), batch_size=batch)]


def our_answers(classifier: Classifier, files: Sequence[str]) -> list[Probabilities]:
    """Classify as `auricle predict` does. Raises AuricleError for a file that fails."""
    rows = []
    for answer in classifier.predict(recordings(files)):
        if answer.error is not None:
            raise AuricleError(f"auricle failed on '{answer.name}': {answer.error}")
        rows.append({choice.label: choice.probability for choice in answer.choices})
    return rows


def by_label(answer: Sequence[Mapping[str, Any]]) -> Probabilities:
    return {choice["label"]: choice["score"] for choice in answer}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def compare(reference: Sequence[Probabilities], answers: Sequence[Probabilities], tolerance: float) -> Comparison:
    """Compare answers with a reference. Two classes closer than twice the tolerance are a near-tie and may swap."""
    same = wrong = 0
    difference = 0.0
    for first, second in zip(reference, answers, strict=True):
        best, next_best = sorted(first.values(), reverse=True)[:2]
        alike = max(first, key=lambda label: first[label]) == max(second, key=lambda label: second[label])
        same += alike
        wrong += not alike and best - next_best > 2 * tolerance
        difference = max(difference, *(abs(first[label] - second[label]) for label in first))
    return Comparison(same, wrong, len(reference), difference)


def report_flops(operations: float, sides: Mapping[str, Side], precision: str, screen: Screen) -> None:
    """Print the peak FLOP/s of matrix products, and the share that the pipeline and auricle reach of theirs."""
    peaks = {"float32": matrix_peak(torch.float32), precision: matrix_peak(DTYPES[precision])}
    shown = ", ".join(f"{peak / 1e9:.0f} GFLOP/s in {name}" for name, peak in peaks.items())
    ratio = peaks[precision] / peaks["float32"]
    screen.say(f"Matrix products reach {shown} on {torch.get_num_threads()} threads: a ratio of {ratio:.2f}.")
    default, _, ours, *_ = sides.items()
    for (name, side), used in ((default, "float32"), (ours, precision)):
        rate = operations / side.seconds
        screen.say(
            f"{name}: {operations / 1e12:.2f} TFLOP, {rate / 1e9:.0f} GFLOP/s, {100 * rate / peaks[used]:.0f} % of the "
            f"peak in {used}."
        )
        screen.record("flops", side=name, operations=operations, rate=rate, peaks=peaks, share=rate / peaks[used])


def show(sides: Mapping[str, Side], precision: str, screen: Screen) -> None:
    """Print the table; the last line is the ratio to the pipeline's default."""
    default, batched, ours, *others = sides.values()
    clips = len(default.answers)
    rows: list[tuple[str, ...]] = [("side", "clips/s", "time / auricle", "same label", "greatest difference")]
    for name, side in sides.items():
        result = compare(default.answers, side.answers, TOLERANCE[precision])
        rows.append(
            (
                name,
                f"{clips / side.seconds:.1f}",
                f"{side.seconds / ours.seconds:.2f}",
                f"{result.same} of {clips}",
                f"{result.difference:.1e}",
            )
        )
        screen.record(
            "classify", side=name, seconds=side.seconds, clips=clips, same=result.same, difference=result.difference
        )
    screen.table(rows)
    result = compare(default.answers, ours.answers, TOLERANCE[precision])
    screen.say(
        f"auricle in {precision}, the pipeline in float32; {len({max(row, key=row.get) for row in default.answers})} "
        f"classes are predicted. Ratio to the best batch size: {batched.seconds / ours.seconds:.3g}."
    )
    for onnx in others[:1]:
        difference = compare(default.answers, onnx.answers, TOLERANCE["float32"]).difference
        if difference > TOLERANCE["float32"]:
            raise AuricleError(f"ONNX in float32 differs by {difference:.1e}; {TOLERANCE['float32']:g} is allowed.")
    if result.wrong or result.difference > TOLERANCE[precision]:
        raise AuricleError(
            f"The answers differ: {result.wrong} clips have another label without a near-tie, and a probability "
            f"differs by {result.difference:.1e}; {TOLERANCE[precision]:g} is allowed in {precision}."
        )
    screen.result("classify, best batch size", "ratio", batched.seconds / ours.seconds)
    screen.result("classify", "ratio", default.seconds / ours.seconds)
