"""Classifying clips of mixed length: auricle, with PyTorch and exported, beside `transformers.pipeline`.

A model of HuBERT-base's size with random weights, whose head learnt the clips' emotions. The pipeline answers at its
default, one file name at a time, and at its best batch size. The sides take turns on blocks of clips, so that a machine
that slows down meets all of them. Opening the model is off the clock. What int8 changes is shown, not judged.
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
from auricle.export.quantize import narrow
from auricle.export.trace import trace
from auricle.inference.classifier import Classifier, load
from auricle.models.families.pretrained.network import Model
from auricle.models.load import load_model
from auricle.models.onnx_runtime import OnnxModel
from auricle.models.precision import is_bf16
from auricle.preparation.windows import from_arrays
from benchmarks._figures import Screen, corpus, spread

CHECKPOINT = "hubert-base"
BATCHES = (1, 2, 4, 8, 16)
TRIED_CLIPS, WARM_CLIPS, BLOCK = 40, 2, 100
BATCH_SECONDS = 60.0
TOLERANCE = {"bf16": 2e-2, "float32": 1e-4}

Chances = Mapping[str, float]  # of one clip, by label
Classify = Callable[[Sequence[str]], list[Chances]]


@dataclass
class Timed:
    """One side: how it answers, and what it answered in how many seconds so far."""

    classify: Classify
    seconds: float = 0.0
    answers: list[Chances] = field(default_factory=list)

    def go(self, files: Sequence[str]) -> None:
        start = time.perf_counter()
        self.answers += self.classify(files)
        self.seconds += time.perf_counter() - start


@dataclass(frozen=True)
class Agreement:
    """How near some answers are to others: clips with the same label; those with another although the first answers'
    two best classes are further apart than both may move; and the greatest difference of any probability."""

    same: int
    wrong: int
    clips: int
    difference: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=int, default=200, help="so many clips of EmoDB (default: 200)")
    parser.add_argument("--precision", choices=("auto", "float32"), default="auto", help="of our side (default: auto)")
    parser.add_argument("--model", type=Path, help="a model folder (default: random weights, made anew)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Classify on all sides, print rates, ratios and agreement; raise AuricleError where the answers differ."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    files = [str(path) for path in spread(corpus("emodb"), options.clips)]
    precision = "bf16" if is_bf16(options.precision) else "float32"
    screen.machine()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model or make_model(Path(scratch) / "model", corpus("emodb"), files)
        (stock, stock_seconds), (ours, our_seconds) = (
            timed(lambda: pipeline("audio-classification", model=str(folder), device="cpu", top_k=None)),
            timed(lambda: load(folder, precision=options.precision)),
        )
        give = inputs(files, stock.feature_extractor.sampling_rate, screen)
        batch = best_batch(stock, give, files[:TRIED_CLIPS], screen)
        sides = {
            "pipeline, one at a time": Timed(lambda some: [by_label(stock(give(file))) for file in some]),
            f"pipeline, batches of {batch}": Timed(lambda some: in_batches(stock, map(give, some), batch)),
            "auricle": Timed(lambda some: our_answers(ours, some)),
            **exported(folder, Path(scratch)),
        }
        for side in sides.values():
            side.classify(files[:WARM_CLIPS])
        for first in range(0, len(files), BLOCK):
            for side in sides.values():
                side.go(files[first : first + BLOCK])
    screen.say(f"Opening the model: pipeline {stock_seconds:.1f} s, auricle {our_seconds:.1f} s; not counted below.")
    show(sides, precision, screen)


def make_model(folder: Path, data: Path, files: Sequence[str]) -> Path:
    """Write a model with random weights and a head that learnt these files' emotions: it answers as trained models do.

    A head with random weights is undecided between its classes, and then the least rounding changes the label.
    """
    index = read_index(data)
    emotions = {Path(clip.source).name: index.labels.index(clip.label) for clip in index}
    torch.manual_seed(0)
    network = AutoModelForAudioClassification.from_config(checkpoints.config_of(CHECKPOINT, len(index.labels)))
    model = Model(network, Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)).eval()
    sounds = from_arrays([np.round(soundfile.read(file)[0] * 32767).astype(np.int16)[None] for file in files])
    vectors = torch.from_numpy(scoring.embed(model.bf16_copy(), sounds, batch_seconds=BATCH_SECONDS))
    with torch.no_grad():
        given = model.network.projector(vectors).numpy()
        centre, spread_of = given.mean(0), given.std(0) + 1e-6
        fitted = LogisticRegression(max_iter=1000).fit(
            (given - centre) / spread_of, [emotions[Path(file).name] for file in files]
        )
        weight = torch.from_numpy(fitted.coef_ / spread_of).float()
        model.network.classifier.weight.copy_(weight)
        model.network.classifier.bias.copy_(
            torch.from_numpy(fitted.intercept_).float() - weight @ torch.from_numpy(centre)
        )
    model.save_pretrained(folder)
    model.extractor.save_pretrained(folder)
    return folder


def exported(folder: Path, scratch: Path) -> dict[str, Timed]:
    """The same model as ONNX, in float32 and with 8-bit products, each opened."""
    products = trace(load_model(folder).cpu(), scratch / "float32.onnx")
    narrow(scratch / "float32.onnx", scratch / "int8.onnx", products)
    wide, small = (Classifier(OnnxModel.open(scratch / f"{name}.onnx")) for name in ("float32", "int8"))
    return {
        "auricle, ONNX float32": Timed(lambda some: our_answers(wide, some)),
        "auricle, ONNX int8": Timed(lambda some: our_answers(small, some)),
    }


def inputs(files: Sequence[str], sample_rate: int, screen: Screen) -> Callable[[str], str | np.ndarray]:
    """How the pipeline is given a file: by name, or, where it lacks ffmpeg, as samples that were read beforehand."""
    if shutil.which("ffmpeg"):
        return lambda file: file
    screen.say("There is no ffmpeg here: the pipeline is given samples that soundfile read before the clock started.")
    held = {}
    for file in files:
        held[file], found = soundfile.read(file, dtype="float32")
        if found != sample_rate:
            raise AuricleError(f"'{file}' has {found} Hz, and only ffmpeg resamples for the pipeline. Install ffmpeg.")
    return lambda file: held[file]


def best_batch(stock: Any, give: Callable[[str], Any], files: Sequence[str], screen: Screen) -> int:
    """The batch size at which the pipeline answers for these files the fastest, all given at once as they come."""
    in_batches(stock, map(give, files[:WARM_CLIPS]), 1)
    seconds = {batch: timed(lambda size=batch: in_batches(stock, map(give, files), size))[1] for batch in BATCHES}
    screen.say(
        f"The pipeline on {len(files)} clips, by batch size: "
        + ", ".join(f"{batch}: {len(files) / taken:.1f} clips/s" for batch, taken in seconds.items())
        + "."
    )
    screen.record("batches", clips=len(files), seconds=seconds)
    return min(seconds, key=lambda batch: seconds[batch])


def in_batches(stock: Any, given: Any, batch: int) -> list[Chances]:
    return [by_label(answer) for answer in stock(list(given), batch_size=batch)]


def our_answers(classifier: Classifier, files: Sequence[str]) -> list[Chances]:
    """Answer as `auricle predict` does. Raises AuricleError for a file that it cannot answer for."""
    rows = []
    for answer in classifier.predict(recordings(files)):
        if answer.error is not None:
            raise AuricleError(f"auricle has no answer for '{answer.name}': {answer.error}")
        rows.append({choice.label: choice.probability for choice in answer.choices})
    return rows


def by_label(answer: Sequence[Mapping[str, Any]]) -> Chances:
    return {choice["label"]: choice["score"] for choice in answer}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def agreement(judge: Sequence[Chances], answers: Sequence[Chances], tolerance: float) -> Agreement:
    """Compare answers with the judge's. A pair of classes nearer than twice the tolerance may change places."""
    same = wrong = 0
    difference = 0.0
    for first, second in zip(judge, answers, strict=True):
        best, next_best = sorted(first.values(), reverse=True)[:2]
        alike = max(first, key=lambda label: first[label]) == max(second, key=lambda label: second[label])
        same += alike
        wrong += not alike and best - next_best > 2 * tolerance
        difference = max(difference, *(abs(first[label] - second[label]) for label in first))
    return Agreement(same, wrong, len(judge), difference)


