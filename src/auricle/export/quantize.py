"""From an exported graph in float32 to one whose learnt products are of 8-bit integers.

In: model.onnx and the names of its learnt products. Out: another file, which says that it is narrow. Weights have a
scale for each of their columns; what they are multiplied by is scaled as it comes, which needs no clips to learn the
scales from.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from auricle.errors import MissingExtra
from auricle.models.onnx_runtime import About


def narrow(source: Path, target: Path, products: set[str]) -> None:
    """Write the graph in `source` to `target` with these products (names of nodes) in 8-bit integers."""
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ModuleNotFoundError as error:
        raise MissingExtra("Making an int8 model", "export") from error
    wide = onnx.load(source)
    # It turns weights round, and then finds the shapes that the file states for them wrong.
    del wide.graph.value_info[:]
    with _quietly():
        quantize_dynamic(
            wide,
            target,
            op_types_to_quantize=["MatMul"],
            # Products with a bias are taken apart first, and then have this name.
            nodes_to_quantize=[name for product in sorted(products) for name in (product, f"{product}_MatMul")],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    made = onnx.load(target)
    told = About.read({entry.key: entry.value for entry in made.metadata_props}, target)
    onnx.helper.set_model_props(made, replace(told, precision="int8").written())
    onnx.save(made, target)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """It advises, on the root logger, to prepare a model that is prepared."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
