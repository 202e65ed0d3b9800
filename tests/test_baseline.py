"""The baseline family: descriptors against librosa, exact answers from closed forms, and one clip's answer its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from torch import Tensor

from auricle import recipes
from auricle.errors import DataError
from auricle.evaluation.scoring import Scores
from auricle.models.families.baseline import Options
from auricle.models.families.baseline import network as baseline
from auricle.models.features import landmarks, ridge
from auricle.models.features.descriptors import FLOOR, Descriptors
from auricle.models.features.functionals import QUANTILES, quantiles, segment_weights, statistics
from auricle.models.features.landmarks import fit_on_landmarks
from auricle.models.features.ridge_layer import RidgeLayer
from auricle.models.options import ModelSpec
from auricle.run_folder import RunFolder
from auricle.training import closed_form
from auricle.training.progress import ProgressReporter
from auricle.training.run import run

RATE = 8000
LABELS = ("low", "high", "noise")


def sound(label: int, seconds: float, seed: int, rate: int = RATE) -> np.ndarray:
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    noise = random.normal(0, 0.1, len(time))
    if label == 2:
        return noise.astype(np.float32)
    pitch = (150.0, 380.0)[label] * random.uniform(0.9, 1.1)
    tone = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 5))
    return (0.2 * tone * np.exp(-time) + 0.05 * noise).astype(np.float32)


def padded(clips: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    size = max(map(len, clips))
    values, mask = torch.zeros(len(clips), size), torch.zeros(len(clips), size, dtype=torch.int64)
    for row, clip in enumerate(clips):
        values[row, : len(clip)] = torch.from_numpy(clip)
        mask[row, : len(clip)] = 1
    return values, mask


def make_model(rate: int = RATE, **options: int) -> baseline.Model:
    config = baseline.configure(Options(**options), ModelSpec(rate, 1, LABELS))
    return baseline.Model(config).eval()


@pytest.fixture(scope="module")
def fitted() -> baseline.Model:
    model = make_model()
    clips = [sound(number % 3, 0.3 + 0.02 * number, number) for number in range(36)]
    with torch.no_grad():
        vectors = model.embed(*padded(clips)).numpy()
    model.fit(vectors, np.arange(36) % 3, groups=np.arange(36) // 9, class_weighted=True, seed=0)
    return model


@torch.no_grad()
def test_padding_changes_no_logit(fitted: baseline.Model) -> None:
    clips = [sound(number % 3, seconds, 50 + number) for number, seconds in enumerate((0.11, 2.0, 0.5, 0.004, 0.9))]
    together = fitted(*padded(clips)).logits
    values, mask = padded([*clips, sound(0, 4.0, 9)])
    # What lies beyond the mask is not the clip's, whatever it is.
    values = torch.where(mask.bool(), values, torch.randn_like(values))
    beside_longer = fitted(values, mask).logits[:-1]
    alone = torch.cat([fitted(torch.from_numpy(clip)[None]).logits for clip in clips])
    assert alone.std() > 0.1
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(beside_longer, alone, atol=1e-4, rtol=0)


@torch.no_grad()
def test_unheard_sounds_are_told_apart(fitted: baseline.Model) -> None:
    clips = [sound(number % 3, 0.4 + 0.03 * number, 100 + number) for number in range(18)]
    logits = fitted(*padded(clips)).logits
    assert (logits.argmax(1) == torch.arange(18) % 3).all()


@torch.no_grad()
def test_saved_model_answers_exactly_alike(fitted: baseline.Model, tmp_path: Path) -> None:
    fitted.save_pretrained(tmp_path)
    again = baseline.Model.from_pretrained(tmp_path).eval()
    batch = padded([sound(0, 0.5, 70), sound(2, 0.2, 71)])
    assert torch.equal(fitted(*batch).logits, again(*batch).logits)
    assert again.config.id2label == dict(enumerate(LABELS))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("rate", [1000, 8000, 22_050, 96_000])
@torch.no_grad()
def test_silence_clicks_and_the_shortest_clip_are_finite(rate: int) -> None:
    model = make_model(rate)
    click = np.zeros(rate // 4, np.float32)
    click[rate // 8] = 1.0
    clips = [np.zeros(rate // 2, np.float32), click, np.full(3, 0.5, np.float32), np.ones(rate // 5, np.float32)]
    vectors = model.embed(*padded(clips))
    assert vectors.shape == (4, sum(model.config.part_sizes))
    assert vectors.isfinite().all()
    assert vectors.abs().max() < 1e5


@torch.no_grad()
def test_channels_are_averaged(fitted: baseline.Model) -> None:
    left, right = (torch.from_numpy(sound(label, 0.4, label))[None] for label in (0, 1))
    stereo = fitted.embed(torch.stack([left, right], 1))
    torch.testing.assert_close(stereo, fitted.embed((left + right) / 2))


def test_loss_is_the_cross_entropy_of_the_logits(fitted: baseline.Model) -> None:
    answer = fitted(*padded([sound(0, 0.5, 70), sound(2, 0.2, 71)]), labels=torch.tensor([0, 1]))
    expected = -(answer.logits[0].log_softmax(0)[0] + answer.logits[1].log_softmax(0)[1]) / 2
    torch.testing.assert_close(answer.loss, expected)


def test_cepstrum_is_librosas() -> None:
    wave = sound(0, 1.0, 3, 16_000)
    measure = Descriptors(16_000, n_mels=40, n_mfcc=20)
    frames = measure(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
    mel = librosa.feature.melspectrogram(
        y=wave, sr=16_000, n_fft=512, hop_length=160, n_mels=40, fmin=20.0, pad_mode="constant"
    )
    # Ours is scaled by the window's energy and the bands' share of the spectrum.
    scale = 16_000 / 512 / 40 / float(measure.window.square().sum())
    log_mel = 10 * np.log10(mel * scale + FLOOR)
    np.testing.assert_allclose(frames.log_mel[0].numpy(), log_mel, atol=1e-2)
    expected = librosa.feature.mfcc(S=log_mel, n_mfcc=20, dct_type=2, norm="ortho")
    np.testing.assert_allclose(frames.cepstrum[0].numpy(), expected, atol=2e-2)


def test_centroid_and_bandwidth_are_librosas() -> None:
    wave = sound(2, 0.5, 3, 16_000)
    measure = Descriptors(16_000, n_mels=40, n_mfcc=20)
    shape = measure.spectral_shape(measure.power(measure.frames(torch.from_numpy(wave)[None])))[0].T.numpy()
    power = np.abs(librosa.stft(wave, n_fft=512, hop_length=160, pad_mode="constant")) ** 2
    centroid = librosa.feature.spectral_centroid(S=power, sr=16_000)[0]
    bandwidth = librosa.feature.spectral_bandwidth(S=power, sr=16_000)[0]
    np.testing.assert_allclose(2 ** shape[0] - 50, centroid, rtol=1e-3)
    np.testing.assert_allclose(2 ** shape[1] - 50, bandwidth, rtol=1e-3)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
@pytest.mark.parametrize("hertz", [80.0, 130.0, 220.0, 400.0])
def test_pitch_of_a_harmonic_tone_is_its_fundamental(rate: int, hertz: float) -> None:
    time = np.arange(rate // 2) / rate
    wave = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 8) if hertz * k < rate / 2)
    frames = Descriptors(rate, 40, 20)(torch.from_numpy(wave).float()[None] * 0.2, torch.tensor([len(time)]))
    inside = frames.pitch[0, 0, 5:-5]
    np.testing.assert_allclose(100 * 2 ** inside.numpy(), hertz, rtol=0.02)
    assert frames.voiced[0, 5:-5].all()


def test_noise_is_not_voiced() -> None:
    wave = torch.from_numpy(sound(2, 1.0, 5))[None]
    frames = Descriptors(RATE, 40, 20)(wave, torch.tensor([wave.shape[1]]))
    assert frames.voiced.float().mean() < 0.05


def test_statistics_look_at_the_mask_alone() -> None:
    values = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(40)[None] < torch.tensor([[40], [23]])
    short = statistics(values[1:, :, :23], mask[1:, :23])
    torch.testing.assert_close(statistics(values, mask)[1:], short)
    expected = np.quantile(values[1, :, :23].numpy(), QUANTILES, axis=1).ravel()
    np.testing.assert_allclose(quantiles(values, mask)[1].numpy(), expected, atol=1e-6)
    assert (statistics(values, torch.zeros_like(mask)) == 0).all()


def test_segments_share_out_the_sounding_part() -> None:
    active = torch.zeros(3, 60, dtype=torch.bool)
    active[0, 10:50], active[1, 7:9], active[2] = True, True, True
    weights = segment_weights(active)
    torch.testing.assert_close(weights.sum(1), torch.ones(3, 10))
    assert weights[0, :10].abs().sum() == 0 and weights[0, 50:].abs().sum() == 0
    places = (weights * torch.arange(60)[None, :, None]).sum(1)
    assert (places[0].diff() > 0).all()


def test_held_out_predictions_of_any_part_equal_refitting() -> None:
    random = np.random.default_rng(0)
    vectors, weights = random.normal(size=(36, 4)), random.uniform(0.5, 2.0, 36)
    targets = random.normal(size=(36, 2))
    gram = vectors @ vectors.T
    root = torch.tensor(weights).sqrt()
    inverse = ridge.invert(torch.tensor(gram), root, 0.7)
    for part in (np.arange(36), np.flatnonzero(np.arange(36) % 6)):
        folds = [np.arange(0, 12), np.arange(12, len(part))]
        dual, held_out = ridge.solve_part(inverse, torch.tensor(targets[part]), root, part, folds)
        whole = KernelRidge(alpha=0.7, kernel="precomputed")
        whole.fit(gram[np.ix_(part, part)], targets[part], sample_weight=weights[part])
        np.testing.assert_allclose(gram[:, part] @ dual.numpy(), whole.predict(gram[:, part]), atol=1e-8)
        for fold, rest in (folds, folds[::-1]):
            judge, others, tested = KernelRidge(alpha=0.7, kernel="precomputed"), part[rest], part[fold]
            judge.fit(gram[np.ix_(others, others)], targets[others], sample_weight=weights[others])
            np.testing.assert_allclose(held_out[fold].numpy(), judge.predict(gram[np.ix_(tested, others)]), atol=1e-8)


def blobs(clips: int, seed: int, spread: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of three classes that overlap, each of two separate clouds."""
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(6, 12)) * 1.6
    cloud = random.integers(0, 6, clips)
    return (centers[cloud] + random.normal(size=(clips, 12)) * spread).astype(np.float32), cloud % 3


