"""The job of `auricle predict`: recordings of any length and number to rows, and on from where it was interrupted.

In: a classifier, recordings, what is wished, and an Output. Out: rows, in order. Memory holds one chunk of short
recordings or one batch of windows. The state is noted only between these, so that a resumed job scores the same batches
as one that was never stopped, and writes the same bytes.
"""

import hashlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from auricle.audio.long_recordings import Long, hear_all
from auricle.audio.recordings import Heard, Recording
from auricle.corpus import tree
from auricle.errors import UsageError
from auricle.inference.classifier import Answer, Classifier, exported_model
from auricle.inference.events import EventDetector, EventRules, events
from auricle.inference.formats import Form
from auricle.inference.predictor import ScoredWindow, WindowSpec, moments, moments_of
from auricle.inference.writer import Output
from auricle.models.onnx_runtime import OnnxModel
from auricle.run_folder import model_folder

Told = Callable[[str], None]


@dataclass
class _Stand:
    """How far the job is: recordings done and failed, what tells these from others, and the one in the middle."""

    done: int = 0
    failed: int = 0
    seen: str = ""
    current: dict[str, Any] | None = None


def job_of(run: Path, classifier: Classifier, wish: dict[str, Any]) -> str:
    """A text that is the same only for the same model and the same wishes."""
    digest = hashlib.sha256(json.dumps(wish, sort_keys=True, default=str).encode())
    if isinstance(classifier.model, OnnxModel):
        exported = exported_model(run)
        files = sorted(exported.parent.glob(f"{exported.name}*")) if exported is not None else []
    else:
        folder = model_folder(run)
        files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@dataclass
class Job:
    """One call of `auricle predict`.

    `cut` is how recordings are cut into windows, and with the view "answers" how long ones are; `told` is called with a
    sentence for whoever watches.
    """

    classifier: Classifier
    form: Form
    cut: WindowSpec
    rules: EventRules
    output: Output
    told: Told
    _stand: _Stand = field(default_factory=_Stand)
    _taken: deque[Recording] = field(default_factory=deque)

    def run(self, recordings: Iterable[Recording]) -> int:
        """Answer for all of them; returns how many failed. Raises UsageError where others were answered before."""
        remaining = iter(recordings)
        resumed = self.output.state is not None
        if self.output.state is not None:
            self._stand = _Stand(**self.output.state)
            self._skip(remaining)
        else:
            self.output.checkpoint(asdict(self._stand), now=True)
        for heard in hear_all(self._noted(remaining), self.classifier.settings):
            if isinstance(heard, Long):
                self._long(heard, resumed)
            elif resumed and self._stand.current is not None:
                raise UsageError(_changed(self._taken[0].name))
            else:
                self._short(heard)
            resumed = False
            self.output.checkpoint(asdict(self._stand))
        self.output.finish()
        return self._stand.failed

    def _noted(self, recordings: Iterator[Recording]) -> Iterator[Recording]:
        for recording in recordings:
            self._taken.append(recording)
            yield recording

    def _skip(self, recordings: Iterator[Recording]) -> None:
        """Pass by what is done, and make sure that it is what was done."""
        seen = ""
        name = "-"
        for recording in itertools.islice(recordings, self._stand.done):
            name = recording.name
            seen = _chained(seen, recording)
            self.output.reserve(name)
        if seen != self._stand.seen:
            raise UsageError(_changed(name))
        self.told(f"Resuming behind {self._stand.done} recordings.")

    def _done(self, failed: bool) -> None:
        recording = self._taken.popleft()
        stand = self._stand
        self._stand = _Stand(stand.done + 1, stand.failed + failed, _chained(stand.seen, recording))

    def _short(self, chunk: list[Heard]) -> None:
        """Rows of recordings that were decoded whole."""
        good = [heard.samples for heard in chunk if heard.error is None]
        if self.form.view == "answers":
            rows = iter(self.classifier.logits(good))
        else:
            timelines = iter(moments_of(self.classifier, good, self.cut))
        rate = self.classifier.settings.sample_rate
        for heard in chunk:
            self.output.begin(heard.name)
            if heard.error is not None:
                self._fail(heard.name, heard.error)
            elif self.form.view == "answers":
                seconds = heard.samples.shape[-1] / rate
                self.output.write(
                    self.form.answer(self.classifier.answer(heard.name, next(rows), seconds, heard.notes))
                )
            else:
                self._timeline(heard.name, next(timelines))
                self._warn(heard.name, heard.notes)
            self.output.end(failed=heard.error is not None)
            self._done(heard.error is not None)

    def _timeline(self, name: str, found: list[ScoredWindow]) -> None:
        if self.form.view == "windows":
            for moment in found:
                self._window(name, moment)
            return
        for event in events(found, self.classifier.labels, self.classifier.threshold, self.rules):
            self.output.write(self.form.event(name, event))

    def _window(self, name: str, moment: ScoredWindow) -> None:
        answer = self.classifier.answer(name, moment.logits, moment.end - moment.start)
        self.output.write(self.form.window(moment.start, moment.end, answer))

    def _fail(self, name: str, error: str) -> None:
        if self.form.view == "answers":
            self.output.write(self.form.answer(Answer(name, (), 0.0, error=error)))
        else:
            self.output.write(self.form.failure(name, error))
        if self.form.kind in ("submission", "audacity", "vtt"):
            self.told(f"no row for '{name}': {error}")

    def _warn(self, name: str, notes: Iterable[str]) -> None:
        """Windows and events have no place for what is wrong with their recording."""
        for note in notes:
            self.told(f"'{name}': {note}")

    def _long(self, long: Long, resumed: bool) -> None:
        """Rows of a recording that is streamed, on from the window where it was interrupted."""
        stamp = _chained("", self._taken[0])
        kept = self._stand.current if resumed else None
        if kept is not None and kept["stamp"] != stamp:
            raise UsageError(_changed(long.name))
        self.output.begin(long.name, resumed=kept is not None)
        following = _Following(self, long.name, kept)
        skip = following.windows
        for moment in moments(self.classifier, long.blocks, self.cut, skip=skip):
            following.add(moment)
            if following.windows % self.cut.batch() == 0:
                self._stand.current = {"stamp": stamp, **following.state()}
                self.output.checkpoint(asdict(self._stand))
        following.finish(long)
        self.output.end()
        self._done(False)


