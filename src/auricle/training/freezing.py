"""Which parts of a pretrained model are trained, from which epoch on, and at which learning rate.

In: a model of the pretrained family and its options. Out: a PartiallyFrozenModel, which `Trainer` trains: it holds the
whole model, and its state is the trained part. The frozen part always runs in evaluation mode and without gradients, so
computing it in every step or once gives the same.
"""

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from auricle.errors import MissingExtra
from auricle.models.encoders import HEAD_NAMES, depth_of
from auricle.models.families.pretrained import Options, Top
from auricle.models.families.pretrained.network import EncoderState, Model


@dataclass(frozen=True)
class Stage:
    """From `first_epoch` (counted from 1) on, the parts from `depth` up are trained, at `learning_rate`."""

    first_epoch: int
    depth: int
    learning_rate: float


@dataclass(frozen=True)
class Plan:
    """The stages of a training. `depth` is the lowest that any of them trains: the parts below never change."""

    stages: tuple[Stage, ...]
    layer_decay: float

    @property
    def depth(self) -> int:
        return min(stage.depth for stage in self.stages)

    def is_staged(self, learning_rate: float) -> bool:
        """Whether this is more than one stage at the recipe's own learning rate."""
        return len(self.stages) > 1 or self.stages[0].learning_rate != learning_rate

    def at(self, epoch: int) -> Stage:
        """The stage that an epoch, counted from 1, belongs to."""
        return [stage for stage in self.stages if stage.first_epoch <= epoch][-1]


def plan(model: Model, options: Options, learning_rate: float) -> Plan:
    """Turn the freezing options into stages."""
    head = 1 + len(model.encoder.layers)
    # The embedding takes no adapters, so with adapters it is always frozen.
    lowest = -1 if options.lora is None else 1
    stages = []
    for stage in options.resolved_stages:
        freeze = stage.freeze
        # The probe may have chosen layers so low that fewer are left.
        top = min(freeze.top, head - 1) if isinstance(freeze, Top) else 0
        depth = head - top if isinstance(freeze, Top) else {"none": -1, "features": 0, "all": head}[freeze]
        stages.append(Stage(stage.from_epoch, max(lowest, depth), stage.learning_rate or learning_rate))
    return Plan(tuple(stages), options.layer_decay)


