"""A trained model that predicts: for files of any format, rate and length, and for samples in memory.

A file that cannot be decoded gets a Prediction with the reason. PyTorch is imported only where a model needs it.
"""

import hashlib
import html
import importlib.util
import numbers
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from auricle.audio import frames
from auricle.audio.decode import DecodedAudio
from auricle.audio.decoders import RATES
from auricle.audio.recordings import (
    MAX_SECONDS,
    DecodedClip,
    DecodedRecording,
    Recording,
    check_clip,
    convert_clip,
    read_recordings,
)
from auricle.audio.settings import Settings
from auricle.errors import MissingExtra, UsageError
from auricle.evaluation import scoring
from auricle.inference.predictor import MeanLogits, ScoredWindow, score_recordings
from auricle.models.onnx_runtime import OnnxModel
from auricle.preparation.windows import BATCH_SECONDS, WindowSpec, from_arrays
from auricle.recipe import REFUSED
from auricle.run_folder import check_model, exported_model, has_model, model_folder

# How long the windows of a long recording are where neither recipe nor training clips define it, and its bounds.
WINDOW_SECONDS, WINDOW_BOUNDS = 5.0, (1.0, 30.0)
# Arrays with more channels, or peaks, are in another layout or scale than they should be.
MAX_CHANNELS, MAX_PEAK = 64, 16.0
_ARRAYS = (
    "Accepted: mono (samples,) or channels first (channels, samples), floats in [-1, 1] or int16, for example "
    "soundfile.read(file)[0].T."
)

# Classes in a notebook's card of a prediction.
SHOWN_CHOICES = 5
Runtime = Literal["auto", "torch", "onnx"]


@dataclass(frozen=True)
class ClassProbability:
    """One class and its probability."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What the model predicts for one recording. `choices` come best first; empty where there is an `error`.

    `unknown`: the best choice is below the model's threshold; `label` is then 'unknown'.
    """

    name: str
    choices: tuple[ClassProbability, ...]
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

    def _repr_html_(self) -> str:
        """A card for notebooks: the answer, and the most probable classes."""
        answer = html.escape(self.error or f"{self.label}, {self.seconds:.2f} s")
        bars = (
            f"<tr><td>{html.escape(choice.label)}</td><td>{choice.probability:.3f}</td>"
            f"<td><meter value='{choice.probability:.3f}'></meter></td></tr>"
            for choice in self.choices[:SHOWN_CHOICES]
        )
        notes = "".join(f"<p>! {html.escape(warning)}</p>" for warning in self.warnings)
        return f"<p>{html.escape(self.name)}: <b>{answer}</b></p>{notes}<table>{''.join(bars)}</table>"


@dataclass(frozen=True, eq=False)
class Embedding:
    """The embedding of one recording.

    vector (width,) float32 of length 1, empty where there is an `error`. `content` is a hash of the samples in the
    model's form: the same audio under another name or in another lossless format has the same.
    """

    name: str
    vector: np.ndarray
    seconds: float
    content: str = ""
    warnings: tuple[str, ...] = ()
    error: str | None = None