def show(sides: Mapping[str, Timed], precision: str, screen: Screen) -> None:
    """Print the table; the last line is the ratio to the pipeline's default."""
    default, batched, ours, *others = sides.values()
    clips = len(default.answers)
    rows: list[tuple[str, ...]] = [("side", "clips/s", "times ours", "same label", "greatest difference")]
    for name, side in sides.items():
        found = agreement(default.answers, side.answers, TOLERANCE[precision])
        rows.append(
            (
                name,
                f"{clips / side.seconds:.1f}",
                f"{side.seconds / ours.seconds:.2f}",
                f"{found.same} of {clips}",
                f"{found.difference:.1e}",
            )
        )
        screen.record(
            "classify", side=name, seconds=side.seconds, clips=clips, same=found.same, difference=found.difference
        )
    screen.table(rows)
    found = agreement(default.answers, ours.answers, TOLERANCE[precision])
    screen.say(
        f"auricle in {precision}, the pipeline in float32; {len({max(row, key=row.get) for row in default.answers})} "
        f"classes are heard. Ratio to the best batch size: {batched.seconds / ours.seconds:.3g}."
    )
    for wide in others[:1]:
        off = agreement(default.answers, wide.answers, TOLERANCE["float32"]).difference
        if off > TOLERANCE["float32"]:
            raise AuricleError(f"ONNX in float32 is off by {off:.1e}, and {TOLERANCE['float32']:g} is allowed.")
    if found.wrong or found.difference > TOLERANCE[precision]:
        raise AuricleError(
            f"The answers differ: {found.wrong} clips have another label without being a tie, and a probability is off "
            f"by {found.difference:.1e}, where {TOLERANCE[precision]:g} is allowed in {precision}."
        )
    screen.verdict("classify", "ratio", default.seconds / ours.seconds)
