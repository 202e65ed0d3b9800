"""An exported model, run by ONNX Runtime, where PyTorch is not installed.

In: padded waveforms or precomputed features and their lengths, in NumPy. Out: rows of logits or vectors. The file's
metadata holds the model's settings, ModelInfo.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from auricle.errors import MissingExtra, RunError
from auricle.models.runtime import ModelInfo
from auricle.parallel import cores

FILE = "model.onnx"


class OnnxModel:
    """An exported model; methods as in Runtime."""

    def __init__(self, session: Any, info: ModelInfo) -> None:
        self.session = session
        self.info = info
        self.takes_channels = len(session.get_inputs()[0].shape) == 3

    @classmethod
    def open(cls, path: str | Path) -> "OnnxModel":
        """Open a model.onnx, or its folder. Raises RunError for what is no export of auricle, MissingExtra."""
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise RunError(f"There is no exported model at '{path}'. `auricle export RUN --onnx` makes one.")
        session = open_session(path)
        return cls(session, ModelInfo.from_metadata(session.get_modelmeta().custom_metadata_map, path))

    def logits(self, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return self._run("logits", values, lengths)

    def vectors(self, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return self._run("embedding", values, lengths)

    def _run(self, output: str, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        if self.takes_channels and values.ndim == 2:
            values = np.repeat(values[:, None], self.info.channels, 1)
        elif not self.takes_channels and values.ndim == 3:
            values = values.mean(1)
        values, lengths = values.astype(np.float32, copy=False), lengths.astype(np.int64, copy=False)
        if self.info.precision != "int8":
            return self._feed(output, values, lengths)
        # 8-bit products are scaled by the whole batch: only alone does a clip's answer depend on that clip alone.
        return np.concatenate(
            [
                self._feed(output, values[clip : clip + 1, ..., :length], lengths[clip : clip + 1])
                for clip, length in enumerate(lengths)
            ]
        )

    def _feed(self, output: str, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        rows: np.ndarray = self.session.run([output], {"waveform": values, "lengths": lengths})[0]
        return rows


def open_session(path: Path) -> Any:
    """ONNX Runtime's session of a file. Raises RunError for one that it cannot open, MissingExtra without it."""
    try:
        import onnxruntime as runtime
    except ModuleNotFoundError as error:
        raise MissingExtra("Running an exported model", "onnx") from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.log_severity_level = 3  # it warns about what its own optimizer did
    errors = runtime.capi.onnxruntime_pybind11_state
    faults = (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf, errors.NoSuchFile)
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except faults as error:
        reason = str(error).strip().partition("\n")[0]
        raise RunError(f"'{path}' is no model that ONNX Runtime can open: {reason}") from error


def threads() -> int:
    """The number of threads: OMP_NUM_THREADS as for PyTorch, else the processor cores that this process may use."""
    setting = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(setting)) if setting.isdigit() else cores()
