"""An exported model, run by ONNX Runtime; no PyTorch."""

from pathlib import Path
from typing import Any


class Graph:
    """An exported model. See `models.running.Running` for its verbs."""

    config: Any

    @classmethod
    def open(cls, path: Path) -> "Graph":
        """Open a model.onnx."""
        raise NotImplementedError
