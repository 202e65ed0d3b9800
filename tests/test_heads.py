"""Heads and poolings against their published equations."""

import math

import numpy as np
import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from auricle.models.layers import heads, pooling
from auricle.models.layers.heads import MarginSoftmax, Softmax
from auricle.models.options import HeadOptions, PoolingKind
from auricle.training.loop import MarginWarmup

KINDS = ("am-softmax", "aam-softmax")


def made(kind: str, margin: float, scale: float, width: int = 8, classes: int = 5) -> MarginSoftmax:
    head = heads.build_head(
        HeadOptions.model_validate({"kind": kind, "margin": margin, "scale": scale}), width, classes
    )
    assert isinstance(head, MarginSoftmax)
    return head


def reference(kind: str, margin: float, scale: float, x: np.ndarray, w: np.ndarray, y: np.ndarray) -> float:
    """Equation 6 of Wang et al. 2018, and equation 3 of Deng et al. 2019, clip by clip in float64."""
    total = 0.0
    for row, label in zip(x.astype(np.float64), y, strict=True):
        cosines = [float(row @ one / np.linalg.norm(row) / np.linalg.norm(one)) for one in w.astype(np.float64)]
        own = cosines[label] - margin if kind == "am-softmax" else math.cos(math.acos(cosines[label]) + margin)
        others = sum(math.exp(scale * value) for number, value in enumerate(cosines) if number != label)
        total -= math.log(math.exp(scale * own) / (math.exp(scale * own) + others))
    return total / len(y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5])
def test_losses_equal_their_published_equations(kind: str, margin: float) -> None:
    torch.manual_seed(1)
    head = made(kind, margin, 15.0)
    x, y = torch.randn(16, 8), torch.randint(5, (16,))
    loss = head.loss(head(x), heads.soft_targets(y, 5))
    expected = reference(kind, margin, 15.0, x.numpy(), head.weight.detach().numpy(), y.numpy())
    assert loss.item() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_cosines_and_know_nothing_of_the_margin(kind: str) -> None:
    torch.manual_seed(2)
    head, x = made(kind, 0.4, 15.0), torch.randn(4, 8)
    cosines = torch.nn.functional.cosine_similarity(x[:, None], head.weight[None], dim=-1)
    assert torch.allclose(head(x), 15.0 * cosines, atol=1e-5)
    without = made(kind, 0.0, 15.0)
    without.weight = head.weight
    assert torch.equal(head(x), without(x))


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_margin_it_is_the_normalised_softmax(kind: str) -> None:
    torch.manual_seed(3)
    head, x, y = made(kind, 0.0, 15.0), torch.randn(6, 8), torch.randint(5, (6,))
    logits = head(x)
    plain = torch.nn.functional.cross_entropy(logits, y)
    assert head.loss(logits, heads.soft_targets(y, 5)).item() == pytest.approx(plain.item(), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_margin_makes_the_loss_harder_and_gradients_stay_finite(kind: str) -> None:
    head = made(kind, 0.3, 15.0, width=2, classes=2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    # Exactly on its own direction and exactly against it, where the angle has no derivative.
    x = torch.tensor([[2.0, 0.0], [-3.0, 0.0]], requires_grad=True)
    targets = heads.soft_targets(torch.tensor([0, 0]), 2)
    loss = head.loss(head(x), targets)
    loss.backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and torch.isfinite(head.weight.grad).all()
    assert loss.item() > torch.nn.functional.cross_entropy(head(x), targets).item()


def test_the_margin_warms_up_with_the_share_of_training_that_is_done() -> None:
    options = HeadOptions(kind="am-softmax", margin=0.2, warmup=0.5)
    head = heads.build_head(options, 4, 3)
    assert isinstance(head, MarginSoftmax) and head.margin == 0.2
    callback = MarginWarmup(torch.nn.Sequential(head))
    state, control = TrainerState(), TrainerControl()
    arguments = TrainingArguments(output_dir="unused", report_to=[], use_cpu=True)
    margins = []
    for step in (0, 1, 2, 4):
        state.global_step, state.max_steps = step, 8
        callback.on_step_begin(arguments, state, control)
        margins.append(head.margin)
    assert margins == pytest.approx([0.0, 0.05, 0.1, 0.2])
    callback.on_train_end(arguments, state, control)
    assert head.margin == 0.2


def test_the_plain_head_is_still_a_linear_layer() -> None:
    assert isinstance(heads.build_head(HeadOptions(), 4, 3), Softmax)


@pytest.mark.parametrize("kind", ["mean", "mean-max", "statistics", "attention"])
def test_poolings_hear_real_frames_only_and_are_as_wide_as_they_say(kind: PoolingKind) -> None:
    torch.manual_seed(4)
    pool = pooling.Pooling(kind, 6)
    values, real = torch.randn(2, 6, 9), torch.arange(9)[None] < torch.tensor([[9], [4]])
    pooled = pool(values, real)
    assert pooled.shape == (2, pooling.pooled_size(kind, 6))
    alone = pool(values[1:, :, :4], real[1:, :4])
    assert torch.allclose(pooled[1], alone[0], atol=1e-6)
    changed = values.clone()
    changed[1, :, 4:] = 100.0
    assert torch.equal(pool(changed, real), pooled)


def test_statistics_are_mean_and_deviation_and_one_frame_has_a_finite_one() -> None:
    values = torch.randn(1, 3, 50, dtype=torch.float64).float()
    pooled = pooling.Pooling("statistics", 3)(values, torch.ones(1, 50, dtype=torch.bool))[0].numpy()
    np.testing.assert_allclose(pooled[:3], values[0].mean(-1).numpy(), atol=1e-6)
    np.testing.assert_allclose(pooled[3:], values[0].numpy().std(-1), atol=1e-4)
    single = torch.randn(1, 3, 1, requires_grad=True)
    pooling.Pooling("statistics", 3)(single, torch.ones(1, 1, dtype=torch.bool)).sum().backward()
    assert single.grad is not None and torch.isfinite(single.grad).all()


def test_attention_weighs_frames_by_their_scores() -> None:
    pool = pooling.Pooling("attention", 1)
    assert pool.score is not None
    with torch.no_grad():
        pool.score.weight.fill_(2.0)
        pool.score.bias.zero_()
    values = torch.tensor([[[0.0, 1.0, 5.0]]])
    pooled = pool(values, torch.tensor([[True, True, False]]))
    assert pooled.item() == pytest.approx(math.exp(2.0) / (1.0 + math.exp(2.0)), abs=1e-6)
