"""The cnn family: the reference network layer for layer, and answers that depend on one clip alone."""

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor

from auricle.models.families.cnn import Options
from auricle.models.families.cnn import network as cnn
from auricle.models.layers import augment, heads, masking, pooling
from auricle.models.layers.front_end import LogMel, MelSpectrogram
from auricle.models.options import ModelSpec
from auricle.recipe import Augment

LABELS = tuple(f"class {number}" for number in range(10))
RATES = {"default": 16_000, "tutorial": 44_100}
EVERYTHING = Augment(
    shift_fraction=0.5,
    gain_db=6.0,
    noise_fraction=0.1,
    frequency_masks=1,
    frequency_mask_fraction=0.2,
    time_masks=1,
    time_mask_fraction=0.2,
    mixup_alpha=0.5,
)


def make_model(size: str, channels: int = 1) -> cnn.Model:
    torch.manual_seed(0)
    return cnn.build(Options(size=size), ModelSpec(RATES[size], channels, LABELS))


def make_batch(seconds: list[float], sample_rate: int) -> tuple[Tensor, Tensor]:
    """Noise of several loudnesses and lengths, padded right with zeros."""
    torch.manual_seed(1)
    lengths = [max(1, round(value * sample_rate)) for value in seconds]
    values, mask = torch.zeros(len(lengths), max(lengths)), torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for row, length in enumerate(lengths):
        values[row, :length] = torch.randn(length) * 0.02 * (row + 1)
        mask[row, :length] = 1
    return values, mask


@pytest.fixture(params=["default", "tutorial"])
def trained(request: pytest.FixtureRequest) -> cnn.Model:
    """A model whose normalisations have seen padded batches, so that they are not the identity."""
    model = make_model(request.param)
    values, mask = make_batch([0.5, 1.3, 4.5, 0.9], model.config.sample_rate)
    model.fit_normalization([(values, mask)])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):
        model(values, mask, torch.tensor([0, 1, 2, 3])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_tutorial_has_the_reference_shapes() -> None:
    model = make_model("tutorial", channels=2)
    shapes = []
    model.blocks[0].register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    model.blocks[-1].register_forward_hook(lambda *args: shapes.append(tuple(args[2].shape)))
    logits = model(torch.randn(16, 2, 4 * 44_100) * 0.1).logits
    assert shapes == [(16, 2, 64, 344), (16, 64, 4, 22)]
    assert logits.shape == (16, 10)


def test_tutorial_has_the_reference_weights() -> None:
    model = make_model("tutorial", channels=2)
    convolutions = [block.convolution for block in model.blocks]
    assert [layer.weight.shape[0] for layer in convolutions] == [8, 16, 32, 64]
    assert [layer.kernel_size[0] for layer in convolutions] == [5, 3, 3, 3]
    assert [layer.padding[0] for layer in convolutions] == [2, 1, 1, 1]
    assert all(not layer.bias.any() for layer in convolutions)
    fan_in = convolutions[-1].weight[0].numel()
    assert convolutions[-1].weight.std().item() == pytest.approx((2 / 1.01 / fan_in) ** 0.5, rel=0.05)


def test_padding_changes_no_logit(trained: cnn.Model) -> None:
    seconds = [0.004, 0.3, 2.0, 4.5]
    values, mask = make_batch(seconds, trained.config.sample_rate)
    with torch.no_grad():
        together = trained(values, mask).logits
        for row, length in enumerate(mask.sum(1).tolist()):
            alone = trained(values[row : row + 1, :length]).logits
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=0)
    assert together.std(0).min() > 1e-3


def test_what_lies_in_the_padding_is_not_heard(trained: cnn.Model) -> None:
    values, mask = make_batch([0.3, 1.0], trained.config.sample_rate)
    with torch.no_grad():
        torch.testing.assert_close(trained(values + (1 - mask), mask).logits, trained(values, mask).logits)


