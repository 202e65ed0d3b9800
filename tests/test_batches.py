"""Crops, windows, padding and the order of batches."""

from collections import Counter

import numpy as np

from auricle.preparation.batches import EpochBatches, TrainClips, build, collate
from auricle.preparation.windows import Window, by_length, cut_clips, from_arrays


def arrays(*lengths: int) -> list[np.ndarray]:
    return [np.arange(1, length + 1, dtype=np.int16)[None] for length in lengths]


def test_windows_cover_every_sample_and_end_with_the_clip() -> None:
    for length in (1, 99, 100, 101, 250, 1000):
        cut = cut_clips(np.array([length]), 100, 50)
        covered = np.zeros(length, bool)
        for window in cut:
            covered[window.start : window.stop] = True
            assert window.stop - window.start == min(100, length)
        assert covered.all() and cut[-1].stop == length
    assert cut_clips(np.array([1000]), None) == [Window(0, 0, 1000)]


def test_batches_by_length_stay_within_their_bound_and_lose_nothing() -> None:
    lengths = np.random.default_rng(0).integers(10, 3000, 200)
    cut = cut_clips(lengths, 1000, 750)
    batches = list(by_length(cut, 8000))
    assert sorted((w for batch in batches for w in batch), key=str) == sorted(cut, key=str)
    for batch in batches:
        longest = max(window.stop - window.start for window in batch)
        assert len(batch) == 1 or longest * len(batch) <= 8000


def test_a_clip_longer_than_the_bound_still_gets_a_batch() -> None:
    assert list(by_length(cut_clips(np.array([500]), None), 100)) == [[Window(0, 0, 500)]]


def test_building_pads_on_the_right_and_marks_what_is_real() -> None:
    values, mask = build(arrays(3, 5))
    assert values.shape == (2, 5) and mask is not None
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert values[0].tolist() == [1 / 32768, 2 / 32768, 3 / 32768, 0, 0]
    assert build(arrays(4, 4))[1] is None


def test_mono_beside_stereo_is_doubled() -> None:
    stereo = np.stack([np.full(4, 100), np.full(4, 200)]).astype(np.int16)
    values, _ = build([stereo, np.full((1, 4), 300, np.int16)])
    assert values.shape == (2, 2, 4)
    assert (values[1, 0] == values[1, 1]).all()


def clips(count: int = 50, crop: int | None = None) -> TrainClips:
    lengths = np.random.default_rng(1).integers(20, 200, count)
    return TrainClips(from_arrays(arrays(*lengths)), np.arange(count) % 3, crop)


def test_an_epoch_draws_every_clip_once_and_another_epoch_in_another_order() -> None:
    batches = EpochBatches(clips().lengths, clips().labels, 8, seed=3, balanced=False)
    first = [[draw.clip for draw in batch] for batch in batches]
    assert sorted(number for batch in first for number in batch) == list(range(50))
    assert len(first) == len(batches) == 7
    again = [[draw.clip for draw in batch] for batch in batches]
    assert again == first
    batches.set_epoch(1)
    assert [[draw.clip for draw in batch] for batch in batches] != first


def test_batches_hold_clips_of_like_length() -> None:
    material = clips(400)
    spread = []
    for batch in EpochBatches(material.lengths, material.labels, 8, seed=0, balanced=False):
        lengths = material.audio.lengths[[draw.clip for draw in batch]]
        spread.append(lengths.max() - lengths.min())
    assert np.mean(spread) < 20


def test_balanced_sampling_makes_rare_classes_common() -> None:
    labels = np.array([0] * 190 + [1] * 10)
    material = TrainClips(from_arrays(arrays(*[50] * 200)), labels, None)
    drawn: Counter[int] = Counter()
    batches = EpochBatches(material.lengths, material.labels, 10, seed=0, balanced=True)
    for epoch in range(20):
        batches.set_epoch(epoch)
        drawn.update(int(labels[draw.clip]) for batch in batches for draw in batch)
    assert abs(drawn[1] / drawn.total() - 0.5) < 0.05


def test_random_lengths_are_one_for_a_batch_and_lie_between_their_bounds() -> None:
    sounds = from_arrays([np.zeros((1, 100), np.int16) for _ in range(64)])
    material = TrainClips(sounds, np.arange(64) % 2, crop=40, min_crop=10)
    batches = EpochBatches(material.lengths, material.labels, 4, seed=5, balanced=False)
    shapes = [collate([material[draw] for draw in draws])["input_values"].shape for draws in batches]
    lengths = [shape[1] for shape in shapes]
    assert all(10 <= length <= 40 for length in lengths) and len(set(lengths)) > 5
    again = [collate([material[draw] for draw in draws])["input_values"].shape for draws in batches]
    assert shapes == again


def test_a_crop_follows_from_its_seed_alone() -> None:
    material = clips(crop=10)
    draws = next(iter(EpochBatches(material.lengths, material.labels, 8, seed=5, balanced=False)))
    first, again = (collate([material[draw] for draw in draws]) for _ in range(2))
    assert first["input_values"].shape == (8, 10)
    assert (first["input_values"] == again["input_values"]).all()
    assert "attention_mask" not in first and first["labels"].tolist() == again["labels"].tolist()