class Classifier:
    """A loaded model. Call it with a file name for one Prediction.

    `model` is PyTorch's or an OnnxModel. A model with a threshold may answer "unknown"; with `refuse` false it names a
    class even then.
    """

    def __init__(self, model: Any, *, refuse: bool = True) -> None:
        # Several threads may use it: none of them may find the model in training mode, or put it back there.
        self.model = model if isinstance(model, OnnxModel) else model.eval()
        self.runtime = scoring.runtime_of(self.model)
        info = self.runtime.info
        self.labels = info.labels
        shortest = info.min_clip_seconds or 0.0
        self.settings = Settings(info.sample_rate, info.channels, shortest, MAX_SECONDS, info.num_features)
        self.threshold: float | None = info.threshold if refuse else None

    @property
    def window_seconds(self) -> float:
        """How long a window of a long recording is: as in evaluation, else as a typical training clip."""
        info = self.runtime.info
        if info.window_seconds:
            return float(info.window_seconds)
        return float(np.clip(info.median_clip_seconds or WINDOW_SECONDS, *WINDOW_BOUNDS))

    @property
    def window_spec(self) -> WindowSpec:
        """How a long recording is cut, as in evaluation."""
        return WindowSpec(self.window_seconds, self.window_seconds * (1 - self.runtime.info.overlap))

    def __call__(self, file: str | Path) -> Prediction:
        """Classify one file. Raises UsageError for anything else, with the call that takes it."""
        name = file_name(file)
        return next(self.predict([Recording(name, name)]))

    def classify(self, samples: np.ndarray, sample_rate: int) -> Prediction:
        """Classify samples in memory: floats in [-1, 1] or int16, (samples,) or (channels, samples).

        A model of precomputed features takes floats (num_features, frames) and their rate. Silence and other faults of
        the audio are warnings, or the prediction's error, as for files. Raises UsageError for any other array or rate.
        """
        clip = self._clip(_array(samples), sample_rate)
        (prediction,) = self._predict_chunk([convert_clip("array", clip, self.settings)])
        return prediction

    def predict(self, recordings: Iterable[Recording]) -> Iterator[Prediction]:
        """Classify many files, in order, with bounded memory; long ones by the mean over windows."""
        for chunk in read_recordings(recordings, self.settings):
            yield from self._predict_chunk(chunk)

    def score_windows(
        self, recordings: Iterable[Recording], spec: WindowSpec
    ) -> Iterator[tuple[DecodedRecording, Iterable[ScoredWindow]]]:
        """Score the windows of many files, in order; take all windows of one before the next."""
        for chunk in read_recordings(recordings, self.settings):
            yield from score_recordings(self, chunk, spec)

    def embeddings(self, recordings: Iterable[Recording]) -> Iterator[Embedding]:
        """Compute the embedding of each of many files, in order, with bounded memory."""
        for chunk in read_recordings(recordings, self.settings, whole=True):
            yield from pair_embeddings(chunk, self.vectors([one.samples for one in chunk if one.error is None]))

    def logits(self, samples: Sequence[np.ndarray]) -> np.ndarray:
        """Logits (clips, classes) float32 of clips in the settings' form: int16 (channels, samples) or frames."""
        return self._rows(scoring.score, samples)

    def vectors(self, samples: Sequence[np.ndarray]) -> np.ndarray:
        """Vectors (clips, width) float32 to be compared by angle, of clips as `logits` takes them."""
        return self._rows(scoring.vectors, samples)

    def prediction(self, recording: DecodedRecording, logits: np.ndarray) -> Prediction:
        """The prediction for a recording with these logits (classes,)."""
        row = scoring.softmax(logits[None])[0]
        choices = tuple(
            ClassProbability(self.labels[index], float(row[index])) for index in np.argsort(-row, kind="stable")
        )
        unknown = self.threshold is not None and choices[0].probability < self.threshold
        return Prediction(recording.name, choices, recording.seconds, recording.warnings, unknown=unknown)

    def window_prediction(self, name: str, window: ScoredWindow) -> Prediction:
        """The prediction for one window of the recording `name`."""
        return self.prediction(DecodedRecording(name, (), window.end - window.start), window.logits)

    def _rows(self, score: Callable[..., np.ndarray], samples: Sequence[np.ndarray]) -> np.ndarray:
        if not samples:
            return np.zeros((0, len(self.labels)), np.float32)
        return score(self.model, from_arrays(samples), batch_seconds=BATCH_SECONDS)

    def _predict_chunk(self, chunk: Sequence[DecodedRecording]) -> Iterator[Prediction]:
        for recording, windows in score_recordings(self, chunk):
            mean = MeanLogits()
            for window in windows:
                mean.add(window.logits)
            if recording.error is not None:
                yield Prediction(recording.name, (), 0.0, error=recording.error)
            else:
                yield self.prediction(recording, mean.value)

    def _clip(self, values: np.ndarray, sample_rate: int) -> DecodedClip:
        num_features = self.settings.num_features
        if num_features is None:
            audio = DecodedAudio(_checked_samples(values), _rate(sample_rate), "array")
            return check_clip(audio, "", self.settings)
        shape, rate = values.shape, self.settings.sample_rate
        is_float = values.dtype.kind == "f" and len(shape) == 2 and shape[1] > 0
        if not is_float or (shape[0], sample_rate) != (num_features, rate):
            raise UsageError(
                f"The model takes floats ({num_features}, frames): {num_features} features at {rate} a second. It "
                f"received {values.dtype} {shape} at {sample_rate}. Compute the features as for its training data."
            )
        features = DecodedAudio(np.ascontiguousarray(values, np.float32), rate, frames.CONTAINER)
        faults = frames.check(features, declared=None, min_seconds=self.settings.min_seconds)
        return DecodedClip(features, faults, features.samples)


