"""Speaker encoders: runs, models, local transformers checkpoints `…ForXVector` (wav2vec 2.0, WavLM, …), ONNX files.

An encoder has the hash of its weights and configs: embeddings of two models cannot be compared, and a folder's name
does not identify a model. Encoders run in float32, so that every machine gives the same embeddings.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

from auricle.audio import FULL_SCALE
from auricle.audio.recordings import MAX_SECONDS, DecodedRecording, Recording, read_recordings, whole_recording
from auricle.audio.settings import Settings
from auricle.errors import RunError
from auricle.inference.classifier import Embedding, pair_embeddings
from auricle.inference.classifier import load as load_classifier
from auricle.models import device
from auricle.run_folder import model_folder
from auricle.voices.store import EncoderId

WINDOW_SECONDS = 30.0
# What decides an embedding apart from the weights.
_CONFIGS = ("config.json", "preprocessor_config.json")
# Only pretraining uses these weights; a checkpoint may lack them.
_PRETRAINING_ONLY = ("masked_spec_embed", "objective.", "classifier.")


@dataclass(frozen=True)
class Encoder:
    """A model that gives embeddings."""

    id: EncoderId
    embeddings: Callable[[Iterable[Recording]], Iterator[Embedding]]


def load_encoder(run: str | Path) -> Encoder:
    """Load a run folder, a model folder, a local checkpoint `…ForXVector`, or an ONNX file.

    Raises RunError for anything else.
    """
    run = Path(run).expanduser().absolute()
    if run.suffix == ".onnx":
        # The layers above do not import ONNX Runtime unless a model needs it.
        from auricle.voices import onnx_encoder

        return Encoder(EncoderId(str(run), onnx_encoder.fingerprint(run)), onnx_encoder.load(run).embeddings)
    folder = model_folder(run)
    encoder_id = EncoderId(str(run), fingerprint(folder))
    if is_xvector(folder):
        return Encoder(encoder_id, load_xvector(folder).embeddings)
    return Encoder(encoder_id, load_classifier(folder, "float32", runtime="torch").embeddings)


def fingerprint(folder: Path) -> str:
    """A hash of the weights and configs in a model folder. Raises RunError where it has no weights."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise RunError(f"'{folder}' has no model.safetensors: the model was not saved completely. Train it again.")
    digest = hashlib.sha256()
    for path in [*(folder / name for name in _CONFIGS if (folder / name).is_file()), *weights]:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class WindowedEncoder:
    """An encoder that is not auricle's: each recording alone, in windows of bounded length.

    `encode` turns samples (frames,) float32 in [-1, 1] into a vector (width,). Vectors of the windows are averaged,
    weighted by duration. It cannot encode fewer than `min_samples`.
    """

    encode: Callable[[np.ndarray], np.ndarray]
    settings: Settings
    min_samples: int

    def embeddings(self, recordings: Iterable[Recording]) -> Iterator[Embedding]:
        """Give the embedding of each of many recordings, in order, with bounded memory."""
        for chunk in read_recordings(recordings, self.settings, whole=True):
            usable = [self._reject_short(decoded) for decoded in chunk]
            rows = [self._encode_whole(decoded.samples) for decoded in usable if decoded.error is None]
            yield from pair_embeddings(usable, np.array(rows, np.float32))

    def _reject_short(self, decoded: DecodedRecording) -> DecodedRecording:
        rate = self.settings.sample_rate
        samples = 0 if decoded.error is not None else decoded.samples.shape[-1]
        if not 0 < samples < self.min_samples:
            return decoded
        note = f"short: it lasts {samples / rate:.2f} s, and this encoder needs {self.min_samples / rate:.2f} s"
        return whole_recording(decoded.name, decoded.samples[:, :0], self.settings, (*decoded.warnings, note))

    def _encode_whole(self, samples: np.ndarray) -> np.ndarray:
        """The vector (width,) of int16 samples (1, frames)."""
        windows = np.array_split(samples[0], -(-samples.shape[-1] // round(WINDOW_SECONDS * self.settings.sample_rate)))
        rows = [self.encode(window.astype(np.float32) / FULL_SCALE) for window in windows]
        return np.average(rows, axis=0, weights=[len(window) for window in windows])


def is_xvector(folder: Path) -> bool:
    """Whether a model folder holds an x-vector checkpoint, by its config."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    architectures = config.get("architectures") if isinstance(config, dict) else None
    return any(str(name).endswith("ForXVector") for name in architectures or ())


def load_xvector(folder: Path) -> WindowedEncoder:
    """Load a local checkpoint with an x-vector head, which gives each window's vector alone: the stock masks do not
    keep padding out of the layers before the pooling.

    Raises RunError for one without safetensors, preprocessor settings or some weights."""
    try:
        network, loading = AutoModelForAudioXVector.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise RunError(f"'{folder}' cannot be loaded as an x-vector encoder: {error}") from error
    missing = [name for name in sorted(loading["missing_keys"]) if not name.endswith(_PRETRAINING_ONLY[0])]
    missing = [name for name in missing if not name.startswith(_PRETRAINING_ONLY[1:])]
    if missing or network.main_input_name != "input_values":
        why = f"its weights lack '{missing[0]}'" if missing else "it does not take waveforms"
        raise RunError(f"'{folder}' cannot be loaded as an x-vector encoder: {why}. Name another checkpoint.")
    network = network.eval().to(device.current())
    rate = int(extractor.sampling_rate)

    def encode(window: np.ndarray) -> np.ndarray:
        values = extractor(window, sampling_rate=rate, return_tensors="pt").input_values
        with torch.inference_mode():
            vector: np.ndarray = network(values.to(network.device)).embeddings[0].float().cpu().numpy()
        return vector

    return WindowedEncoder(encode, Settings(rate, 1, 0.0, MAX_SECONDS), _min_samples(network.config))


def _min_samples(config: Any) -> int:
    """The fewest samples that an x-vector network can encode: two frames where it pools, as one has no deviation."""
    frames = 2 + sum((size - 1) * step for size, step in zip(config.tdnn_kernel, config.tdnn_dilation, strict=True))
    for size, step in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        frames = (frames - 1) * step + size
    return int(frames)