def test_padding_changes_no_training_statistic() -> None:
    model = make_model("default")
    values, _ = make_batch([1.0, 1.0], 16_000)
    mask = torch.ones_like(values)
    padded = torch.nn.functional.pad(values, (0, 8_000))
    padded_mask = torch.nn.functional.pad(mask, (0, 8_000))
    model.dropout.p = 0.0
    first = model(values, mask, torch.tensor([0, 1])).loss
    before = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
    model = make_model("default")
    model.dropout.p = 0.0
    second = model(padded, padded_mask, torch.tensor([0, 1])).loss
    torch.testing.assert_close(first, second)
    for name, value in model.named_buffers():
        if "running" in name:
            torch.testing.assert_close(value, before[name], atol=1e-5, rtol=1e-4)


def test_calibration_hears_real_frames_only() -> None:
    model = make_model("default")
    values, mask = make_batch([0.5, 2.0], 16_000)
    model.fit_normalization([(values, mask)])
    with torch.no_grad():
        logs = [model._frames(values[row, :length][None], None)[0] for row, length in enumerate(mask.sum(1).tolist())]
    frames = torch.cat([log[0, 0] for log in logs], dim=-1)
    torch.testing.assert_close(model.front_end.mean, frames.mean(-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.front_end.deviation, frames.std(-1, correction=0), atol=1e-4, rtol=1e-4)


def test_gradients_reach_every_weight(trained: cnn.Model) -> None:
    values, mask = make_batch([0.5, 1.0], trained.config.sample_rate)
    trained.train().augment = EVERYTHING
    trained(values, mask, torch.tensor([3, 4])).loss.backward()
    for name, weight in trained.named_parameters():
        if not weight.requires_grad:
            continue
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.any(), name


def test_saving_and_loading_is_exact(trained: cnn.Model, tmp_path) -> None:
    values, mask = make_batch([0.5, 1.0], trained.config.sample_rate)
    trained.save_pretrained(tmp_path)
    loaded = cnn.Model.from_pretrained(tmp_path)
    assert loaded.config.id2label == dict(enumerate(LABELS))
    with torch.no_grad():
        assert torch.equal(loaded(values, mask).logits, trained(values, mask).logits)


def test_mono_heard_by_two_channels_is_the_same_sound_twice() -> None:
    values, mask = make_batch([0.5, 1.0], 44_100)
    model = make_model("tutorial", channels=2).eval()
    with torch.no_grad():
        twice = torch.stack([values, values], dim=1)
        torch.testing.assert_close(model(values, mask).logits, model(twice, mask).logits)


def test_evaluation_ignores_augmentation(trained: cnn.Model) -> None:
    values, mask = make_batch([0.5, 1.0], trained.config.sample_rate)
    with torch.no_grad():
        plain = trained(values, mask, torch.tensor([0, 1]))
        trained.augment, trained.label_smoothing = EVERYTHING, 0.1
        trained.class_weights = torch.linspace(0.1, 2.0, 10)
        again = trained(values, mask, torch.tensor([0, 1]))
    assert torch.equal(plain.logits, again.logits)
    assert torch.equal(plain.loss, again.loss)


def test_the_same_seed_gives_the_same_training_step(trained: cnn.Model) -> None:
    values, mask = make_batch([0.5, 1.0, 0.7], trained.config.sample_rate)
    trained.train().augment = EVERYTHING
    losses = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        losses.append(trained(values, mask, torch.tensor([0, 1, 2])).loss.item())
    assert losses[0] == losses[1] != losses[2]


def test_a_small_corpus_is_learnt() -> None:
    model = make_model("default")
    time = torch.arange(8_000) / 16_000
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8) % 2
    tones = torch.stack([torch.sin(2 * torch.pi * (300.0 + 900.0 * label) * time) for label in labels.tolist()])
    values = 0.1 * tones + 0.02 * torch.randn(tones.shape, generator=generator)
    model.fit_normalization([(values, None)])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(10):
        model(values, None, labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(model.eval()(values).logits.argmax(1), labels)


def test_mel_power_is_librosas() -> None:
    signal = torch.randn(8_000, generator=torch.Generator().manual_seed(0)) * 0.1
    ours = MelSpectrogram(16_000, n_fft=512, hop_length=160, n_mels=40)(signal[None])[0]
    theirs = librosa.feature.melspectrogram(
        y=signal.numpy(), sr=16_000, n_fft=512, hop_length=160, n_mels=40, pad_mode="constant"
    )
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-3, atol=1e-6)


