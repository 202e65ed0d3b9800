"""A trained model that answers: for files, for samples in memory, one or many.

In: a run, model or exported folder, then recordings of any format, rate and length. Out: one Answer or vector for each,
in order; a file that cannot be heard gets one that says why. PyTorch is imported only where a model needs it.
"""

import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from auricle.audio.decode import DecodedAudio
from auricle.audio.inspect import DecodedClip
from auricle.audio.long_recordings import Long, hear_all
from auricle.audio.recordings import MAX_SECONDS, Heard, Recording, hear, heard_of
from auricle.audio.settings import Settings
from auricle.errors import MissingExtra, RunError, UsageError
from auricle.evaluation import scoring
from auricle.inference.predictor import WindowSpec, moments
from auricle.models.onnx_runtime import OnnxModel
from auricle.preparation.windows import from_arrays
from auricle.recipe import REFUSED
from auricle.run_folder import model_folder

BATCH_SECONDS = 60.0
# How long the windows of a long recording are where neither recipe nor training clips say it, and within which bounds.
WINDOW_SECONDS, WINDOW_BOUNDS = 5.0, (1.0, 30.0)

Runtime = Literal["auto", "torch", "onnx"]


@dataclass(frozen=True)
class Choice:
    """One class and its probability."""

    label: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """What the model says of one recording. `choices` come best first; empty when `error` says why there are none.

    `unknown` says that the best choice is not likely enough to be named: then that is the label.
    """

    name: str
    choices: tuple[Choice, ...]
    seconds: float
    warnings: tuple[str, ...] = ()
    error: str | None = None
    unknown: bool = False

    @property
    def label(self) -> str | None:
        if self.unknown:
            return REFUSED
        return self.choices[0].label if self.choices else None

    @property
    def probability(self) -> float:
        return self.choices[0].probability if self.choices else 0.0


@dataclass(frozen=True, eq=False)
class Embedded:
    """What one recording sounds like to the model.

    vector (width,) float32 of length 1, empty when `error` says why there is none. `content` is a hash of the samples
    that the model heard: the same sound under another name or in another lossless format has the same.
    """

    name: str
    vector: np.ndarray
    seconds: float
    content: str = ""
    warnings: tuple[str, ...] = ()
    error: str | None = None


