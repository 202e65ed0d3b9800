"""Groups by evidence: a planted speaker is found, tags that do not matter are not, and the split keeps them apart."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from auricle import recipes
from auricle.corpus.structure import Field
from auricle.evaluation.leakage import HeldOutFit, Leakage, choose_group, measure
from auricle.models.features.functionals import Functionals
from auricle.training.grouping import inspect

RATE = 8000
SEEDS = range(20)
CLASSES = ("hum", "buzz", "chirp")


def recording(label: int, device: int | None, seed: int) -> np.ndarray:
    """Half a second of one of three classes, through the resonances of a device: float (samples,)."""
    random = np.random.default_rng(seed)
    time = np.arange(RATE // 2) / RATE
    pitch = (300, 350, 400)[label] * random.uniform(0.7, 1.4)
    wave = np.sign(np.sin(2 * np.pi * pitch * time)) * random.uniform(0.3, 1) + random.normal(0, 0.6, len(time))
    if device is not None:
        own = np.random.default_rng(900 + device)
        taps = own.normal(0, 1, 24) * np.exp(-np.arange(24) / 6)
        wave = np.convolve(wave, taps / np.linalg.norm(taps), "same")
    return np.asarray(0.2 * wave / np.abs(wave).max())


def corpus(seed: int, planted: bool) -> tuple[list[str], np.ndarray, list[np.ndarray]]:
    """Names with a counter, a random tag and a device number, class numbers, and recordings.

    With `planted`, each device has a sound, and half of the devices recorded one class mostly.
    """
    random = np.random.default_rng(seed)
    names, labels, waves = [], [], []
    for number in range(120):
        device = int(random.integers(8))
        label = int(random.integers(3)) if random.random() < 0.3 or not planted else device % 3
        tag = "".join(random.choice(list("abcd"), 2))
        names.append(f"{CLASSES[label]}/d{device}-{tag}-{number:03d}.wav")
        labels.append(label)
        waves.append(recording(label, device if planted else None, 1000 * seed + number))
    return names, np.array(labels), waves


def vectors(waves: list[np.ndarray]) -> np.ndarray:
    functionals = Functionals(RATE, 40, 20).eval()
    batch = torch.tensor(np.stack(waves), dtype=torch.float32)
    lengths = torch.full((len(waves),), batch.shape[1])
    with torch.no_grad():
        return torch.cat(list(functionals(batch, lengths).values()), 1).numpy()


def decide(seed: int, planted: bool) -> Leakage | None:
    from auricle.corpus.structure import group_fields

    names, labels, waves = corpus(seed, planted)
    fit = HeldOutFit(vectors(waves), labels)
    fields = group_fields(names, {}, [CLASSES[label] for label in labels])
    assert {"name:1", "name:2"} <= {field.key for field in fields}
    return choose_group([measure(fit, field, seed) for field in fields], fields)


def test_counters_and_random_tags_are_no_groups() -> None:
    assert sum(decide(seed, planted=False) is not None for seed in SEEDS) <= 1


def test_a_planted_device_is_found_every_time() -> None:
    chosen = [decide(seed, planted=True) for seed in SEEDS]
    assert [leakage and leakage.key for leakage in chosen] == ["name:1"] * len(SEEDS)
    for leakage in chosen:
        assert leakage is not None and leakage.random_accuracy > leakage.grouped_accuracy
        assert leakage.difference.low < leakage.difference.value < leakage.difference.high


def test_the_speaker_is_kept_together_and_not_the_accent_or_the_sentence() -> None:
    fields = [
        Field("column:accent", "", tuple(str(clip // 4 % 5) for clip in range(80))),
        Field("column:speaker", "", tuple(str(clip // 4) for clip in range(80))),
        Field("column:utterance", "", tuple(str(clip // 2) for clip in range(80))),
    ]

    def leakage(field: Field, margin: float) -> Leakage:
        from auricle.evaluation.intervals import Interval

        return Leakage(field.key, "", len(field.counts), 0.9, 0.7, Interval(0.2, 0.1, 0.3), margin, True)

    assert choose_group([leakage(f, m) for f, m in zip(fields, (0.30, 0.28, 0.05), strict=True)], fields).key == (
        "column:speaker"
    )
    assert choose_group([leakage(f, m) for f, m in zip(fields, (0.30, 0.10, 0.05), strict=True)], fields).key == (
        "column:accent"
    )


def test_the_margins_of_held_out_clips_are_those_of_fitting_without_them() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 40)
    rows = random.normal(size=(40, 6)) + labels[:, None]
    folds = random.integers(0, 4, 40)
    from auricle.models.features.ridge import LINEAR_RIDGE

    standard = (rows - rows.mean(0)) / rows.std(0)
    targets = np.eye(3)[labels] - np.eye(3)[labels].mean(0)
    expected = np.empty(40)
    for fold in range(4):
        train, test = folds != fold, folds == fold
        gram = standard[train] @ standard[train].T / 6 + LINEAR_RIDGE * np.eye(train.sum())
        scores = standard[test] @ standard[train].T / 6 @ np.linalg.solve(gram, targets[train])
        true = scores[np.arange(len(scores)), labels[test]].copy()
        scores[np.arange(len(scores)), labels[test]] = -np.inf
        expected[test] = true - scores.max(1)
    np.testing.assert_allclose(HeldOutFit(rows, labels).margins(folds), expected, atol=1e-9)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("planted") / "corpus"
    names, _, waves = corpus(3, planted=True)
    for name, wave in zip(names, waves, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, wave, RATE, subtype="PCM_16")
    return root


def test_inspect_names_the_group_with_its_evidence_and_the_option(planted: Path) -> None:
    inspected = inspect(planted, recipes.load("baseline"), lambda done, total: None)
    assert inspected.audit.groups == 8 and inspected.split is not None and inspected.split.grouped
    text = str(inspected)
    assert "Groups: the first part of the file name, name:1 (8 values such as 'd" in text
    assert "`--group none`" in text and "kept apart" in text
    assert inspected.as_json()["grouping"] == inspected.grouping


def test_groups_that_are_ignored_are_named_with_what_that_costs(planted: Path) -> None:
    recipe = recipes.load("baseline", (), {"group": "none"})
    inspected = inspect(planted, recipe, lambda done, total: None)
    assert inspected.audit.groups == 0
    assert "gives the class away" in inspected.grouping and "`--group name:1`" in inspected.grouping


def test_training_says_what_inspect_says_and_keeps_the_group_apart(planted: Path, tmp_path: Path) -> None:
    from auricle.corpus.clip import Index
    from auricle.corpus.splits import crossing_groups, load
    from auricle.run_folder import RunFolder
    from auricle.training.progress import ProgressReporter
    from auricle.training.run import run

    recipe = recipes.load("baseline", ("evaluate.bootstrap_resamples=100",), {"embed_audio": False})
    inspected = inspect(planted, recipe, lambda done, total: None)
    messages: list[str] = []
    run(planted, recipe, tmp_path / "run", ProgressReporter(messages.append))
    for note in inspected.notes:
        assert note in messages
    index = Index.load(RunFolder(tmp_path / "run").index)
    split = load(RunFolder(tmp_path / "run").split, index)
    assert {clip.group for clip in index} == {f"d{n}" for n in range(8)}
    assert not any(crossing_groups(index, fold) for fold in split.folds)