def test_range_lifts_what_is_further_below_the_loudest_cell() -> None:
    front_end = LogMel(MelSpectrogram(16_000, 512, 256, 40), mel_floor=1e-10, top_db=80.0)
    signal = torch.sin(torch.arange(16_000) * 0.3)
    signal[8_000:] = 0.0
    every = torch.ones(1, 1 + 16_000 // 256, dtype=torch.bool)
    ours = front_end.limit(front_end.extract(signal[None, None], every), every)[0, 0] * 10.0 / np.log(10.0)
    theirs = librosa.power_to_db(front_end.mel(signal[None])[0].numpy(), amin=1e-10, top_db=80.0)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-2)


def test_shift_keeps_every_sample_and_leaves_padding_alone() -> None:
    values = torch.zeros(2, 1, 10)
    values[0, 0], values[1, 0, :6] = torch.arange(1.0, 11.0), torch.arange(1.0, 7.0)
    lengths = torch.tensor([10, 6])
    rolled = augment.shift(values, lengths, 1.0, torch.Generator().manual_seed(3))
    assert not torch.equal(rolled, values)
    for row, length in enumerate(lengths.tolist()):
        assert sorted(rolled[row, 0, :length].tolist()) == values[row, 0, :length].tolist()
        assert not rolled[row, 0, length:].any()


def test_roll_moves_what_leaves_at_the_end_to_the_start() -> None:
    values = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 0.0]]])
    rolled = augment.roll(values, torch.tensor([4]), torch.tensor([1]))
    assert rolled.tolist() == [[[4.0, 1.0, 2.0, 3.0, 0.0]]]


def test_masks_hide_at_most_their_share() -> None:
    options = Augment(frequency_masks=1, frequency_mask_fraction=0.1, time_masks=1, time_mask_fraction=0.1)
    generator = torch.Generator().manual_seed(0)
    values, lengths = torch.ones(64, 2, 64, 344), torch.full((64,), 344)
    hidden = augment.spectrogram(values, lengths, options, generator) == 0
    num_features, frames = hidden.all(3).sum(2), hidden.all(2).sum(2)
    assert 0 < num_features.max() <= 6 and 0 < frames.max() <= 34
    assert torch.equal(hidden[:, 0], hidden[:, 1])


def test_noise_has_at_most_its_share_of_the_clips_level() -> None:
    values, mask = make_batch([0.5, 1.0], 16_000)
    added = augment.noise(values[:, None], mask.sum(1), 0.1, torch.Generator().manual_seed(0)) - values[:, None]
    for row, length in enumerate(mask.sum(1).tolist()):
        assert 0 < added[row, 0, :length].std() < 0.105 * values[row, :length].std()
        assert not added[row, 0, length:].any()


def test_mixup_mixes_sounds_and_targets_alike() -> None:
    targets = torch.eye(6)
    mixed, soft, partners = augment.mixup(targets * 7.0, targets, 0.5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixed, soft * 7.0)
    torch.testing.assert_close(soft.sum(1), torch.ones(6))
    assert sorted(partners.tolist()) == list(range(6))
    assert 0 < soft.diagonal().min() < 1


def test_soft_targets_agree_with_torchs_label_smoothing() -> None:
    logits, labels = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0])
    ours = heads.Softmax(8, 4).loss(logits, heads.soft_targets(labels, 4, smoothing=0.2))
    torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.2))


def test_pooling_hears_real_frames_only() -> None:
    values = torch.tensor([[[-3.0, -1.0, 9.0]]])
    pooled = pooling.Pooling("mean-max", values.shape[1])(values, torch.tensor([[True, True, False]]))
    assert pooled.tolist() == [[-2.0, -1.0]]


