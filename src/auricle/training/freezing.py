"""What of a pretrained model is trained, from which epoch on, and how fast.

In: a model of the pretrained family and its options. Out: a Learner, which is what `Trainer` trains: it holds the whole
model and shows only what is ever trained. What is frozen always runs in evaluation mode and without gradients, so that
computing it in every step or once for all is the same.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from auricle.errors import MissingExtra
from auricle.models.encoders import HEAD, place
from auricle.models.families.pretrained import Freeze, Model, Options, State, Top


@dataclass(frozen=True)
class Stage:
    """From `first_epoch` (counted from 1) on, the parts from place `depth` up are trained, at `learning_rate`."""

    first_epoch: int
    depth: int
    learning_rate: float


@dataclass(frozen=True)
class Plan:
    """The stages of a training. `depth` is the lowest that any of them trains: what lies below never changes."""

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
    """Turn the recipe's freezing, which the family has checked, into stages."""
    layers = len(model.encoder.layers)
    # The embedding takes no adapters, so with adapters it is frozen whatever is asked.
    lowest = -1 if options.lora is None else 1
    stages = [
        Stage(stage.from_epoch, max(lowest, _depth(stage.freeze, layers)), stage.learning_rate or learning_rate)
        for stage in options.asked
    ]
    return Plan(tuple(stages), options.layer_decay)


def _depth(freeze: Freeze, layers: int) -> int:
    """The lowest place that is trained."""
    if not isinstance(freeze, Top):
        return {"none": -1, "features": 0, "all": 1 + layers}[freeze]
    return 1 + layers - freeze.top


