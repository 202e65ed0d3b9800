"""An exported model, run by ONNX Runtime: what answers where there is no PyTorch.

In: padded waveforms, or precomputed features, and their lengths, in NumPy. Out: rows of logits or of vectors. What a model
folder's config says stands in the file's metadata, under the same names, so that judging asks both alike.
"""

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from auricle.errors import MissingExtra, RunError
from auricle.parallel import cores

FILE = "model.onnx"


@dataclass(frozen=True)
class OnnxMetadata:
    """What the file says of the model in it; seconds, hertz and probabilities. `auricle` is the version that wrote it.

    `batch_seconds` of padded sound are answered fastest. Of the `temperature` the logits know already.
    """

    auricle: str
    labels: tuple[str, ...]
    model_type: str
    precision: str
    sample_rate: int
    channels: int
    num_features: int | None = None
    temperature: float = 1.0
    window_seconds: float | None = None
    overlap: float = 0.0
    clip_seconds: float | None = None
    threshold: float | None = None
    max_false_accept_rate: float | None = None
    batch_seconds: float | None = None

    @property
    def num_labels(self) -> int:
        return len(self.labels)

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.labels))

    def to_metadata(self) -> dict[str, str]:
        """As a file's metadata has it: a text of JSON for each name."""
        return {field.name: json.dumps(getattr(self, field.name), ensure_ascii=False) for field in fields(self)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: Path) -> "OnnxMetadata":
        """Read what `to_metadata` wrote. Raises RunError for the metadata of any other file."""
        known = {field.name for field in fields(cls)}
        try:
            found = {name: json.loads(text) for name, text in metadata.items() if name in known}
            return cls(**{**found, "labels": tuple(found["labels"])})
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"'{path}' is no export of auricle: its metadata lacks what a classifier must know ({error}). "
                "`auricle export RUN --onnx` makes one."
            ) from error


class OnnxModel:
    """An exported model. `config` has the names that the configs of PyTorch's models have."""

    def __init__(self, session: Any, about: OnnxMetadata) -> None:
        self.session = session
        self.config = about
        self.batch_seconds = about.batch_seconds or float("inf")
        self.wide = len(session.get_inputs()[0].shape) == 3

    @classmethod
    def open(cls, path: str | Path) -> "OnnxModel":
        """Open a model.onnx, or the folder that it lies in.

        Raises RunError for a file that is no export of auricle, MissingExtra where ONNX Runtime is not installed.
        """
        runtime = _runtime()
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise RunError(f"There is no exported model at '{path}'. `auricle export RUN --onnx` makes one.")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads()
        options.log_severity_level = 3  # it warns of what its own optimiser did
        known = runtime.capi.onnxruntime_pybind11_state
        try:
            session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except (
            known.Fail,
            known.InvalidArgument,
            known.InvalidGraph,
            known.InvalidProtobuf,
            known.NoSuchFile,
        ) as error:
            raise RunError(f"'{path}' is no model that ONNX Runtime can open: {_first_line(error)}") from error
        return cls(session, OnnxMetadata.from_metadata(session.get_modelmeta().custom_metadata_map, path))

    def logits(self, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Logits (batch, classes) float32 of values (batch, [channels,] samples) and their lengths (batch,)."""
        return self._run("logits", values, lengths)

    def vectors(self, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Vectors (batch, width) float32 of length 1, to be compared by angle. Takes what `logits` takes."""
        return self._run("embedding", values, lengths)

    def _run(self, name: str, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        if self.wide and values.ndim == 2:
            values = np.repeat(values[:, None], self.config.channels, 1)
        elif not self.wide and values.ndim == 3:
            values = values.mean(1)
        values, lengths = values.astype(np.float32, copy=False), lengths.astype(np.int64, copy=False)
        if self.config.precision != "int8":
            return self._feed(name, values, lengths)
        # 8-bit products are scaled by all that is given at once: only alone is a clip's answer its own.
        alone = [slice(place, place + 1) for place in range(len(lengths))]
        return np.concatenate([self._feed(name, values[one, ..., : lengths[one][0]], lengths[one]) for one in alone])

    def _feed(self, name: str, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        rows: np.ndarray = self.session.run([name], {"waveform": values, "lengths": lengths})[0]
        return rows


def threads() -> int:
    """How many threads answer: OMP_NUM_THREADS as for PyTorch, else the processor cores that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(asked)) if asked.isdigit() else cores()


@functools.cache
def _runtime() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtra("Running an exported model", "onnx") from error
    return onnxruntime


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
