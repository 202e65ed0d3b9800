"""A trained model that answers: for files, for samples in memory, one or many.

In: a run or model folder, then recordings of any format, rate and length. Out: one Answer for each, in order; a file
that cannot be heard gets an Answer that says why. Memory is bounded by the seconds decoded at a time, not by the number
of files.
"""

import collections
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedModel

from auricle import models
from auricle.audio import decode
from auricle.audio.decode import Sound
from auricle.audio.survey import Opened, Settings, cores, open_clip
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


@dataclass(frozen=True)
class Recording:
    """A file to be answered for: the name it was given by, and the source that opens it."""

    name: str
    source: str


class Classifier:
    """A model folder, opened. Call it with a file name for one Answer.

    A model with a threshold may answer "unknown"; with `refuse` false it names a class all the same.
    """

    def __init__(self, model: PreTrainedModel, *, refuse: bool = True) -> None:
        self.model = model.eval()
        config = model.config
        self.labels = tuple(config.id2label[number] for number in range(config.num_labels))
        self.settings = Settings(config.sample_rate, config.channels, 0.0, MAX_SECONDS)
        self.threshold: float | None = getattr(config, "threshold", None) if refuse else None

    def __call__(self, file: str | Path) -> Answer:
        """Answer for one file."""
        return next(self.answers([Recording(str(file), str(file))]))

    def classify(self, samples: np.ndarray, sample_rate: int) -> Answer:
        """Answer for samples in memory: float in [-1, 1] or int16, (frames,) or (channels, frames)."""
        sound = Sound(np.atleast_2d(samples), sample_rate, "array", None)
        return self._answer_all([("array", Opened(sound, ()))])[0]

    def answers(self, recordings: Iterable[Recording]) -> Iterator[Answer]:
        """Answer for many files, in order, with bounded memory."""
        chunk: list[tuple[str, Opened]] = []
        seconds = 0.0
        for recording, opened in _opened(recordings, self.settings):
            chunk.append((recording.name, opened))
            if opened.sound is not None:
                seconds += opened.sound.samples.shape[-1] / opened.sound.sample_rate
            if seconds >= CHUNK_SECONDS or len(chunk) >= CHUNK_FILES:
                yield from self._answer_all(chunk)
                chunk, seconds = [], 0.0
        if chunk:
            yield from self._answer_all(chunk)

    def _answer_all(self, chunk: Sequence[tuple[str, Opened]]) -> list[Answer]:
        heard = []
        for _, opened in chunk:
            if opened.sound is not None and not any(finding.kind in _DEAF for finding in opened.findings):
                heard.append(decode.resample(opened.sound, self.settings.sample_rate, self.settings.channels))
            else:
                heard.append(np.zeros((1, 0), np.int16))
        good = [samples for samples in heard if samples.shape[-1]]
        rows = iter(scoring.softmax(scoring.score(self.model, held(good), batch_seconds=BATCH_SECONDS)) if good else ())
        answers = []
        for (name, opened), samples in zip(chunk, heard, strict=True):
            notes = tuple(f"{finding.kind}: {finding.detail}" for finding in opened.findings)
            if not samples.shape[-1]:
                answers.append(Answer(name, (), 0.0, error="; ".join(notes) or "empty: no samples"))
                continue
            row = next(rows)
            choices = tuple(Choice(self.labels[place], float(row[place])) for place in np.argsort(-row, kind="stable"))
            unknown = self.threshold is not None and choices[0].probability < self.threshold
            seconds = samples.shape[-1] / self.settings.sample_rate
            answers.append(Answer(name, choices, seconds, notes, unknown=unknown))
        return answers


# With these there is nothing to be heard; a clip with any other fault is answered, with a warning.
_DEAF = frozenset({"unreadable", "empty", "nan"})


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

    A name that does not exist is passed on: it gets an answer that says so.
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
            if not found:
                raise UsageError(f"'{name}' holds no audio files. Give files, folders, archives or globs that do.")
            yield from (Recording(f"{name.rstrip('/')}/{member}", listed.source(member)) for member in found)
        else:
            yield Recording(name, name)


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
    if recording.source != "-":
        return open_clip(Clip(recording.name, recording.source, ""), settings)
    return open_clip(Clip("-", "-", ""), settings, content=sys.stdin.buffer.read())