def file_name(value: object) -> str:
    """The name of a file. Raises UsageError for samples, lists and what else is passed, with the call that takes it."""
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    calls = "Classifier.classify(samples, sample_rate) takes samples, run.predict(*files) takes many files"
    if isinstance(value, Mapping):
        key, rate = next((key for key in ("array", "raw") if key in value), "array"), "sampling_rate"
        calls = f"Call classifier.classify(audio['{key}'], audio['{rate}'])" if key in value else calls
    raise UsageError(f"A file name or a path is needed, and a {type(value).__name__} was received. {calls}.")


def _array(samples: object) -> np.ndarray:
    """What NumPy makes of an array, a tensor or a list of numbers. Raises UsageError where it makes nothing of it."""
    try:
        return np.asarray(samples)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"samples received a {type(samples).__name__} that is no array: {error}. {_ARRAYS}") from error


def _rate(value: object) -> int:
    rate = float(value) if isinstance(value, numbers.Real) else 0.0
    if RATES[0] <= rate <= RATES[1] and rate.is_integer():
        return int(rate)
    raise UsageError(f"sample_rate received {value!r}. Accepted: whole hertz from {RATES[0]} to {RATES[1]}.")


def _checked_samples(values: np.ndarray) -> np.ndarray:
    """An array as (channels, samples) in int16 or float32. Raises UsageError for one that is not accepted."""
    shape, received = values.shape, f"An array received {values.dtype} of shape {values.shape}"
    is_audio = values.dtype.kind == "f" or values.dtype == np.int16
    if not is_audio or values.ndim not in (1, 2):
        scale = {"int32": "samples / 2**31", "uint8": "(samples - 128.0) / 128"}.get(str(values.dtype))
        raise UsageError(f"{received}{f'; give {scale}' if scale else ''}. {_ARRAYS}")
    values = np.atleast_2d(values)
    if values.size and len(values) > min(MAX_CHANNELS, values.shape[1]):
        raise UsageError(f"{received}, that is {shape[0]} channels of {shape[1]} samples; give samples.T. {_ARRAYS}")
    if values.dtype == np.int16:
        return np.ascontiguousarray(values, np.int16)
    # Wider floats that float32 cannot hold become infinite, which the check finds.
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.ascontiguousarray(values, np.float32)
        low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if MAX_PEAK < max(high, -low) < np.inf:
        raise UsageError(f"{received}, with values from {low:g} to {high:g}; divide them by full scale. {_ARRAYS}")
    return values


def pair_embeddings(chunk: Sequence[DecodedRecording], rows: np.ndarray) -> Iterator[Embedding]:
    """Pair the recordings of a chunk with the vectors (decoded clips, width) of those without an error."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True) if len(rows) else 1.0
    remaining = iter((rows / np.maximum(lengths, 1e-12)).astype(np.float32))
    for recording in chunk:
        if recording.error is not None:
            yield Embedding(recording.name, np.zeros(0, np.float32), 0.0, error=recording.error)
        else:
            content = hashlib.blake2b(recording.samples.tobytes(), digest_size=16).hexdigest()
            yield Embedding(recording.name, next(remaining), recording.seconds, content, recording.warnings)


def load(folder: str | Path, precision: str = "auto", *, refuse: bool = True, runtime: Runtime = "auto") -> Classifier:
    """Load a run folder, the model folder in it, or an exported folder. Raises RunError for anything else.

    `precision` is auto, float32 or bf16: see `load_model`. `refuse` lets a model with a threshold answer "unknown".
    `runtime` torch runs the model folder, onnx the exported model; auto prefers PyTorch where both are available.
    """
    folder = Path(folder)
    check_model(folder, runtime)
    exported = exported_model(folder)
    has_torch = all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))
    if exported is not None and (runtime == "onnx" or (runtime == "auto" and not (has_torch and has_model(folder)))):
        return Classifier(OnnxModel.open(exported), refuse=refuse)
    if not has_torch:
        raise MissingExtra(f"'{folder}' has no exported model; running it", "train")
    from auricle.models.load import load_model

    return Classifier(load_model(model_folder(folder), precision), refuse=refuse)
