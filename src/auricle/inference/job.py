"""The job of `auricle predict`: recordings of any length and number to rows, resumable where it was interrupted.

Memory holds one chunk of short recordings or one batch of windows. The state is saved only between these, so that a
resumed job scores the same batches as one that was never interrupted, and writes the same bytes.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from auricle.audio.recordings import CHUNK_FILES, DecodedRecording, Recording, read_recordings
from auricle.corpus import tree
from auricle.errors import UsageError
from auricle.inference.classifier import Classifier, Prediction
from auricle.inference.events import DetectorState, EventDetector, EventRules
from auricle.inference.formats import RowFormat
from auricle.inference.predictor import MeanLogits, ScoredWindow, score_recordings, spec_for
from auricle.inference.writer import RowOutput
from auricle.models.onnx_runtime import OnnxModel
from auricle.parallel import cluster_map
from auricle.preparation.windows import WindowSpec
from auricle.run_folder import exported_model, model_folder


@dataclass(frozen=True)
class Part:
    """Some recordings, the first of which has the number `first` among all."""

    first: int
    recordings: tuple[Recording, ...]


@dataclass(frozen=True)
class RecordingRows:
    """The text of one recording's rows, and the messages on it for the user."""

    text: str
    failed: bool
    notices: tuple[str, ...]


def parts_of(recordings: Iterable[Recording], first: int) -> Iterator[Part]:
    """Divide recordings, the first of which has the number `first`, where chunks of the whole job end, too."""
    part: list[Recording] = []
    for number, recording in enumerate(recordings, start=first + 1):
        part.append(recording)
        if number % CHUNK_FILES == 0:
            yield Part(number - len(part), tuple(part))
            part = []
    if part:
        yield Part(number - len(part), tuple(part))


@dataclass
class CurrentRecording:
    """Where the job is within a long recording: windows done, the total of their logits, and its events so far."""

    fingerprint: str
    windows: int
    total: list[float]
    events: DetectorState


@dataclass
class JobState:
    """How far the job is: recordings done and failed, their fingerprint, and the one in the middle of which it is."""

    done: int = 0
    failed: int = 0
    fingerprint: str = ""
    current: CurrentRecording | None = None