def packed(model: cnn.Model, values: torch.Tensor) -> torch.Tensor:
    every = torch.ones(1, model.front_end.mel.frames(values.shape[-1]), dtype=torch.bool)
    return model.front_end.pack(model.front_end.extract(values[:, None], every))


@pytest.mark.parametrize("size", ["default", "tutorial"])
@pytest.mark.parametrize("trains", [False, True])
def test_log_mel_computed_once_gives_the_logits_of_the_waveform(size: str, trains: bool) -> None:
    model = make_model(size).train(trains)
    # Whole hops: a padded waveform has one frame more where the last hop is not full.
    hop = model.config.hop_length / model.config.sample_rate
    values, mask = make_batch([40 * hop, 80 * hop, 400 * hop], model.config.sample_rate)
    model.fit_normalization([(values, mask)])
    model.augment = Augment(shift_fraction=0.5, gain_db=6, frequency_masks=1, time_masks=1)
    lengths = mask.sum(1)
    answers = []
    for inputs in (
        {"input_values": values, "attention_mask": mask},
        {"rows": packed(model, values), "frames": model.front_end.mel.frames(lengths)},
    ):
        torch.manual_seed(0)
        real = model._unpacked(**inputs) if "rows" in inputs else model._frames(**inputs)
        answers.append(model._features(*real, None)[0])
    # Half a step of the stored frames, by a deviation that is 0.1 at least.
    torch.testing.assert_close(answers[0], answers[1], atol=0.02, rtol=0.0)


def test_gain_on_frames_is_gain_on_the_waveform() -> None:
    front_end = LogMel(MelSpectrogram(16_000, 512, 256, 40))
    signal = 0.01 * torch.randn(2, 1, 8_000, generator=torch.Generator().manual_seed(0))
    signal[:, :, 4_000:] = 0.0
    decibels, every = torch.tensor([6.0, -6.0]), torch.ones(1, 32, dtype=torch.bool)
    louder = signal * (10 ** (decibels / 20))[:, None, None]
    ours = front_end.amplify(front_end.extract(signal, every), decibels)
    torch.testing.assert_close(ours, front_end.extract(louder, every), atol=1e-2, rtol=0.0)


def test_a_shift_by_whole_hops_moves_frames() -> None:
    model = make_model("default")
    hop = model.config.hop_length
    signal = torch.randn(1, 1, 40 * hop, generator=torch.Generator().manual_seed(0))
    every = torch.ones(1, 41, dtype=torch.bool)
    before, after = (model.front_end.extract(one, every) for one in (signal, signal.roll(5 * hop, -1)))
    # All but the frames at the seam and at the ends.
    torch.testing.assert_close(after[..., 7:39], before[..., 2:34], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(3, 5, 4, 9), (3, 5, 9)])
def test_batch_norm_of_padded_clips_is_that_of_their_real_frames_packed(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values, wanted = 3.0 * torch.randn(shape) + 2.0, torch.randn(shape)
    values[:, 2] = 0.0  # a channel that a ReLU silenced
    lengths = torch.tensor([9, 4, 1])
    real = masking.unsqueezed(masking.real(lengths, 9), values).expand(shape)
    cells = real.movedim(1, -1)[..., 0]
    layer, packed = masking.BatchNorm(5), torch.nn.BatchNorm1d(5)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2.0)
        layer.bias.normal_()
    packed.load_state_dict(layer.state_dict())
    found, expected = values.clone().requires_grad_(), values.clone().requires_grad_()
    output, reference = layer(found, lengths), packed(expected.movedim(1, -1)[cells])
    assert not output[~real].any()
    assert (output.movedim(1, -1)[cells] - reference).abs().max() < 1e-5
    (output * wanted).sum().backward()
    (reference * wanted.movedim(1, -1)[cells]).sum().backward()
    pairs = ((found.grad, expected.grad), (layer.weight.grad, packed.weight.grad), (layer.bias.grad, packed.bias.grad))
    for one, other in (*pairs, *zip(layer.buffers(), packed.buffers(), strict=True)):
        # The gradient of a silent channel is divided by the root of eps: hundreds.
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
