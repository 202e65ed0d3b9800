"""A model of PyTorch as judging sees it: padded waveforms in NumPy go in, rows in NumPy come out.

The model is in evaluation mode meanwhile, and in its former mode afterwards. Exported graphs have the same verbs.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auricle.preparation.batches import mask_of


class TorchRuntime:
    """A model with its verbs. Each takes values (batch, [channels,] samples) and lengths (batch,), and gives rows."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = model.config
        self.device = device_of(model)
        # A processor's cache, or one graphic card, may ask for smaller batches than the caller.
        self.batch_seconds = float(getattr(model, "batch_seconds", float("inf")))

    def logits(self, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Logits (batch, classes) float32."""
        return self._rows(lambda heard, mask: self.model(heard, attention_mask=mask).logits, values, lengths)

    def embed(self, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The vector that the head sees, or the baseline's raw features: (batch, width) float32."""
        return self._rows(self.model.embed, values, lengths)

    def vectors(self, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Vectors to be compared by angle: (batch, width) float32."""
        return self._rows(lambda heard, mask: vectors(self.model, heard, mask), values, lengths)

    def _rows(
        self, answer: Callable[[Tensor, Tensor | None], Tensor], values: np.ndarray, lengths: np.ndarray
    ) -> np.ndarray:
        mask = mask_of(torch.from_numpy(lengths), values.shape[-1])
        with judging(self.model):
            heard = torch.from_numpy(values).to(self.device)
            return plain(answer(heard, mask.to(self.device) if mask is not None else None))


def vectors(model: Any, input_values: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Vectors (batch, width) of length 1 to be compared by angle; a machine beside the network has half the say.

    The baseline's features are in as many units as it has descriptors, until they are standardised.
    """
    own = model.embed(input_values, attention_mask)
    own = F.normalize((model.standard(own) if hasattr(model, "standard") else own).float(), dim=-1)
    ensemble_member = getattr(model, "beside", None)
    if ensemble_member is None or not ensemble_member.is_fitted:
        return own
    return F.normalize(torch.cat([own, vectors(ensemble_member, input_values, attention_mask)], -1), dim=-1)


@contextlib.contextmanager
def judging(model: nn.Module) -> Iterator[None]:
    """Be in evaluation mode, without gradients, and afterwards in the former mode."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def plain(rows: Tensor) -> np.ndarray:
    """Rows as NumPy has them, float32."""
    given: np.ndarray = rows.float().cpu().numpy()
    return given


def score_embeddings(model: Any, embeddings: np.ndarray) -> np.ndarray:
    """Logits (clips, classes) from what `scoring.embed` gave, where training does not change the embedding."""
    with judging(model):
        return plain(model.classify(torch.from_numpy(embeddings).to(device_of(model))))


def device_of(model: nn.Module) -> torch.device:
    """Where the model is; one that is fitted in closed form has buffers and no parameters."""
    device: torch.device = next(itertools.chain(model.parameters(), model.buffers())).device
    return device