class PartiallyFrozenModel(nn.Module):
    """A model of which only a part is trained. Its state is the part that any stage trains."""

    def __init__(self, model: Model, plan: Plan) -> None:
        super().__init__()
        self.model = model
        self.plan = plan
        self.stage = plan.stages[0]
        # A stock model may have fixed position embeddings, and adapters leave their layers unchanged.
        weights = list(model.network.named_parameters())
        self.fixed = frozenset(name for name, weight in weights if not weight.requires_grad)
        self.depths = {name: depth_of(model.encoder, name) for name, _ in weights if name not in self.fixed}
        self.begin(1)

    def begin(self, epoch: int) -> None:
        """Enter the stage that an epoch, counted from 1, belongs to."""
        self.stage = self.plan.at(epoch)
        for name, weight in self.model.network.named_parameters():
            if name in self.depths:
                weight.requires_grad_(self.depths[name] >= self.stage.depth)
        self.train(self.training)

    def train(self, mode: bool = True) -> "PartiallyFrozenModel":
        """Set the mode; the parts that this stage freezes stay in evaluation mode."""
        super().train(mode)
        for name, module in self.model.network.named_modules():
            module.training = mode and depth_of(self.model.encoder, name) >= self.stage.depth
        return self

    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        rows: Tensor | None = None,
        frames: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Give logits and loss, from waveforms or from rows (batch, rows, width) of frozen features."""
        model, stage, is_training = self.model, self.stage, torch.is_grad_enabled()
        if rows is not None:
            assert frames is not None, "rows come with their numbers of frames"
            state = unpack_state(model, rows, frames, frozen_depth(model, self.plan))
        else:
            assert input_values is not None, "a batch has waveforms or rows"
            with torch.set_grad_enabled(is_training and stage.depth < 0):
                state = model.extract_features(input_values, attention_mask)
        with torch.no_grad():
            state = model.run_layers(state, max(min(stage.depth, model.max_frozen_depth), state.depth))
        logits = model.logits(model.run_layers(state, model.final_depth))
        return SequenceClassifierOutput(loss=None if labels is None else model.loss(logits, labels), logits=logits)

    def state_dict(self, *args: Any, **named: Any) -> dict[str, Any]:  # type: ignore[override]
        """The weights and statistics of the trained part; checkpoints hold these."""
        state = super().state_dict(*args, **named)
        return {name: value for name, value in state.items() if self._is_trained(name.removeprefix("model.network."))}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load what `state_dict` gave. Raises RuntimeError for missing and unknown names."""
        keys = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [name for name in keys.missing_keys if self._is_trained(name.removeprefix("model.network."))]
        if strict and (missing or keys.unexpected_keys):
            raise RuntimeError(f"The checkpoint lacks {missing[:3]} and has {keys.unexpected_keys[:3]} too many.")
        return type(keys)(missing, keys.unexpected_keys)

    def _is_trained(self, name: str) -> bool:
        return name not in self.fixed and depth_of(self.model.encoder, name) >= self.plan.depth

    def parameter_groups(self, decayed: Collection[str], weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser: their `scale` of the learning rate falls from layer to layer downwards.

        `decayed` names the weights that weight decay applies to.
        """
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        head = len(self.model.encoder.layers) + 1
        for name, weight in self.model.network.named_parameters():
            if self.depths.get(name, -2) >= self.plan.depth:
                scale = self.plan.layer_decay ** (head - self.depths[name])
                key = (scale, weight_decay if f"model.network.{name}" in decayed else 0.0)
                groups.setdefault(key, []).append(weight)
        return [
            {"params": weights, "scale": scale, "weight_decay": decay} for (scale, decay), weights in groups.items()
        ]


def frozen_depth(model: Model, plan: Plan) -> int | None:
    """The depth up to which the model is frozen and can be computed once; None where training begins at the waveform.

    Log-mel has no weights and can be computed once even where everything else is trained.
    """
    if plan.depth < 0 and model.encoder.feature_encoder_name is not None:
        return None
    return min(max(plan.depth, 0), model.max_frozen_depth)


def pack_state(model: Model, state: EncoderState) -> Tensor:
    """One tensor (batch, rows, width) of a state: its summaries, then its frames."""
    parts = [summary[:, None] for summary in state.pooled]
    if state.hidden is not None:
        parts.append(state.hidden)
    return torch.cat([part.to(parts[-1].dtype) for part in parts], 1)


def unpack_state(model: Model, rows: Tensor, frames: Tensor, depth: int | None) -> EncoderState:
    """The state of rows that `pack_state` gave."""
    assert depth is not None, "there are rows only where something is frozen"
    count = summary_count(model, depth)
    hidden = rows[:, count:] if depth < model.final_depth else None
    return EncoderState(depth, hidden, frames, tuple(rows[:, number] for number in range(count)))


def summary_count(model: Model, depth: int) -> int:
    """The number of summaries in a state of this depth."""
    if model.uses_weighted_sum:
        return depth
    if model.layers:
        return 2 * len(summarized_layers(model, depth))
    return 1 if depth == model.final_depth else 0


def summarized_layers(model: Model, depth: int) -> list[int]:
    """The layers whose statistics a state of this depth holds."""
    return [layer for layer in model.layers if layer < depth]


@dataclass(frozen=True)
class PartSummary:
    """A part of the model and its number of weights; `first_epoch` is None where it is never trained."""

    part: str
    weights: int
    first_epoch: int | None


def summarize(model: PartiallyFrozenModel) -> list[PartSummary]:
    """Summarize convolutions, embedding, layers and head: their weights, and the first epoch that trains them.

    Neighbouring layers with the same first epoch are one part.
    """
    encoder = model.model.encoder
    weights = [(depth_of(encoder, name), name, weight) for name, weight in model.model.network.named_parameters()]
    counts: dict[tuple[str, int, int | None], int] = {}
    for depth, name, weight in sorted(weights, key=lambda row: row[0]):
        kind = {-1: "convolutions", 0: "embedding", len(encoder.layers) + 1: "head"}.get(depth, "layer")
        if kind == "layer" and "lora_" in name:
            kind = "adapters, layer"
        starts = [stage.first_epoch for stage in model.plan.stages if model.depths.get(name, -2) >= stage.depth]
        key = (kind, depth, min(starts, default=None))
        counts[key] = counts.get(key, 0) + weight.numel()
    parts = []
    for (kind, epoch), group in itertools.groupby(counts.items(), key=lambda item: (item[0][0], item[0][2])):
        rows = list(group)
        first, last = rows[0][0][1], rows[-1][0][1]
        numbers = "" if "layer" not in kind else f" {first}" if first == last else f" {first}-{last}"
        parts.append(PartSummary(kind + numbers, sum(count for _, count in rows), epoch))
    return parts


def add_adapters(model: Model, options: Options, plan: Plan) -> Any:
    """Put low-rank adapters into the trained layers; returns the `peft.LoraModel`. Raises MissingExtra."""
    assert options.lora is not None, "the recipe has adapters"
    try:
        from peft import LoraConfig, LoraModel
    except ModuleNotFoundError as error:
        raise MissingExtra("Low-rank adapters (model.lora)", "train") from error
    config = LoraConfig(
        r=options.lora.rank,
        lora_alpha=options.lora.alpha,
        lora_dropout=options.lora.dropout,
        target_modules=list(model.encoder.lora_targets),
        layers_to_transform=list(range(max(1, plan.depth) - 1, len(model.encoder.layers))),
        layers_pattern="layers",
    )
    adapters = LoraModel(model.network, config, "default")
    for name, weight in model.network.named_parameters():
        if name.startswith(HEAD_NAMES):
            weight.requires_grad_(True)
    return adapters
