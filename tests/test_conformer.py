"""The conformer family: the reference's shapes, and padding that changes nothing in any size, pooling or head."""

from typing import Any

import pytest
import torch
from torch import nn

from auricle.models.families.conformer import Options
from auricle.models.families.conformer import network as conformer
from auricle.models.families.conformer.network import Model
from auricle.models.layers.blocks import Dropout
from auricle.models.options import ModelSpec

LABELS = ("a", "b", "c", "d")
POOLINGS = ("mean", "statistics", "attention", "mean-max")
HEADS = ("softmax", "am-softmax", "aam-softmax")


def build(size: str, num_features: int | None = None, **options: Any) -> Model:
    torch.manual_seed(0)
    checked = Options.model_validate({"size": size, "ensemble_baseline": False, **options})
    rate = 16_000 if num_features is None else 100
    return conformer.build(checked, ModelSpec(rate, 1, LABELS, num_features)).eval()


def test_the_tutorial_has_the_shapes_of_the_references_simple_network() -> None:
    model = build("tutorial", num_features=40)
    (layer,) = [block.layer for block in model.blocks]
    assert model.input_projection.weight.shape == (80, 40)
    assert layer.self_attn.num_heads == 2 and layer.self_attn.embed_dim == 80
    assert layer.linear1.weight.shape == (256, 80) and layer.linear2.weight.shape == (80, 256)
    assert model.pooling.kind == "mean"
    assert model.projection.weight.shape == (80, 80) and model.head.linear.weight.shape == (4, 80)


def test_the_reference_has_the_shapes_of_the_references_best_network() -> None:
    model = build("reference", num_features=40)
    assert model.input_projection.weight.shape == (512, 40) and len(model.blocks) == 6
    for block in model.blocks:
        assert block.attention.heads == 8 and block.attention.project.weight.shape == (3 * 8 * 64, 512)
        assert block.attention.out.weight.shape == (512, 8 * 64)
        for part in (block.feed_forward_1, block.feed_forward_2):
            assert part.up.weight.shape == (4 * 512, 512) and part.down.weight.shape == (512, 4 * 512)
        convolution = block.convolution
        assert convolution.gated.weight.shape == (2 * 2 * 512, 512)
        assert convolution.depthwise.weight.shape == (2 * 512, 1, 15) and convolution.depthwise.groups == 2 * 512
        assert convolution.out.weight.shape == (512, 2 * 512)
        assert block.attention.dropout.p == convolution.dropout.p == block.feed_forward_1.dropout.p == 0.1
    assert model.pooling.kind == "attention" and model.pooling.score.weight.shape == (1, 512)
    assert model.head.weight.shape == (4, 512)
    assert (model.head.options.kind, model.head.options.margin, model.head.options.scale) == ("am-softmax", 0.3, 15.0)


def test_a_quarter_of_the_frames_goes_through_the_default_blocks() -> None:
    model = build("default", num_features=40)
    seen = []
    model.blocks[0].register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
    with torch.inference_mode():
        model(torch.randn(2, 40, 130))
    assert seen == [(2, 33, model.config.hidden_size)]


@pytest.mark.parametrize("num_features", [None, 40])
@pytest.mark.parametrize(
    ("size", "pooling", "head"),
    [
        *(("default", pooling, head) for pooling in POOLINGS for head in HEADS),
        *(("tutorial", pooling, "softmax") for pooling in POOLINGS),
        *(("tutorial", "mean", head) for head in HEADS[1:]),
        *(("reference", pooling, head) for pooling, head in zip(POOLINGS, (*HEADS, "am-softmax"), strict=True)),
    ],
)
def test_padding_changes_nothing(size: str, pooling: str, head: str, num_features: int | None) -> None:
    model = build(size, num_features, pooling=pooling, head={"kind": head})
    torch.manual_seed(1)
    values = torch.randn(3, 9_600) * 0.1 if num_features is None else torch.randn(3, num_features, 61)
    total = values.shape[-1]
    lengths = torch.tensor([total, total // 3, 1])
    mask = (torch.arange(total)[None] < lengths[:, None]).long()
    with torch.inference_mode():
        together = model(values, attention_mask=mask).logits
        alone = torch.cat([model(row[None, ..., :size]).logits for row, size in zip(values, lengths, strict=True)])
    assert torch.isfinite(together).all() and float((together - alone).abs().max()) < 1e-4


@pytest.mark.parametrize("num_features", [None, 40])
@pytest.mark.parametrize("size", ["default", "tutorial"])
def test_gradients_reach_every_weight_with_and_without_padding(size: str, num_features: int | None) -> None:
    model = build(size, num_features).train()
    values = torch.randn(4, 16_000) * 0.1 if num_features is None else torch.randn(4, num_features, 90)
    mask = torch.ones(4, values.shape[-1], dtype=torch.int64)
    mask[2, values.shape[-1] // 2 :] = 0
    for given in (None, mask):
        model.zero_grad()
        model(values, attention_mask=given, labels=torch.tensor([0, 1, 2, 3])).loss.backward()
        for key, weight in model.named_parameters():
            assert weight.grad is not None and torch.isfinite(weight.grad).all() and weight.grad.abs().sum() > 0, key


def test_a_frame_knows_how_far_another_is_but_not_where_both_stand() -> None:
    from auricle.models.layers.blocks import batch_context, rotated

    torch.manual_seed(2)
    context = batch_context(torch.tensor([40]), 40, 8)
    queries, keys = torch.randn(1, 1, 1, 8).expand(1, 1, 40, 8), torch.randn(1, 1, 1, 8).expand(1, 1, 40, 8)
    scores = (rotated(queries, context) @ rotated(keys, context).transpose(-1, -2))[0, 0]
    assert torch.allclose(scores[3, 10], scores[20, 27], atol=1e-5)
    assert not torch.allclose(scores[3, 10], scores[3, 20], atol=1e-2)


def test_the_front_end_takes_its_statistics_from_real_frames() -> None:
    model = build("default", num_features=3)
    values = torch.randn(2, 3, 50) * 4 + 7
    mask = torch.ones(2, 50, dtype=torch.int64)
    mask[1, 20:] = 0
    model.fit_normalization([(values, mask)])
    heard = torch.cat([values[0], values[1, :, :20]], 1)
    assert torch.allclose(model.front_end.mean, heard.mean(1), atol=1e-4)
    assert torch.allclose(model.front_end.deviation, heard.std(1, correction=0), atol=1e-4)


def test_the_dropout_that_replaces_torchs_keeps_the_weights_and_the_expected_values() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.0)))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    Dropout.replace_in(network)
    assert [type(module) for module in network[1]] == [Dropout, Dropout] and [one.p for one in network[1]] == [0.1, 0]
    after = network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in after)
    values = torch.ones(1000, 1000, requires_grad=True)
    torch.manual_seed(0)
    dropped = network.train()[1](values)
    dropped.sum().backward()
    assert float(dropped.eq(0).float().mean()) == pytest.approx(0.1, abs=2e-3)
    assert float(dropped.detach().mean()) == pytest.approx(1, abs=2e-3)
    assert values.grad is not None and torch.equal(values.grad, dropped), "the gradient has the same mask"
    assert torch.equal(network.eval()[1](values), values)