class _Following:
    """What is known of a long recording so far, by the view."""

    def __init__(self, job: Job, name: str, kept: dict[str, Any] | None) -> None:
        self.job, self.name = job, name
        classifier = job.classifier
        self.windows = 0 if kept is None else int(kept["windows"])
        self.total = np.zeros(len(classifier.labels)) if kept is None else np.array(kept["total"])
        known = (classifier.labels, classifier.threshold, job.rules)
        self.merger = EventDetector(*known) if kept is None else EventDetector.from_state(kept["merger"], *known)

    def state(self) -> dict[str, Any]:
        return {"windows": self.windows, "total": self.total.tolist(), "merger": self.merger.state()}

    def add(self, moment: ScoredWindow) -> None:
        self.windows += 1
        if self.job.form.view == "answers":
            self.total += moment.logits
        elif self.job.form.view == "windows":
            self.job._window(self.name, moment)
        else:
            self._write(self.merger.add(moment))

    def finish(self, long: Long) -> None:
        job = self.job
        if job.form.view == "answers":
            mean = (self.total / self.windows).astype(np.float32)
            job.output.write(job.form.answer(job.classifier.answer(long.name, mean, long.seconds, long.notes)))
            return
        self._write(self.merger.finish())
        job._warn(long.name, long.notes)

    def _write(self, found: Iterable[Any]) -> None:
        for event in found:
            self.job.output.write(self.job.form.event(self.name, event))


def _chained(seen: str, recording: Recording) -> str:
    """A hash of one recording, by name and state, and of all before it."""
    about = f"{seen}\n{recording.name}\n{recording.start}-{recording.end}\n{tree.state_of(recording.source)}"
    return hashlib.blake2b(about.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _changed(name: str) -> str:
    return (
        f"--resume received other recordings than before: up to '{name}' they are not the same, or were changed. Give "
        "the same ones, or run it without --resume to begin anew."
    )