def job_id(run: Path, classifier: Classifier, options: object) -> str:
    """A text that is the same only for the same model and the same options."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode())
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

    `spec` is how recordings are cut into windows, None for one prediction each; `notify` gets a sentence for the user.
    """

    classifier: Classifier
    format: RowFormat
    spec: WindowSpec | None
    rules: EventRules
    output: RowOutput
    notify: Callable[[str], None]
    _state: JobState = field(default_factory=JobState)

    def run(self, recordings: Iterable[Recording], first: int = 0) -> int:
        """Write the rows of all of them; returns how many failed. Raises UsageError where a resumed job had others.

        `first` is the number of the first one, where they are a part of a greater job.
        """
        recordings = self._begin(recordings)
        ahead, behind = itertools.tee(recordings)
        for chunk in read_recordings(ahead, self.classifier.settings, first=first + self._state.done):
            self._predict(chunk, list(itertools.islice(behind, len(chunk))))
            self.output.checkpoint(asdict(self._state))
        self.output.finish()
        return self._state.failed

    def run_on_cluster(self, recordings: Iterable[Recording], predict: Callable[[Part], list[RecordingRows]]) -> int:
        """What `run` does, part by part, on the cluster."""
        recordings = self._begin(recordings)
        if self._state.current is not None:
            raise UsageError("--resume received a job that was interrupted within a recording. Add --engine local.")
        # Only the parts that are in progress are in memory.
        ahead, behind = itertools.tee(parts_of(recordings, self._state.done))
        for results, part in zip(cluster_map(predict, ahead), behind, strict=True):
            for recording, rows in zip(part.recordings, results, strict=True):
                self.output.begin(recording.name)
                self.output.write(rows.text)
                for sentence in rows.notices:
                    self.notify(sentence)
                self._end(recording, failed=rows.failed)
            self.output.checkpoint(asdict(self._state))
        self.output.finish()
        return self._state.failed

    def _begin(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        recordings = iter(recordings)
        if self.output.state is not None:
            self._state = TypeAdapter(JobState).validate_python(self.output.state)
            self._skip(recordings)
        else:
            self.output.checkpoint(asdict(self._state), now=True)
        return recordings

    def _skip(self, recordings: Iterator[Recording]) -> None:
        """Skip what is done, and make sure that it is what was done."""
        fingerprint = ""
        name = "-"
        for recording in itertools.islice(recordings, self._state.done):
            name = recording.name
            fingerprint = _fingerprint(fingerprint, recording)
            self.output.reserve(name)
        if fingerprint != self._state.fingerprint:
            raise UsageError(_changed(name))
        self.notify(f"Resuming after {self._state.done} recordings.")

    def _predict(self, chunk: Sequence[DecodedRecording], originals: Sequence[Recording]) -> None:
        """Write the rows of a chunk; those of a long recording from the window where it was interrupted."""
        resumed, first = self._state.current, _fingerprint("", originals[0])
        if resumed is not None and not (chunk[0].is_long and resumed.fingerprint == first):
            raise UsageError(_changed(chunk[0].name))
        skip = 0 if resumed is None else resumed.windows
        scored = score_recordings(self.classifier, chunk, self.spec, skip=skip)
        for original, (recording, windows) in zip(originals, scored, strict=True):
            self.output.begin(recording.name, resumed=resumed is not None)
            mean = MeanLogits() if resumed is None else MeanLogits(resumed.total, resumed.windows)
            events = DetectorState() if resumed is None else resumed.events
            detector = EventDetector(self.classifier.labels, self.classifier.threshold, self.rules, events)
            per_batch = (self.spec or spec_for(self.classifier, recording)).batch() if recording.is_long else 0
            for window in windows:
                mean.add(window.logits)
                self._write_window(recording.name, window, detector)
                if per_batch and mean.count % per_batch == 0:
                    self._state.current = CurrentRecording(first, mean.count, mean.total.tolist(), detector.state)
                    self.output.checkpoint(asdict(self._state))
            self._write_end(recording, mean, detector)
            self._end(original, failed=recording.error is not None)

    def _end(self, recording: Recording, *, failed: bool) -> None:
        """A recording's rows are complete."""
        self.output.end(failed=failed)
        state, fingerprint = self._state, _fingerprint(self._state.fingerprint, recording)
        self._state = JobState(state.done + 1, state.failed + failed, fingerprint)

    def _write_window(self, name: str, window: ScoredWindow, detector: EventDetector) -> None:
        if self.format.view == "windows":
            prediction = self.classifier.window_prediction(name, window)
            self.output.write(self.format.window(window.start, window.end, prediction))
        elif self.format.view == "events":
            for event in detector.add(window):
                self.output.write(self.format.event(name, event))

    def _write_end(self, recording: DecodedRecording, mean: MeanLogits, detector: EventDetector) -> None:
        """Write what is known at the end of a recording: its one row, its last events, or why it failed."""
        name, error = recording.name, recording.error
        if error is not None:
            is_whole = self.format.view == "recordings"
            failed = Prediction(name, (), 0.0, error=error)
            self.output.write(self.format.recording(failed) if is_whole else self.format.failure(name, error))
            if self.format.kind in ("submission", "audacity", "vtt"):
                self.notify(f"no row for '{name}': {error}")
        elif self.format.view == "recordings":
            self.output.write(self.format.recording(self.classifier.prediction(recording, mean.value)))
        else:
            for event in detector.finish():
                self.output.write(self.format.event(name, event))
            # Rows of windows and events have no column for what is wrong with their recording.
            for warning in recording.warnings:
                self.notify(f"'{name}': {warning}")


def _fingerprint(before: str, recording: Recording) -> str:
    """A hash of one recording, by name and state, and of all before it."""
    about = f"{before}\n{recording.name}\n{recording.start}-{recording.end}\n{tree.state_of(recording.source)}"
    return hashlib.blake2b(about.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _changed(name: str) -> str:
    return (
        f"--resume received other recordings than before: up to '{name}' they are not the same, or were changed. Give "
        "the same ones, or run it without --resume to start over."
    )