class Classifier:
    """A model folder, opened. Call it with a file name for one Answer.

    `model` is one of PyTorch or an exported Graph. A model with a threshold may answer "unknown"; with `refuse` false
    it names a class all the same.
    """

    def __init__(self, model: Any, *, refuse: bool = True) -> None:
        # Several threads may ask: none of them may find the model in training, or put it back there.
        self.model = model if isinstance(model, OnnxModel) else model.eval()
        config = model.config
        self.labels = tuple(config.id2label[number] for number in range(config.num_labels))
        self.settings = Settings(
            config.sample_rate, config.channels, 0.0, MAX_SECONDS, getattr(config, "num_features", None)
        )
        self.threshold: float | None = getattr(config, "threshold", None) if refuse else None

    @property
    def window_seconds(self) -> float:
        """How long a window of a long recording is: as in judging, else as a typical training clip."""
        if window := getattr(self.model.config, "window_seconds", None):
            return float(window)
        typical = getattr(self.model.config, "clip_seconds", None) or WINDOW_SECONDS
        return float(np.clip(typical, *WINDOW_BOUNDS))

    @property
    def cut(self) -> WindowSpec:
        """The windows of a long recording, as in judging."""
        return WindowSpec(self.window_seconds, self.window_seconds * (1 - getattr(self.model.config, "overlap", 0.0)))

    def __call__(self, file: str | Path) -> Answer:
        """Answer for one file."""
        return next(self.answers([Recording(str(file), str(file))]))

    def classify(self, samples: np.ndarray, sample_rate: int) -> Answer:
        """Answer for samples in memory: float in [-1, 1] or int16, (frames,) or (channels, frames).

        A model of precomputed features takes (bands, frames) and their rate. Raises UsageError for another width or rate.
        """
        num_features = self.settings.num_features
        sound = DecodedAudio(np.atleast_2d(samples), sample_rate, "array", None)
        if num_features is not None:
            if (len(sound.samples), sample_rate) != (num_features, self.settings.sample_rate):
                raise UsageError(
                    f"The model takes frames of {num_features} bands at {self.settings.sample_rate} a second, and received "
                    f"{sound.samples.shape} at {sample_rate}. Make them as those that it learnt from."
                )
            sound = DecodedAudio(np.asarray(samples, np.float32), sample_rate, "array", None)
        return self._answer_all([heard_of("array", DecodedClip(sound, ()), self.settings)])[0]

    def answers(self, recordings: Iterable[Recording]) -> Iterator[Answer]:
        """Answer for many files, in order, with bounded memory; long ones by the mean over windows."""
        for heard in hear_all(recordings, self.settings):
            if isinstance(heard, Long):
                mean = np.mean([moment.logits for moment in moments(self, heard.blocks, self.cut)], axis=0)
                yield self.answer(heard.name, mean, heard.seconds, heard.notes)
            else:
                yield from self._answer_all(heard)

    def embeddings(self, recordings: Iterable[Recording]) -> Iterator[Embedded]:
        """Give the vector of each of many files, in order, with bounded memory."""
        for chunk in hear(recordings, self.settings):
            rows = self.vectors([heard.samples for heard in chunk if heard.error is None])
            yield from embedded(chunk, rows, self.settings.sample_rate)

    def logits(self, samples: Sequence[np.ndarray]) -> np.ndarray:
        """Logits (clips, classes) float32 of clips as `settings` say: int16 (channels, samples) or frames."""
        return self._rows(scoring.score, samples)

    def vectors(self, samples: Sequence[np.ndarray]) -> np.ndarray:
        """Vectors (clips, width) float32 to be compared by angle, of clips as `logits` takes them."""
        return self._rows(scoring.vectors, samples)

    def _rows(self, judge: Callable[..., np.ndarray], samples: Sequence[np.ndarray]) -> np.ndarray:
        if not samples:
            return np.zeros((0, len(self.labels)), np.float32)
        return judge(self.model, from_arrays(samples), batch_seconds=BATCH_SECONDS)

    def answer(self, name: str, logits: np.ndarray, seconds: float, notes: tuple[str, ...] = ()) -> Answer:
        """Put a recording's logits (classes,) into words."""
        row = scoring.softmax(logits[None])[0]
        choices = tuple(Choice(self.labels[place], float(row[place])) for place in np.argsort(-row, kind="stable"))
        unknown = self.threshold is not None and choices[0].probability < self.threshold
        return Answer(name, choices, seconds, notes, unknown=unknown)

    def _answer_all(self, chunk: Sequence[Heard]) -> list[Answer]:
        rows = iter(self.logits([heard.samples for heard in chunk if heard.error is None]))
        answers = []
        for heard in chunk:
            if heard.error is not None:
                answers.append(Answer(heard.name, (), 0.0, error=heard.error))
                continue
            seconds = heard.samples.shape[-1] / self.settings.sample_rate
            answers.append(self.answer(heard.name, next(rows), seconds, heard.notes))
        return answers


def embedded(chunk: Sequence[Heard], rows: np.ndarray, sample_rate: int) -> Iterator[Embedded]:
    """Pair the recordings of a chunk with the vectors (clips that can be heard, width) of those that can."""
    places = iter(range(len(rows)))
    for heard in chunk:
        if heard.error is not None:
            yield Embedded(heard.name, np.zeros(0, np.float32), 0.0, error=heard.error)
            continue
        vector = _unit(rows[next(places)][None])[0].astype(np.float32)
        content = hashlib.blake2b(heard.samples.tobytes(), digest_size=16).hexdigest()
        yield Embedded(heard.name, vector, heard.samples.shape[-1] / sample_rate, content, heard.notes)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Each vector (clips, width) at length 1."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12))


def load(folder: str | Path, precision: str = "auto", *, refuse: bool = True, runtime: Runtime = "auto") -> Classifier:
    """Open a run folder, the model folder in it, or an exported folder. Raises RunError for anything else.

    `precision` is auto, float32 or bf16: see `load_model`. `refuse` lets a model with a threshold answer "unknown".
    `runtime` torch runs the model folder, onnx the exported model; auto prefers PyTorch where both can be had.
    """
    folder = Path(folder)
    exported = exported_model(folder)
    if runtime == "onnx" and exported is None:
        raise RunError(f"'{folder}' holds no exported model (model.onnx). `auricle export {folder} --onnx` makes one.")
    has_torch = all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))
    if exported is not None and (runtime == "onnx" or (runtime == "auto" and not (has_torch and _has_model(folder)))):
        return Classifier(OnnxModel.open(exported), refuse=refuse)
    found = model_folder(folder)
    if not has_torch:
        raise MissingExtra(f"'{folder}' has no exported model; running it", "train")
    from auricle.models.load import load_model

    return Classifier(load_model(found, precision), refuse=refuse)


def exported_model(folder: Path) -> Path | None:
    """The model.onnx that a run folder or an exported folder holds, None where there is none."""
    places = (folder / "model.onnx", folder / "onnx" / "model.onnx")
    return next((place for place in places if place.is_file()), None)


def _has_model(folder: Path) -> bool:
    return any((place / "config.json").is_file() for place in (folder / "model", folder))
