"""Quantize an exported graph: its weight products in 8-bit integers, and the check that decides whether that pays.

In: model.onnx and the names of its weight products; labelled clips. Out: another file, whose metadata says int8, and
Int8Result. Weights have a scale per column; activations are scaled dynamically, which needs no calibration clips.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from auricle.errors import MissingExtra
from auricle.evaluation.scoring import softmax
from auricle.export.parity import time_models
from auricle.export.trace import quiet
from auricle.models.runtime import ModelInfo
from auricle.preparation.windows import AudioSource

ROUNDS = 5
# Timings of the same work vary by 5 %: a smaller speed-up may be none.
MIN_SPEEDUP = 1.05


@dataclass(frozen=True)
class Int8Result:
    """An int8 graph compared with its float32 original on labelled clips. `tolerance` is the accuracy it may lose."""

    clips: int
    float32_accuracy: float
    int8_accuracy: float
    float32_clips_per_second: float
    int8_clips_per_second: float
    max_difference: float
    tolerance: float

    @property
    def speedup(self) -> float:
        return self.int8_clips_per_second / self.float32_clips_per_second

    @property
    def accuracy_loss(self) -> float:
        return self.float32_accuracy - self.int8_accuracy

    @property
    def reasons_to_refuse(self) -> list[str]:
        """Why the graph is not worth keeping; none where it is faster and as accurate."""
        reasons = []
        if self.speedup < MIN_SPEEDUP:
            reasons.append(f"it is not {MIN_SPEEDUP:g} times as fast on this machine")
        if self.accuracy_loss > self.tolerance:
            reasons.append(
                f"it loses {self.accuracy_loss:.3f} of accuracy, and {self.tolerance:g} is allowed (--tolerance)"
            )
        return reasons

    @property
    def description(self) -> str:
        return (
            f"on {self.clips} validation clips int8 scores {self.int8_clips_per_second:.1f} clips/s and float32 "
            f"{self.float32_clips_per_second:.1f} ({self.speedup:.2f} times as fast), with an accuracy of "
            f"{self.int8_accuracy:.3f} against {self.float32_accuracy:.3f}"
        )


def compare_int8(float32: Any, int8: Any, clips: AudioSource, truth: np.ndarray, tolerance: float) -> Int8Result:
    """Compare an int8 graph with its float32 original on labelled clips (truth (clips,) class indices)."""
    (wide, narrow), rates = time_models((float32, int8), clips, ROUNDS)
    difference = float(np.abs(softmax(wide) - softmax(narrow)).max())
    accuracy, int8_accuracy = (float((rows.argmax(1) == truth).mean()) for rows in (wide, narrow))
    return Int8Result(len(clips), accuracy, int8_accuracy, rates[0], rates[1], difference, tolerance)


def quantize(source: Path, target: Path, products: set[str]) -> None:
    """Write the graph in `source` to `target` with these products (names of nodes) in 8-bit integers."""
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ModuleNotFoundError as error:
        raise MissingExtra("Quantizing a model to int8", "export") from error
    float32 = onnx.load(source)
    # quantize_dynamic transposes weights, after which the shapes that the file records for them are wrong.
    del float32.graph.value_info[:]
    with quiet():
        quantize_dynamic(
            float32,
            target,
            op_types_to_quantize=["MatMul"],
            # quantize_dynamic splits a product with a bias first, and gives the product this name.
            nodes_to_quantize=[name for product in sorted(products) for name in (product, f"{product}_MatMul")],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    int8 = onnx.load(target)
    metadata = ModelInfo.from_metadata({entry.key: entry.value for entry in int8.metadata_props}, target)
    onnx.helper.set_model_props(int8, replace(metadata, precision="int8").to_metadata())
    onnx.save(int8, target)
