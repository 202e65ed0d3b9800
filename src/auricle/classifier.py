"""A trained model that answers: for files, for samples in memory, one or many.

In: a run or model folder, then recordings of any format, rate and length. Out: one Answer or vector for each, in
order; a file that cannot be heard gets one that says why. Memory is bounded by the seconds decoded at a time, not by
the number of files.
"""

import collections
import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedModel

from auricle import models
from auricle.audio.decode import Sound
from auricle.audio.frames import SUFFIX as FRAMES_SUFFIX
from auricle.audio.survey import Opened, Settings, as_heard, cores, open_clip
from auricle.batches import held
from auricle.corpus import tree
from auricle.corpus.archive import is_archive
from auricle.corpus.clip import Clip
from auricle.errors import DataError, RunError, UsageError
from auricle.evaluation import scoring
from auricle.models.precision import is_bf16
from auricle.recipe import REFUSED

MAX_SECONDS = 6 * 3600.0
CHUNK_SECONDS = 600.0
CHUNK_FILES = 256
BATCH_SECONDS = 60.0


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


@dataclass(frozen=True)
class Recording:
    """A file to be answered for: its name, the source that opens it, and the seconds in it, None for its two ends."""

    name: str
    source: str
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True, eq=False)
class Heard:
    """A recording as a model hears it: int16 samples (channels, frames), none where `notes` say that it is deaf."""

    name: str
    samples: np.ndarray
    notes: tuple[str, ...]

    @property
    def error(self) -> str | None:
        return None if self.samples.shape[-1] else ("; ".join(self.notes) or "empty: no samples")


class Classifier:
    """A model folder, opened. Call it with a file name for one Answer.

    A model with a threshold may answer "unknown"; with `refuse` false it names a class all the same.
    """

    def __init__(self, model: PreTrainedModel, *, refuse: bool = True) -> None:
        self.model = model.eval()
        config = model.config
        self.labels = tuple(config.id2label[number] for number in range(config.num_labels))
        self.settings = Settings(config.sample_rate, config.channels, 0.0, MAX_SECONDS, getattr(config, "bands", None))
        self.threshold: float | None = getattr(config, "threshold", None) if refuse else None

    def __call__(self, file: str | Path) -> Answer:
        """Answer for one file."""
        return next(self.answers([Recording(str(file), str(file))]))

    def classify(self, samples: np.ndarray, sample_rate: int) -> Answer:
        """Answer for samples in memory: float in [-1, 1] or int16, (frames,) or (channels, frames).

        A model of ready frames takes (bands, frames) and their rate. Raises UsageError for another width or rate.
        """
        bands = self.settings.bands
        sound = Sound(np.atleast_2d(samples), sample_rate, "array", None)
        if bands is not None:
            if (len(sound.samples), sample_rate) != (bands, self.settings.sample_rate):
                raise UsageError(
                    f"The model takes frames of {bands} bands at {self.settings.sample_rate} a second, and received "
                    f"{sound.samples.shape} at {sample_rate}. Make them as those that it learnt from."
                )
            sound = Sound(np.asarray(samples, np.float32), sample_rate, "array", None)
        return self._answer_all([_heard("array", Opened(sound, ()), self.settings)])[0]

    def answers(self, recordings: Iterable[Recording]) -> Iterator[Answer]:
        """Answer for many files, in order, with bounded memory."""
        for chunk in hear(recordings, self.settings):
            yield from self._answer_all(chunk)

    def embeddings(self, recordings: Iterable[Recording]) -> Iterator[Embedded]:
        """Give the vector of each of many files, in order, with bounded memory."""
        for chunk in hear(recordings, self.settings):
            yield from embedded(chunk, self._vectors(self.model, chunk), self.settings.sample_rate)

    def _vectors(self, model: Any, chunk: Sequence[Heard]) -> np.ndarray:
        """Vectors to be compared by angle; a machine beside the network has half the say there too."""
        rows = _unit(self._rows(scoring.embed, chunk, model))
        beside = getattr(model, "beside", None)
        if beside is None or not beside.is_solved:
            return rows
        return np.concatenate([rows, self._vectors(beside, chunk)], 1)

    def _rows(self, judge: Callable[..., np.ndarray], chunk: Sequence[Heard], model: Any) -> np.ndarray:
        """What `scoring.score` or `scoring.embed` gives for the recordings of a chunk that can be heard."""
        good = [heard.samples for heard in chunk if heard.error is None]
        if not good:
            return np.zeros((0, 1), np.float32)
        rows = judge(model, held(good), batch_seconds=BATCH_SECONDS)
        # The baseline's vectors are in as many units as it has descriptors, until they are standardised.
        is_raw = judge is scoring.embed and hasattr(model, "standard")
        return np.asarray(model.standard(rows) if is_raw else rows)

    def _answer_all(self, chunk: Sequence[Heard]) -> list[Answer]:
        rows = iter(scoring.softmax(self._rows(scoring.score, chunk, self.model)))
        answers = []
        for heard in chunk:
            if heard.error is not None:
                answers.append(Answer(heard.name, (), 0.0, error=heard.error))
                continue
            row = next(rows)
            choices = tuple(Choice(self.labels[place], float(row[place])) for place in np.argsort(-row, kind="stable"))
            unknown = self.threshold is not None and choices[0].probability < self.threshold
            seconds = heard.samples.shape[-1] / self.settings.sample_rate
            answers.append(Answer(heard.name, choices, seconds, heard.notes, unknown=unknown))
        return answers