class PartiallyFrozenModel(nn.Module):
    """What is trained of a model. Its state is the part that is ever trained, and nothing else."""

    def __init__(self, model: Model, plan: Plan) -> None:
        super().__init__()
        self.model = model
        self.plan = plan
        self.stage = plan.stages[0]
        # Positions that a stock model holds fixed, and whatever stands beside adapters, stay as they are.
        weights = list(model.network.named_parameters())
        self.fixed = frozenset(name for name, weight in weights if not weight.requires_grad)
        self.places = {name: place(model.encoder, name) for name, _ in weights if name not in self.fixed}
        self.begin(1)

    def begin(self, epoch: int) -> None:
        """Enter the stage that an epoch, counted from 1, belongs to."""
        self.stage = self.plan.at(epoch)
        for name, weight in self.model.network.named_parameters():
            if name in self.places:
                weight.requires_grad_(self.places[name] >= self.stage.depth)
        self.train(self.training)

    def train(self, mode: bool = True) -> "PartiallyFrozenModel":
        """Set the mode; what is frozen in this stage stays in evaluation mode."""
        super().train(mode)
        for name, module in self.model.network.named_modules():
            module.training = mode and place(self.model.encoder, name) >= self.stage.depth
        return self

    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        rows: Tensor | None = None,
        frames: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Give logits and loss, from waveforms as a model takes them or from rows (batch, rows, width) of a prefix."""
        model, stage, learns = self.model, self.stage, torch.is_grad_enabled()
        if rows is not None:
            assert frames is not None, "rows come with their numbers of frames"
            state = unpacked(model, rows, frames, prefix_depth(model, self.plan))
        else:
            assert input_values is not None, "a batch has waveforms or rows"
            with torch.set_grad_enabled(learns and stage.depth < 0):
                state = model.hear(input_values, attention_mask)
        with torch.no_grad():
            state = model.advance(state, max(min(stage.depth, model.fixed_depths), state.depth))
        logits = model.logits(model.advance(state, model.depths))
        return SequenceClassifierOutput(loss=None if labels is None else model.loss(logits, labels), logits=logits)

    def state_dict(self, *args: Any, **named: Any) -> dict[str, Any]:  # type: ignore[override]
        """The weights that are ever trained, and statistics beside them; checkpoints hold these."""
        found = super().state_dict(*args, **named)
        return {name: value for name, value in found.items() if self._learns(name.removeprefix("model.network."))}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take up what `state_dict` gave; what is frozen is not expected. Raises RuntimeError for strange names."""
        found = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [name for name in found.missing_keys if self._learns(name.removeprefix("model.network."))]
        if strict and (missing or found.unexpected_keys):
            raise RuntimeError(f"The checkpoint lacks {missing[:3]} and has {found.unexpected_keys[:3]} too many.")
        return type(found)(missing, found.unexpected_keys)

    def _learns(self, name: str) -> bool:
        return name not in self.fixed and place(self.model.encoder, name) >= self.plan.depth

    def groups(self, decayed: Collection[str], weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser: their `scale` of the learning rate falls from layer to layer downwards.

        `decayed` names the weights that weight decay applies to.
        """
        found: dict[tuple[float, float], list[nn.Parameter]] = {}
        head = len(self.model.encoder.layers) + 1
        for name, weight in self.model.network.named_parameters():
            if self.places.get(name, -2) >= self.plan.depth:
                scale = self.plan.layer_decay ** (head - self.places[name])
                key = (scale, weight_decay if f"model.network.{name}" in decayed else 0.0)
                found.setdefault(key, []).append(weight)
        return [{"params": weights, "scale": scale, "weight_decay": decay} for (scale, decay), weights in found.items()]


def prefix_depth(model: Model, plan: Plan) -> int | None:
    """The depth up to which the model is frozen and can be computed once; None when it begins at the waveform.

    Log-mel has no weights and can be computed once even where everything is trained.
    """
    if plan.depth < 0 and model.encoder.front_name is not None:
        return None
    return min(max(plan.depth, 0), model.fixed_depths)


def packed(model: Model, state: State) -> Tensor:
    """One tensor (batch, rows, width) of a state: its summaries, then its frames."""
    parts = [summary[:, None] for summary in state.summaries]
    if state.hidden is not None:
        parts.append(state.hidden)
    return torch.cat([part.to(parts[-1].dtype) for part in parts], 1)


def unpacked(model: Model, rows: Tensor, frames: Tensor, depth: int | None) -> State:
    """The state that `packed` made the rows from."""
    assert depth is not None, "rows are only made where something is frozen"
    count = summaries(model, depth)
    hidden = rows[:, count:] if depth < model.depths else None
    return State(depth, hidden, frames, tuple(rows[:, number] for number in range(count)))


def summaries(model: Model, depth: int) -> int:
    """How many summaries a state of this depth holds."""
    if model.weighted:
        return depth
    return 1 if depth == model.depths else 0


@dataclass(frozen=True)
class Row:
    """One line of the table of what is trained; `first_epoch` is None for what never is."""

    part: str
    weights: int
    first_epoch: int | None


def table(learner: PartiallyFrozenModel) -> list[Row]:
    """What is trained and from when: convolutions, embedding, each layer, head, with their numbers of weights."""
    counts: dict[tuple[str, int | None], int] = {}
    weights = [
        (place(learner.model.encoder, name), name, weight) for name, weight in learner.model.network.named_parameters()
    ]
    for where, name, weight in sorted(weights, key=lambda row: row[0]):
        starts = [stage.first_epoch for stage in learner.plan.stages if learner.places.get(name, -2) >= stage.depth]
        key = (_title(name, where, learner.model), min(starts, default=None))
        counts[key] = counts.get(key, 0) + weight.numel()
    return [Row(part, count, epoch) for (part, epoch), count in counts.items()]


def _title(name: str, where: int, model: Model) -> str:
    if where > len(model.encoder.layers):
        return "head"
    if "lora_" in name:
        return f"adapters, layer {where}"
    return {-1: "convolutions", 0: "embedding"}.get(where, f"layer {where}")


def adapt(model: Model, options: Options, plan: Plan) -> Any:
    """Put low-rank adapters into the layers that are trained; returns what `merge` takes. Raises MissingExtra."""
    assert options.lora is not None, "only a recipe with adapters adapts"
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
        if name.startswith(HEAD):
            weight.requires_grad_(True)
    return adapters


def merge(adapters: Any) -> None:
    """Add what the adapters learnt to the weights they stand beside, and take them out."""
    adapters.merge_and_unload()