def accuracy(fitted: ridge.RidgeFit, vectors: np.ndarray, labels: np.ndarray) -> float:
    layer = RidgeLayer([6, 6], 3, 0)
    layer.take(fitted)
    return float((layer(torch.from_numpy(vectors)).argmax(1).numpy() == labels).mean())


def test_without_vectors_a_layer_gives_the_same_logits() -> None:
    vectors, labels = blobs(90, 5)
    fitted = ridge.fit_ridge(
        vectors, labels, None, max_support=90, sizes=[6, 6], classes=3, class_weighted=True, seed=0
    )
    with_vectors, logits_alone = RidgeLayer([6, 6], 3, 0), RidgeLayer([6, 6], 3, 0)
    logits_alone.has_vectors = False
    for layer in (with_vectors, logits_alone):
        layer.take(fitted)
    given = torch.from_numpy(vectors)
    assert torch.equal(with_vectors(given), logits_alone(given))
    assert with_vectors.within_class_damping.any() and not logits_alone.within_class_damping.any()


def test_landmarks_are_as_accurate_as_the_exact_fit_and_use_every_clip() -> None:
    vectors, labels = blobs(1600, 0)
    settings: dict[str, Any] = {"sizes": [6, 6], "classes": 3, "class_weighted": True, "seed": 0}
    exact = ridge.fit_ridge(vectors, labels, None, max_support=1600, **settings)
    near_fit = fit_on_landmarks(vectors, labels, None, landmarks=300, **settings)
    sample = ridge.fit_ridge(vectors, labels, None, max_support=300, **settings)
    assert near_fit.support.shape == (300, 12)
    # The linear classifier is the same one.
    torch.testing.assert_close(near_fit.linear, exact.linear, atol=1e-5, rtol=1e-4)
    best, near, fewer = (accuracy(fitted, *blobs(6000, 1)) for fitted in (exact, near_fit, sample))
    assert abs(near - best) < 0.005
    assert fewer < best - 0.005
    assert near_fit.loss == pytest.approx(exact.loss, abs=0.02)