def hear(recordings: Iterable[Recording], settings: Settings) -> Iterator[list[Heard]]:
    """Decode many files, in order, in chunks that are bounded in seconds and in number."""
    chunk: list[Heard] = []
    seconds = 0.0
    for recording, opened in _opened(recordings, settings):
        chunk.append(_heard(recording.name, opened, settings))
        seconds += chunk[-1].samples.shape[-1] / settings.sample_rate
        if seconds >= CHUNK_SECONDS or len(chunk) >= CHUNK_FILES:
            yield chunk
            chunk, seconds = [], 0.0
    if chunk:
        yield chunk


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


# With these there is nothing to be heard; a clip with any other fault is answered, with a warning.
_DEAF = frozenset({"unreadable", "empty", "nan"})


def _unit(rows: np.ndarray) -> np.ndarray:
    """Each vector (clips, width) at length 1."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12))


def _heard(name: str, opened: Opened, settings: Settings) -> Heard:
    notes = tuple(f"{finding.kind}: {finding.detail}" for finding in opened.findings)
    if opened.sound is None or any(finding.kind in _DEAF for finding in opened.findings):
        return Heard(name, np.zeros((1, 0), np.int16), notes)
    return Heard(name, as_heard(opened.sound, settings), notes)


def load(folder: str | Path, precision: str = "auto", *, refuse: bool = True) -> Classifier:
    """Open a run folder, or the model folder in it. Raises RunError for anything else.

    `precision` is auto, float32 or bf16: see `load_model`. `refuse` lets a model with a threshold answer "unknown".
    """
    return Classifier(load_model(model_folder(Path(folder)), precision), refuse=refuse)


def model_folder(folder: Path) -> Path:
    """The model folder that a run folder holds, or the folder itself when it is one."""
    if not folder.exists():
        raise RunError(f"There is no run folder at '{folder}'. `auricle train` makes one.")
    for candidate in (folder / "model", folder):
        if (candidate / "config.json").is_file():
            return candidate
    raise RunError(
        f"'{folder}' is neither a run folder (with model/config.json in it) nor a model folder (with config.json). "
        "If its training was stopped, go on with `auricle train DATA --out RUN --resume`."
    )


def load_model(folder: Path, precision: str = "float32") -> PreTrainedModel:
    """Open a model folder, on the accelerator where there is one.

    `precision` auto or bf16 lets a pretrained encoder answer in bfloat16, auto where the processor multiplies it
    natively; the small families always answer in float32. Raises RunError for a folder that no family can open.
    """
    models.register()
    try:
        config = AutoConfig.from_pretrained(folder)
    except (ValueError, OSError, KeyError) as error:
        raise RunError(f"'{folder}' is no model that auricle can open: {error}") from error
    family = models.family_of(config.model_type)
    if family is None:
        raise RunError(
            f"'{folder}' holds a model of type '{config.model_type}', which no family of auricle opens. Families: "
            + ", ".join(models.names())
            + "."
        )
    if not (folder / "model.safetensors").is_file():
        raise RunError(f"'{folder}' has no model.safetensors: the model was not saved completely. Train it again.")
    model: PreTrainedModel = family.Model.from_pretrained(folder).eval()
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model.lighten() if hasattr(model, "lighten") and is_bf16(precision) else model


def recordings(inputs: Iterable[str]) -> Iterator[Recording]:
    """Expand files, folders, archives, globs and '-' (a recording on standard input) into what is to be answered.

    A list of utterances (a .json file that has them) gives these, by the names that it has for them. A name that does
    not exist is passed on: it gets an answer that says so.
    """
    for name in inputs:
        path = Path(name)
        if name == "-":
            yield Recording("-", "-")
        elif path.is_dir() or is_archive(name) or (any(mark in name for mark in "*?[") and not path.exists()):
            try:
                listed = tree.open_tree(name)
            except DataError as error:
                raise UsageError(str(error)) from error
            found = [member for member in listed.names if tree.is_audio(member)]
            found = found or [member for member in listed.names if member.endswith(FRAMES_SUFFIX)]
            if not found:
                raise UsageError(f"'{name}' holds no audio files. Give files, folders, archives or globs that do.")
            yield from (Recording(f"{name.rstrip('/')}/{member}", listed.source(member)) for member in found)
        elif path.suffix == ".json":
            yield from listed_utterances(path)
        else:
            yield Recording(name, name)


def listed_utterances(path: Path) -> Iterator[Recording]:
    """The utterances that a testdata.json lists, in its order; their files lie beside it.

    Raises UsageError for a file that is no such list, or names files elsewhere.
    """
    wanted = '{"utterances": [{"feature_path": "uttr-….pt"}, …]}'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = [row["feature_path"] for row in content["utterances"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"'{path}' is no list of utterances ({error!r}). It needs {wanted}.") from error
    for name in names:
        place = PurePosixPath(name) if isinstance(name, str) else None
        if place is None or place.is_absolute() or ".." in place.parts:
            raise UsageError(f"'{path}' lists {name!r}, and files beside it are allowed: {wanted}.")
        yield Recording(name, str(path.parent / place))


def _opened(recordings: Iterable[Recording], settings: Settings) -> Iterator[tuple[Recording, Opened]]:
    """Decode ahead in threads, a few files per core at a time, in order."""
    workers = cores()
    with ThreadPoolExecutor(workers, thread_name_prefix="auricle-open") as pool:
        pending: collections.deque[tuple[Recording, Future[Opened]]] = collections.deque()
        remaining = iter(recordings)
        for recording in itertools.islice(remaining, workers * 4):
            pending.append((recording, pool.submit(_open, recording, settings)))
        while pending:
            recording, future = pending.popleft()
            opened = future.result()
            for following in itertools.islice(remaining, 1):
                pending.append((following, pool.submit(_open, following, settings)))
            yield recording, opened


def _open(recording: Recording, settings: Settings) -> Opened:
    clip = Clip(recording.name, recording.source, "", start=recording.start, end=recording.end)
    return open_clip(clip, settings, content=sys.stdin.buffer.read() if recording.source == "-" else None)
