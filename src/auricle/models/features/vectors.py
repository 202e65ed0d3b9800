"""Vectors of clips, in memory or in a file: what closed-form classifiers are fitted to.

In: the numbers of clips. Out: their vectors, (clips, features) float32.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Vectors(Protocol):
    """Vectors (clips, features), in memory or in a file, of which some are asked for by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, clips: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Columns:
    """Some features of vectors."""

    vectors: Vectors
    columns: np.ndarray

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, clips: np.ndarray, /) -> np.ndarray:
        return np.asarray(self.vectors[clips][:, self.columns])