def test_with_all_clips_as_landmarks_the_fit_is_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landmarks, "JITTER", 0.0)
    monkeypatch.setattr(landmarks, "BLOCK_CLIPS", 37)
    vectors, labels = blobs(150, 2)
    groups = np.arange(150) // 30
    settings: dict[str, Any] = {"sizes": [6, 6], "classes": 3, "class_weighted": True, "seed": 0}
    exact = ridge.fit_ridge(vectors, labels, groups, max_support=150, **settings)
    monkeypatch.setattr(ridge, "subsample", lambda labels, size, seed: np.arange(size))
    near = fit_on_landmarks(vectors, labels, groups, landmarks=150, **settings)
    torch.testing.assert_close(near.kernel, exact.kernel, atol=2e-3, rtol=0)
    np.testing.assert_allclose(near.factors, exact.factors, rtol=1e-2)


def test_two_landmarks_of_one_sound_are_no_failure() -> None:
    vectors, labels = blobs(400, 3)
    vectors[:200] = vectors[0]
    labels[:200] = 0
    settings: dict[str, Any] = {"sizes": [6, 6], "classes": 3, "class_weighted": False, "seed": 0}
    fitted = fit_on_landmarks(vectors, labels, None, landmarks=200, **settings)
    assert fitted.kernel.isfinite().all() and np.isfinite(fitted.loss)


