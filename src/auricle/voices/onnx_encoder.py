"""A speaker encoder of any toolkit, exported to ONNX: waveforms or Kaldi's log-mel in, one vector per recording out.

In: a file whose first input is (batch, samples), (batch, frames, mels) or (batch, mels, frames) float32 and whose
first output is (batch, width). A JSON file of the same name in its folder states what the input is; without one, the
metadata that exports of WeSpeaker and 3D-Speaker carry; else it is what WeSpeaker's models take.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch
from transformers.audio_utils import mel_filter_bank, window_function

from auricle.audio.recordings import MAX_SECONDS
from auricle.audio.settings import Settings
from auricle.errors import RunError
from auricle.models.encoders import spectra
from auricle.models.onnx_runtime import open_session
from auricle.recipe import explain
from auricle.voices.encoder import WindowedEncoder

# Encoders that pool a deviation need several frames.
MIN_SECONDS = 0.1


class InputSettings(pydantic.BaseModel):
    """What a file takes. Of log-mel: bands from 20 Hz to half the rate, 25 ms windows every 10 ms, without dither."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    sample_rate: int = pydantic.Field(16_000, description="Hertz; log-mel needs 16000.")
    scale: float = pydantic.Field(32_768.0, gt=0, description="What full scale is: 32768 as in Kaldi, or 1.")
    window: str = pydantic.Field("hamming", pattern="hamming|hann|povey", description="hamming, hann or povey.")
    subtract_mean: bool = pydantic.Field(True, description="Whether each band's mean over the frames is subtracted.")
    mels_first: bool = pydantic.Field(False, description="Whether log-mel is (batch, mels, frames).")


def fingerprint(path: Path) -> str:
    """A hash of the file and its settings. Raises RunError where there is no file."""
    if not path.is_file():
        raise RunError(f"There is no ONNX file '{path}'.")
    digest = hashlib.sha256(path.read_bytes())
    if (stated := path.with_suffix(".json")).is_file():
        digest.update(stated.read_bytes())
    return digest.hexdigest()


def load(path: Path) -> WindowedEncoder:
    """Open a file. Raises RunError for one whose input or output is none of those above, or with unknown settings."""
    session = open_session(path)
    (first, *others), output = session.get_inputs(), session.get_outputs()[0]
    settings = _settings(path, session.get_modelmeta().custom_metadata_map)
    rank = len(first.shape)
    if others or first.type != "tensor(float)" or rank not in (2, 3):
        found = ", ".join(f"{each.name} {each.type} {each.shape}" for each in (first, *others))
        raise RunError(
            f"'{path}' takes {found}. A speaker encoder takes one float32 input: (batch, samples), (batch, frames, "
            "mels) or (batch, mels, frames)."
        )
    mels = first.shape[1 if settings.mels_first else 2] if rank == 3 else 0
    if rank == 3 and (not isinstance(mels, int) or settings.sample_rate != 16_000):
        raise RunError(
            f"'{path}' takes {first.name} {first.shape} at {settings.sample_rate} Hz. Log-mel has a fixed number of "
            f"bands and 16000 Hz: state mels_first and sample_rate in '{path.with_suffix('.json').name}'."
        )
    log_mel = _log_mel(settings, mels) if rank == 3 else None

    def encode(window: np.ndarray) -> np.ndarray:
        values = window[None] * np.float32(settings.scale) if log_mel is None else log_mel(window)
        vector = np.asarray(session.run([output.name], {first.name: values})[0], np.float32)
        if vector.ndim != 2 or len(vector) != 1 or not np.isfinite(vector).all():
            raise RunError(
                f"'{path}' gave {vector.shape} for one recording, or no finite numbers; expected (1, width)."
            )
        row: np.ndarray = vector[0]
        return row

    rate = settings.sample_rate
    return WindowedEncoder(encode, Settings(rate, 1, 0.0, MAX_SECONDS), round(MIN_SECONDS * rate))


def _settings(path: Path, metadata: Mapping[str, str]) -> InputSettings:
    stated = path.with_suffix(".json")
    try:
        if stated.is_file():
            return InputSettings.model_validate_json(stated.read_text(encoding="utf-8"))
        values: dict[str, Any] = {}
        if "sample_rate" in metadata:
            values["sample_rate"] = metadata["sample_rate"]
        if "normalize_samples" in metadata:
            values["scale"] = 1.0 if json.loads(metadata["normalize_samples"]) else 32_768.0
        if "feature_normalize_type" in metadata:
            values["subtract_mean"] = metadata["feature_normalize_type"] == "global-mean"
        return InputSettings.model_validate(values)
    except (pydantic.ValidationError, ValueError) as error:
        problem = explain(error, InputSettings) if isinstance(error, pydantic.ValidationError) else str(error)
        raise RunError(f"The settings of '{path}' in '{stated.name}' or its metadata: {problem}") from error


def _log_mel(settings: InputSettings, mels: int) -> Any:
    """A function from samples (frames,) to the log-mel that the file takes, a batch of one."""
    taper = window_function(spectra.FRAME, settings.window, periodic=False)
    filters = mel_filter_bank(
        num_frequency_bins=spectra.N_FFT // 2 + 1,
        num_mel_filters=mels,
        min_frequency=20.0,
        max_frequency=settings.sample_rate / 2,
        sampling_rate=settings.sample_rate,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )

    def compute(window: np.ndarray) -> np.ndarray:
        mel = spectra.kaldi_log_mel(torch.from_numpy(window)[None], taper, filters, settings.scale).numpy()
        mel = mel - mel.mean(1, keepdims=True) if settings.subtract_mean else mel
        return np.ascontiguousarray(mel.transpose(0, 2, 1) if settings.mels_first else mel)

    return compute
