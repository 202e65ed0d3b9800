"""Compare two models on the same clips: how far their answers differ, and how fast each is.

In: models, of PyTorch or exported, and AudioSources. Out: ParityResult. The models alternate, so that a machine that
slows down affects both, and the fastest round counts, since other load only adds time.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from auricle.evaluation.scoring import score, softmax
from auricle.preparation.windows import AudioSource, from_arrays

BATCH_SECONDS = 60.0
# So many clips are scored once more one by one: a batch must not change an answer.
UNBATCHED_CLIPS = 8


@dataclass(frozen=True)
class ParityResult:
    """How close an exported model's probabilities are to PyTorch's, and how many clips each scores per second.

    `max_difference` is the greatest of any probability; `same_label_clips` counts clips with the same top class.
    """

    clips: int
    max_difference: float
    same_label_clips: int
    pytorch_clips_per_second: float
    onnx_clips_per_second: float


def check_parity(pytorch: Any, onnx: Any, clips: AudioSource, rounds: int = 1) -> ParityResult:
    """Compare whole clips in padded batches, and some of the exported model's one by one."""
    (expected, actual), rates = time_models((pytorch, onnx), clips, rounds)
    expected, actual = softmax(expected), softmax(actual)
    few = range(0, len(clips), max(1, len(clips) // UNBATCHED_CLIPS))
    unbatched = np.concatenate(
        [score(onnx, from_arrays([clips.get(clip)]), batch_seconds=BATCH_SECONDS) for clip in few]
    )
    difference = max(np.abs(expected - actual).max(), np.abs(expected[list(few)] - softmax(unbatched)).max())
    # NaN would pass every comparison.
    difference = float("inf") if np.isnan(difference) else float(difference)
    return ParityResult(len(clips), difference, int((expected.argmax(1) == actual.argmax(1)).sum()), *rates)


def time_models(models: Sequence[Any], clips: AudioSource, rounds: int) -> tuple[list[np.ndarray], list[float]]:
    """The logits (clips, classes) of each model, and the clips per second of its fastest round.

    Before the clock starts each model scores the shortest and the longest clip.
    """
    ends = [clips.get(int(index)) for index in (clips.lengths.argmin(), clips.lengths.argmax())]
    for model in models:
        score(model, from_arrays(ends), batch_seconds=BATCH_SECONDS)
    logits: list[np.ndarray] = []
    seconds = [float("inf")] * len(models)
    for number in range(rounds):
        for index, model in enumerate(models):
            start = time.perf_counter()
            rows = score(model, clips, batch_seconds=BATCH_SECONDS)
            seconds[index] = min(seconds[index], time.perf_counter() - start)
            if number == 0:
                logits.append(rows)
    return logits, [len(clips) / least for least in seconds]
