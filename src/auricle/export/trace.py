"""Trace a PyTorch model into an ONNX graph: waveforms in, probabilities, logits and an embedding out.

In: a model in evaluation mode. Out: model.onnx, for batches and lengths of any size, with the model's settings in its
metadata. torch's own exporter traces it, without its optimiser, which treats an addend of 1e-9 as zero, and so removes
the floors that keep the logarithm of silence finite.
"""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from auricle.errors import MissingExtra
from auricle.models.layers import masking
from auricle.models.runtime import ModelInfo

INPUTS, OUTPUTS = ("waveform", "lengths"), ("probabilities", "logits", "embedding")
# A file of this format holds at most 2 GB; a larger model gets its weights in a second file.
MAX_FILE_BYTES = 1_900_000_000
EXAMPLE_SECONDS = 1.3
# Operations that move a weight's elements and compute nothing.
_RESHAPING = ("Transpose", "Reshape", "Slice", "Split", "Concat", "Identity", "Squeeze", "Unsqueeze")


class ExportWrapper(nn.Module):
    """A model with all of its outputs. The graph's inputs are named as the arguments of `forward`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give probabilities and logits (batch, classes), and embeddings (batch, width) to be compared by cosine."""
        mask = masking.real(lengths, waveform.shape[-1]).long()
        logits, vectors = self.model.logits_and_vectors(waveform, mask)
        is_multi_label = self.model.config.problem_type == "multi_label_classification"
        return logits.sigmoid() if is_multi_label else logits.softmax(-1), logits, vectors


def trace(model: Any, path: Path) -> set[str]:
    """Write a model, on the CPU and in evaluation mode, to a file; returns the names of its weight products.

    These are the nodes that multiply by trained weights, after the front end. Parametrized weights become plain ones,
    in the model too. Raises MissingExtra.
    """
    try:
        import onnx_ir
        import onnxscript  # noqa: F401  torch's exporter needs it, and its own message does not name the extra
    except ModuleNotFoundError as error:
        raise MissingExtra("Exporting a model", "export") from error
    for module in model.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    metadata = ModelInfo.of_model(model)
    batch, length = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    example = _example(metadata)
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            ExportWrapper(model).eval(),
            example,
            dynamo=True,
            optimize=False,
            verbose=False,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes={"waveform": {0: batch, example[0].dim() - 1: length}, "lengths": {0: batch}},
        )
        assert program is not None, "torch returns a program when dynamo is set"
        products = _weight_products(program.model, model)
        _simplify(program.model)
    program.model.metadata_props.update(metadata.to_metadata())
    weights = [value.const_value for value in program.model.graph.initializers.values()]
    size = sum(weight.nbytes for weight in weights if weight is not None)
    onnx_ir.save(program.model, path, external_data=f"{path.name}.data" if size > MAX_FILE_BYTES else None)
    return products


def _example(metadata: ModelInfo) -> tuple[Tensor, Tensor]:
    """Two clips of different lengths: noise, so that tracing follows no branch that only silence takes."""
    generator = torch.Generator().manual_seed(0)
    size = round(EXAMPLE_SECONDS * metadata.sample_rate)
    middle: tuple[int, ...] = (metadata.channels,) if metadata.channels > 1 else ()
    if metadata.num_features:
        middle = (metadata.num_features,)
    return 0.1 * torch.randn(2, *middle, size, generator=generator), torch.tensor([size, size * 3 // 4])


def _simplify(graph_model: Any) -> None:
    """Fold constants, share duplicates, remove unused nodes, and drop intermediate shapes.

    Shapes name each size by a formula, and ONNX Runtime confuses two sizes where a formula's remainder differs.
    """
    import onnxscript.optimizer
    from onnx_ir.passes import common

    passes: Any = common
    passes.InlinePass()(graph_model)
    # No size limit: weights too are transposed once, not at every call.
    onnxscript.optimizer.fold_constants(graph_model, input_size_limit=sys.maxsize, output_size_limit=sys.maxsize)
    for simplify in (
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
    ):
        simplify(graph_model)
    outputs = set(map(id, graph_model.graph.outputs))
    for node in graph_model.graph.all_nodes():
        # torch records at every node the source file it came from, with the paths of this machine.
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            if id(value) not in outputs:
                value.shape = None


def _weight_products(graph_model: Any, model: Any) -> set[str]:
    """The names of the products that have a weight on one side, as it is or transposed: weights after the front end.

    The layers that read the waveform do not tolerate 8 bits: there they change 4 labels of 10 of HuBERT-base's, and in
    all later layers together 1 of 28 (EmoDB, random weights).
    """
    front = getattr(getattr(model, "encoder", None), "feature_encoder_name", None)
    names = [name for name, _ in model.named_parameters()]
    weights = {f"model.{name}" for name in names if front is None or not name.startswith(f"network.{front}.")}
    return {
        node.name
        for node in graph_model.graph.all_nodes()
        if node.op_type in ("MatMul", "Gemm") and any(_is_weight(value, weights) for value in node.inputs[:2])
    }


def _is_weight(value: Any, weights: set[str]) -> bool:
    """Whether a value is a weight, or a rearrangement of one."""
    if value is None:
        return False
    if value.is_initializer():
        return value.name in weights
    node = value.producer()
    return node is not None and node.op_type in _RESHAPING and _is_weight(node.inputs[0], weights)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries of an export: on vision models, on their deprecations, on what they fold, as advice."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