def test_a_part_of_a_shared_fit_is_near_the_fit_of_that_part_alone() -> None:
    vectors, labels = blobs(300, 4)
    settings: dict[str, Any] = {"sizes": [6, 6], "classes": 3, "class_weighted": True}
    rows = np.arange(300)[np.arange(300) % 20 != 0]
    shared = ridge.FactoredRidge.of(vectors, labels, **settings).fit(rows, None, 0)
    alone = ridge.fit_ridge(vectors[rows], labels[rows], None, max_support=300, seed=0, **settings)
    layers = []
    for fitted in (shared, alone):
        layer = RidgeLayer([6, 6], 3, 0)
        layer.take(fitted)
        layers.append(layer(torch.from_numpy(vectors)).softmax(-1))
    assert (layers[0] - layers[1]).abs().max() < 0.05
    assert shared.support.shape[0] == len(rows)


@torch.no_grad()
@pytest.mark.parametrize("rate", [1000, 8000, 44_100])
def test_centers_from_a_clips_frames_are_those_of_the_cut_clip(rate: int) -> None:
    model = make_model(rate)
    clips = [sound(number % 3, seconds, number, rate) for number, seconds in enumerate((1.3, 0.61, 2.0, 0.4, 1.13))]
    values, mask = padded(clips)
    sizes = [round(seconds * rate) for seconds in (0.05, 0.6, 1.0)]
    lengths = mask.sum(1)
    whole, *centers = model.embed_centers(values, mask, {size: lengths > size for size in sizes})
    torch.testing.assert_close(whole, model.embed(values, mask), atol=1e-5, rtol=1e-5)
    hop = model.functionals.descriptors.hop_length
    for size, found in zip(sizes, centers, strict=True):
        starts = [((len(clip) - size) // 2 + hop // 2) // hop * hop for clip in clips]
        cut = [clip[start : start + size] for clip, start in zip(clips, starts, strict=True) if len(clip) > size]
        torch.testing.assert_close(found, model.embed(*padded(cut)), atol=1e-4, rtol=1e-4)


def test_contrast_is_the_loudest_fifth_over_the_faintest() -> None:
    measure = Descriptors(16_000, 40, 20)
    power = torch.from_numpy(np.random.default_rng(0).exponential(size=(1, 3, 257))).float()
    loud, faint = measure._contrast(power)
    for number, band in enumerate(measure.octaves):
        ordered = np.sort(power[..., band].numpy(), -1)
        fifth = max(1, round(0.2 * ordered.shape[-1]))
        np.testing.assert_allclose(loud[..., number], ordered[..., -fifth:].mean(-1), rtol=1e-5)
        np.testing.assert_allclose(faint[..., number], ordered[..., :fifth].mean(-1), rtol=1e-5)


def test_groups_stay_whole_in_the_inner_folds() -> None:
    labels, groups = np.arange(24) % 2, np.arange(24) // 6
    folds = ridge.inner_folds(labels, groups, seed=0)
    assert [set(groups[fold]) for fold in folds] == [{0}, {1}, {2}, {3}]
    # Where groups are the classes themselves, holding one out would leave its class unknown.
    nested = ridge.inner_folds(labels, labels, seed=0)
    assert sorted(np.concatenate(nested)) == list(range(24))
    assert all(set(labels[fold]) == {0, 1} for fold in nested)


def test_probabilities_of_pure_chance_are_modest() -> None:
    random = np.random.default_rng(0)
    vectors, labels = random.normal(size=(200, 12)), random.integers(0, 3, 200)
    model = baseline.Model(baseline.Config(part_sizes=[6, 6], num_labels=3))
    model.fit(vectors, labels, groups=np.arange(200) // 20, class_weighted=False, seed=0)
    chances = model.classify(torch.from_numpy(random.normal(size=(200, 12))).float()).softmax(-1)
    assert chances.max() < 0.6


def test_class_weights_favour_the_rare_class() -> None:
    random = np.random.default_rng(0)
    labels = (np.arange(200) % 10 == 0).astype(int)
    vectors = random.normal(size=(200, 4)) + labels[:, None]
    chosen = []
    for weighted in (False, True):
        model = baseline.Model(baseline.Config(part_sizes=[4], num_labels=2))
        model.fit(vectors, labels, groups=None, class_weighted=weighted, seed=0)
        chosen.append(int(model.classify(torch.from_numpy(vectors).float()).argmax(1).sum()))
    assert chosen[0] < chosen[1]


def test_support_is_bounded_and_a_seed_decides_it() -> None:
    random = np.random.default_rng(0)
    vectors, labels = random.normal(size=(300, 4)), np.arange(300) % 3
    kept = []
    for seed in (0, 0, 1):
        model = baseline.Model(baseline.Config(part_sizes=[4], num_labels=3, max_support=120))
        model.fit(vectors, labels, groups=None, class_weighted=True, seed=seed)
        assert model.config.n_support == 120
        kept.append(model.ridge.support_vectors)
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])


def test_one_class_is_an_error() -> None:
    model = baseline.Model(baseline.Config(part_sizes=[4], num_labels=2))
    with pytest.raises(DataError, match="two or more"):
        model.fit(np.zeros((5, 4)), np.zeros(5, int), groups=None, class_weighted=False, seed=0)


def test_many_folds_share_one_fit_and_the_report_says_so(
    make_corpus: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["data.group=name:1", "data.split=leave-one-group-out", "evaluate.bootstrap_resamples=100"]
    recipe, corpus = recipes.load("baseline", settings), make_corpus(tmp_path / "corpus", 12, 6)
    alone = run(corpus, recipe, tmp_path / "alone", ProgressReporter())
    monkeypatch.setattr(closed_form, "SHARED_CLIPS", 20)
    monkeypatch.setattr(closed_form, "SHARED_FOLDS", 6)
    said: list[str] = []
    shared = run(corpus, recipe, tmp_path / "shared", ProgressReporter(message=said.append))
    [sentence] = [line for line in said if "6 folds share" in line]
    assert sentence in shared.cautions and not any("share" in caution for caution in alone.cautions)
    assert shared.metrics["accuracy"].value == pytest.approx(alone.metrics["accuracy"].value, abs=0.1)
    logits = [Scores.load(RunFolder(tmp_path / name).scores).logits for name in ("alone", "shared")]
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.2 * np.abs(logits[0]).max()
    model = baseline.Model.from_pretrained(RunFolder(tmp_path / "shared").fold(1, "device0").model)
    assert model.config.n_support == 30
