"""A PyTorch model as a Runtime: padded waveforms in NumPy in, rows in NumPy out.

The model runs in evaluation mode and returns to its former mode. OnnxModel has the same methods.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from auricle.models.runtime import ModelInfo
from auricle.parallel import reuse_freed_memory
from auricle.preparation.batches import mask_of

Part = TypeVar("Part")
Result = TypeVar("Result")


class TorchRuntime:
    """A PyTorch model of one of the families; methods as in Runtime."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def info(self) -> ModelInfo:
        return ModelInfo.of_model(self.model)

    def logits(self, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return self._run(lambda batch, mask: self.model(batch, attention_mask=mask).logits, values, lengths)

    def embed(self, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The input of the head, or the baseline's functionals: (batch, size) float32."""
        return self._run(self.model.embed, values, lengths)

    def embed_centers(
        self, values: np.ndarray, lengths: np.ndarray, centers: Mapping[int, np.ndarray]
    ) -> list[np.ndarray]:
        """The baseline's functionals of clips, and of the centers of some: by samples, which (batch,) bool."""
        mask = mask_of(torch.from_numpy(lengths), values.shape[-1])
        device = device_of(self.model)
        with evaluation_mode(self.model):
            chosen = {samples: torch.from_numpy(clips).to(device) for samples, clips in centers.items()}
            batch = torch.from_numpy(values).to(device)
            found = self.model.embed_centers(batch, mask.to(device) if mask is not None else None, chosen)
            return [to_numpy(rows) for rows in found]

    def vectors(self, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return self._run(lambda batch, mask: self.model.logits_and_vectors(batch, mask)[1], values, lengths)

    def _run(
        self, function: Callable[[Tensor, Tensor | None], Tensor], values: np.ndarray, lengths: np.ndarray
    ) -> np.ndarray:
        mask = mask_of(torch.from_numpy(lengths), values.shape[-1])
        device = device_of(self.model)
        with evaluation_mode(self.model):
            batch = torch.from_numpy(values).to(device)
            return to_numpy(function(batch, mask.to(device) if mask is not None else None))


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards the former mode."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def on_cores(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Apply `work`, without gradients, to each part: in as many threads as torch has here, of one core each."""
    reuse_freed_memory()
    threads = min(torch.get_num_threads(), len(parts))
    if threads < 2:
        return [work(part) for part in parts]
    inference = torch.is_inference_mode_enabled()

    def on_one_core(part: Part) -> Result:
        with torch.inference_mode(inference), torch.no_grad():
            return work(part)

    allowed = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(on_one_core, parts))
    finally:
        # Each thread has a number of its own, and the last one set is that of threads to come.
        torch.set_num_threads(allowed)


def to_numpy(rows: Tensor) -> np.ndarray:
    """A tensor as a float32 array."""
    array: np.ndarray = rows.float().cpu().numpy()
    return array


def score_embeddings(model: Any, embeddings: np.ndarray) -> np.ndarray:
    """Logits (clips, classes) of a closed-form model from what `scoring.embed` computed."""
    with evaluation_mode(model):
        return to_numpy(model.classify(torch.from_numpy(embeddings).to(device_of(model))))


def device_of(model: nn.Module) -> torch.device:
    """The device of a model; a closed-form model may have buffers only."""
    device: torch.device = next(itertools.chain(model.parameters(), model.buffers())).device
    return device
