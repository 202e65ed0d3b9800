"""From a model of PyTorch to a graph in a file: waveforms in, probabilities, logits and a vector out.

In: a model in evaluation mode. Out: model.onnx, for batches and lengths of any size, with what its config says in the
metadata. torch's own exporter traces it; its optimiser is not used, because it takes an addend of 1e-9 for zero, and so
removes the floors that keep the logarithm of silence finite.
"""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from auricle import __version__
from auricle.errors import MissingExtra
from auricle.models.layers import masking
from auricle.models.onnx_runtime import About

INPUTS, OUTPUTS = ("waveform", "lengths"), ("probabilities", "logits", "embedding")
# A file of this format holds no more than 2 GB; the weights of a larger model lie beside it.
ONE_FILE_BYTES = 1_900_000_000
SOME_SECONDS = 1.3


class Whole(nn.Module):
    """A model with all that it answers. The graph's inputs are named as the arguments of `forward`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        ensemble_member = getattr(model, "beside", None)
        self.ensemble_member = ensemble_member if ensemble_member is not None and ensemble_member.is_fitted else None

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give probabilities and logits (batch, classes), and vectors (batch, width) to be compared by angle."""
        mask = masking.real(lengths, waveform.shape[-1]).long()
        own = self.model.embed(waveform, mask)
        vector = _unit(self.model, own)
        if self.ensemble_member is None:
            logits = self.model.judge(own)
        else:
            theirs = self.ensemble_member.embed(waveform, mask)
            logits = self.model.judge(own, theirs)
            vector = F.normalize(torch.cat([vector, _unit(self.ensemble_member, theirs)], -1), dim=-1)
        return logits.softmax(-1), logits, vector


def _unit(model: Any, own: Tensor) -> Tensor:
    """What `running.vectors` makes of a model's own vectors."""
    return F.normalize((model.standard(own) if hasattr(model, "standard") else own).float(), dim=-1)


def about(model: Any, precision: str = "float32") -> About:
    """What the file has to say of a model."""
    config = model.config
    return About(
        auricle=__version__,
        labels=tuple(config.id2label[number] for number in range(config.num_labels)),
        model_type=config.model_type,
        precision=precision,
        sample_rate=config.sample_rate,
        channels=config.channels,
        num_features=getattr(config, "num_features", None),
        temperature=getattr(config, "logit_temperature", None) or 1.0,
        window_seconds=getattr(config, "window_seconds", None),
        overlap=getattr(config, "overlap", None) or 0.0,
        clip_seconds=getattr(config, "clip_seconds", None),
        threshold=getattr(config, "threshold", None),
        max_false_accept_rate=getattr(config, "max_false_accept_rate", None),
        batch_seconds=getattr(model, "batch_seconds", None),
    )


def trace(model: Any, path: Path) -> set[str]:
    """Write a model, on the processor and in evaluation mode, to a file; returns the names of its learnt products.

    These are the nodes that multiply by what training found, behind the front end. Weights that are made anew from
    their norm at every call become plain ones, in the model too. Raises MissingExtra.
    """
    try:
        import onnx_ir
        import onnxscript  # noqa: F401  torch's exporter needs it, and says so in another language
    except ModuleNotFoundError as error:
        raise MissingExtra("Exporting a model", "export") from error
    for module in model.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    told = about(model)
    batch, length = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    example = _example(told)
    with torch.no_grad(), _quietly():
        program = torch.onnx.export(
            Whole(model).eval(),
            example,
            dynamo=True,
            optimize=False,
            verbose=False,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_shapes={"waveform": {0: batch, example[0].dim() - 1: length}, "lengths": {0: batch}},
        )
        assert program is not None, "torch gives a program where it is asked for one"
        learnt = _learnt(program.model, {f"model.{name}" for name in _weights(model)})
        _tidy(program.model)
    program.model.metadata_props.update(told.written())
    weights = [value.const_value for value in program.model.graph.initializers.values()]
    size = sum(weight.nbytes for weight in weights if weight is not None)
    ensemble_member = f"{path.name}.data" if size > ONE_FILE_BYTES else None
    onnx_ir.save(program.model, path, external_data=ensemble_member)
    return learnt


def _example(told: About) -> tuple[Tensor, Tensor]:
    """Two clips of unlike length: noise, so that no branch that silence takes is the one that is traced."""
    generator = torch.Generator().manual_seed(0)
    size = round(SOME_SECONDS * told.sample_rate)
    middle = (told.num_features,) if told.num_features else (told.channels,) if told.channels > 1 else ()
    return 0.1 * torch.randn(2, *middle, size, generator=generator), torch.tensor([size, size * 3 // 4])


def _tidy(graph_model: Any) -> None:
    """Fold what is constant, share what occurs twice, drop what nobody reads, and forget the shapes in between.

    These name each size by a formula, and ONNX Runtime takes two sizes for one where a formula's remainder differs.
    """
    import onnxscript.optimizer
    from onnx_ir.passes import common

    passes: Any = common
    passes.InlinePass()(graph_model)
    # Weights too are turned round once, and not at every call: no limit of size.
    onnxscript.optimizer.fold_constants(graph_model, input_size_limit=sys.maxsize, output_size_limit=sys.maxsize)
    for tidy in (
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
    ):
        tidy(graph_model)
    kept = set(map(id, graph_model.graph.outputs))
    for node in graph_model.graph.all_nodes():
        # torch notes at every node where in our files it came from; that is nobody's business.
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            if id(value) not in kept:
                value.shape = None


def _weights(model: Any) -> list[str]:
    """The names of the weights behind the front end.

    What hears the waveform is not for 8 bits: there they change 4 labels of 10 of HuBERT-base's, and in all later
    layers together 1 of 28 (EmoDB, random weights).
    """
    front = getattr(getattr(model, "encoder", None), "front_name", None)
    names = [name for name, _ in model.named_parameters()]
    return names if front is None else [name for name in names if not name.startswith(f"network.{front}.")]


def _learnt(graph_model: Any, weights: set[str]) -> set[str]:
    """The names of the products that have a learnt weight on one side, as it is or turned round."""
    found = set()
    for node in graph_model.graph.all_nodes():
        if node.op_type in ("MatMul", "Gemm") and any(_is_learnt(value, weights) for value in node.inputs[:2]):
            found.add(node.name)
    return found


def _is_learnt(value: Any, weights: set[str]) -> bool:
    """Whether a value is a weight, or made of weights alone by moving them about."""
    if value is None:
        return False
    if value.is_initializer():
        return value.name in weights
    made = value.producer()
    moving = ("Transpose", "Reshape", "Slice", "Split", "Concat", "Identity", "Squeeze", "Unsqueeze")
    return made is not None and made.op_type in moving and _is_learnt(made.inputs[0], weights)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's remarks on itself away: on vision models, on its own deprecations, on what it folds."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
