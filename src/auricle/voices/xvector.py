"""Stock checkpoints made for telling speakers apart: wav2vec 2.0, WavLM, UniSpeech-SAT, data2vec `…ForXVector`.

In: recordings. Out: their x-vectors. Each is heard alone, in windows of bounded length whose vectors are averaged by
their seconds: the stock masks do not keep padding out of the layers before the pooling. Only safetensors are opened.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

from auricle.audio.recordings import MAX_SECONDS, Heard, Recording, hear
from auricle.audio.settings import Settings
from auricle.errors import RunError
from auricle.inference.classifier import Embedded, embedded
from auricle.preparation.windows import FULL_SCALE

WINDOW_SECONDS = 30.0
_SUFFIX = "ForXVector"
# Only training needs these; a checkpoint may lack them.
_SPARE = ("masked_spec_embed", "objective.", "classifier.")


class XVector:
    """A stock checkpoint with an x-vector head, opened."""

    def __init__(self, network: Any, extractor: Any) -> None:
        self.network = network.eval()
        self.extractor = extractor
        self.settings = Settings(int(extractor.sampling_rate), 1, 0.0, MAX_SECONDS)

    @property
    def shortest(self) -> int:
        """The fewest samples that it can hear: two frames where it pools, for one has no deviation."""
        config = self.network.config
        frames = 2 + sum((size - 1) * step for size, step in zip(config.tdnn_kernel, config.tdnn_dilation, strict=True))
        for size, step in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            frames = (frames - 1) * step + size
        return int(frames)

    def embeddings(self, recordings: Iterable[Recording]) -> Iterator[Embedded]:
        """Give the vector of each of many files, in order, with bounded memory."""
        for chunk in hear(recordings, self.settings):
            long_enough = [self._long_enough(heard) for heard in chunk]
            rows = [self._vector(heard.samples) for heard in long_enough if heard.error is None]
            yield from embedded(long_enough, np.array(rows, np.float32), self.settings.sample_rate)

    def _long_enough(self, heard: Heard) -> Heard:
        rate, samples = self.settings.sample_rate, heard.samples.shape[-1]
        if not 0 < samples < self.shortest:
            return heard
        note = f"short: it lasts {samples / rate:.2f} s, and this encoder needs {self.shortest / rate:.2f} s"
        return Heard(heard.name, heard.samples[:, :0], (*heard.notes, note))

    def _vector(self, samples: np.ndarray) -> np.ndarray:
        """The x-vector (width,) of int16 samples (1, frames)."""
        pieces = np.array_split(samples[0], -(-samples.shape[-1] // round(WINDOW_SECONDS * self.settings.sample_rate)))
        rows = []
        for piece in pieces:
            values = self.extractor(
                piece.astype(np.float32) / FULL_SCALE, sampling_rate=self.settings.sample_rate, return_tensors="pt"
            ).input_values
            with torch.inference_mode():
                found = self.network(values.to(self.network.device)).embeddings[0]
            rows.append(found.float().cpu().numpy())
        return np.average(rows, axis=0, weights=[len(piece) for piece in pieces])


def opens(folder: Path) -> bool:
    """Whether a model folder holds an x-vector checkpoint, by its config."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    made_for = config.get("architectures") if isinstance(config, dict) else None
    return any(str(name).endswith(_SUFFIX) for name in made_for or ())


def load(folder: Path) -> XVector:
    """Open a local checkpoint. Raises RunError for one without safetensors, preprocessor settings or some weights."""
    try:
        network, loading = AutoModelForAudioXVector.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise RunError(f"'{folder}' cannot be opened as an x-vector encoder: {error}") from error
    missing = [name for name in sorted(loading["missing_keys"]) if not name.endswith(_SPARE[0])]
    missing = [name for name in missing if not name.startswith(_SPARE[1:])]
    if missing or network.main_input_name != "input_values":
        why = f"'{missing[0]}' is not among its weights" if missing else "it does not hear waveforms"
        raise RunError(f"'{folder}' cannot be opened as an x-vector encoder: {why}. Name another checkpoint.")
    return XVector(network.to("cuda" if torch.cuda.is_available() else "cpu"), extractor)
