"""Training: the right epoch is kept, a killed run ends as if nothing had happened, memory that runs out is survived."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from auricle.models.families.cnn import network as cnn
from auricle.models.load import build_model
from auricle.preparation.prepare import LabelledClips
from auricle.preparation.windows import AudioSource, from_arrays
from auricle.recipe import Recipe, parse
from auricle.run_folder import RunFolder
from auricle.training import train as training
from auricle.training.fold import TrainingSummary
from auricle.training.loop import make_schedule
from auricle.training.progress import Epoch
from auricle.training.task import waveform_task
from tests.conftest import PITCHES, RATE, tone

LABELS = tuple(PITCHES)


def recipe(**train: object) -> Recipe:
    content = {
        "audio": {"sample_rate": RATE},
        "augment": {"shift_fraction": 0.5, "mixup_alpha": 0.3},
        "train": {"epochs": 4, "batch_size": 6, "learning_rate": 0.003, "precision": "float32", **train},
    }
    return parse(content, "test")


def sounds(count: int, seed: int) -> AudioSource:
    waves = [tone(LABELS[number % 3], 0.3 + 0.05 * (number % 4), seed * 1000 + number) for number in range(count)]
    return from_arrays([(wave * 32767).astype(np.int16)[None] for wave in waves])


def material(count: int, seed: int) -> LabelledClips:
    return LabelledClips(sounds(count, seed), np.arange(count) % 3)


LEARN, CHOOSE = material(18, 1), material(9, 2)


def train(settings: Recipe, folder: Path, stop_after: int | None = None) -> tuple[cnn.Model, list[Epoch]]:
    """Train; `stop_after` epochs, stop as a kill would: an exception that nothing expects."""
    folder.mkdir(parents=True, exist_ok=True)
    model = build_model(settings, LABELS)
    training.fit_normalization(model, LEARN, 10)
    epochs: list[Epoch] = []

    def listen(epoch: Epoch) -> None:
        epochs.append(epoch)
        if stop_after is not None and epoch.epoch > stop_after:
            raise KeyboardInterrupt

    try:
        training.train(model, settings, waveform_task(model, settings, LEARN, CHOOSE), RunFolder(folder), listen)
    except KeyboardInterrupt:
        assert stop_after is not None
    return model, epochs


def fit(
    model: cnn.Model,
    settings: Recipe,
    choose: LabelledClips,
    folder: Path,
    judged: Callable[[], dict[str, float]] | None = None,
    to_beat: float | None = None,
) -> TrainingSummary:
    """Train; `judged` gives the metrics of the validation clips, `to_beat` is what the start has."""
    task = replace(waveform_task(model, settings, LEARN, choose), to_beat=to_beat)
    if judged is not None:
        task = replace(task, validation=SimpleNamespace(metrics=judged))
    return training.train(model, settings, task, RunFolder(folder), lambda _: None)


def same(a: cnn.Model, b: cnn.Model) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ema_decay": 0.9, "load_best_model_at_end": False},
        {"gradient_accumulation_steps": 2, "lr_scheduler_type": "cosine"},
    ],
)
def test_a_stopped_and_resumed_training_ends_in_the_same_weights(tmp_path: Path, settings: dict[str, object]) -> None:
    whole, _ = train(recipe(**settings), tmp_path / "whole")

    def history(folder: Path) -> list[str]:
        return [line.split('"seconds"')[0] for line in (folder / "history.jsonl").read_text().splitlines()]

    for stop_after in (0, 1, 3):
        parts = tmp_path / f"parts-{stop_after}"
        train(recipe(**settings), parts, stop_after)
        resumed, epochs = train(recipe(**settings), parts)
        assert same(whole, resumed), stop_after
        assert [epoch.epoch for epoch in epochs] == list(range(stop_after + 1, 5))
        assert history(tmp_path / "whole") == history(parts) and len(history(parts)) == 4


@pytest.mark.parametrize("stop_after", [1])
def test_a_conformer_whose_margin_is_warming_up_is_resumed_exactly(stop_after: int, tmp_path: Path) -> None:
    content = recipe(crop_seconds=0.4, min_crop_seconds=0.2, ema_decay=0.9, epochs=3).model_dump()
    head = {"kind": "am-softmax", "margin": 0.2, "scale": 10.0, "warmup": 0.7}
    settings = parse({**content, "model": {"family": "conformer", "ensemble_baseline": False, "head": head}}, "test")
    kept, _ = train(settings, tmp_path / "whole")
    train(settings, tmp_path / "parts", stop_after)
    resumed, _ = train(settings, tmp_path / "parts")
    assert same(kept, resumed)


def test_a_half_written_checkpoint_is_not_believed(tmp_path: Path) -> None:
    whole, _ = train(recipe(), tmp_path / "whole")
    train(recipe(), tmp_path / "parts", stop_after=2)
    newest = training.last_checkpoint(tmp_path / "parts" / "checkpoints")
    assert newest is not None
    (newest / "trainer_state.json").write_text('{"epoch": 2.0, "global')
    assert training.last_checkpoint(tmp_path / "parts" / "checkpoints") != newest
    assert not newest.exists()
    resumed, _ = train(recipe(), tmp_path / "parts")
    assert same(whole, resumed)


@pytest.mark.parametrize(
    ("accuracies", "losses", "best"),
    [((0.2, 0.9, 0.5, 0.4), (1, 1, 1, 1), 2), ((0.5, 0.5, 0.5, 0.4), (1.0, 0.9, 0.7, 0.1), 3)],
)
def test_the_best_validation_epoch_is_kept_and_of_equals_the_one_with_the_lower_loss(
    accuracies: tuple[float, ...], losses: tuple[float, ...], best: int, tmp_path: Path
) -> None:
    kept: list[dict[str, torch.Tensor]] = []
    model = build_model(recipe(), LABELS)
    told = iter(zip(accuracies, losses, strict=True))

    def judged() -> dict[str, float]:
        kept.append({name: value.clone() for name, value in model.state_dict().items()})
        accuracy, loss = next(told)
        return {"balanced_accuracy": accuracy, "log_loss": loss}

    assert fit(model, recipe(), CHOOSE, tmp_path, judged).chosen_epoch == best
    assert all(torch.equal(value, kept[best - 1][name]) for name, value in model.state_dict().items())


def test_without_validation_the_last_epoch_is_kept(tmp_path: Path) -> None:
    model = build_model(recipe(), LABELS)
    nothing = LabelledClips(from_arrays([]), np.zeros(0, np.int64))
    assert fit(model, recipe(), nothing, tmp_path).chosen_epoch == 4


def test_it_learns(tmp_path: Path) -> None:
    _, epochs = train(recipe(epochs=12), tmp_path)
    assert epochs[-1].valid is not None and epochs[-1].valid["accuracy"] == 1.0
    assert epochs[-1].loss < epochs[0].loss


def test_early_stopping_stops(tmp_path: Path) -> None:
    model = build_model(recipe(), LABELS)
    trained = fit(
        model,
        recipe(epochs=20, early_stopping_patience=2),
        CHOOSE,
        tmp_path,
        lambda: {"balanced_accuracy": 0.5, "log_loss": 1.0},
    )
    assert trained.epochs == 3 and trained.chosen_epoch == 1


@pytest.mark.parametrize("schedule", ["linear", "warmup-stable-decay"])
def test_killed_after_an_early_end_it_ends_there_again(schedule: str, tmp_path: Path) -> None:
    """Later epochs would be better, so one that ran all the same would be chosen."""
    settings = recipe(epochs=20, early_stopping_patience=2, lr_scheduler_type=schedule, warmup_ratio=0.0)
    values = iter([0.5, 0.6] + [0.6] * 5 + [0.9] * 20)

    def judged() -> dict[str, float]:
        return {"balanced_accuracy": next(values), "log_loss": 1.0}

    first, again = build_model(settings, LABELS), build_model(settings, LABELS)
    ended = fit(first, settings, CHOOSE, tmp_path, judged)
    assert ended.epochs < 8 and ended.chosen_epoch == 2
    assert fit(again, settings, CHOOSE, tmp_path, judged) == ended
    assert same(first, again)


def test_training_below_its_start_goes_on_while_it_gains(tmp_path: Path) -> None:
    """The start, .9, is better than every epoch. Training ends when its own values have not risen for two epochs."""
    values = iter([0.5, 0.6, 0.7, 0.8, 0.7, 0.7, 0.7, 0.7])
    model = build_model(recipe(), LABELS)
    settings = recipe(epochs=8, early_stopping_patience=2)
    trained = fit(model, settings, CHOOSE, tmp_path, lambda: {"balanced_accuracy": next(values), "log_loss": 1.0}, 0.9)
    assert trained.epochs == 6 and trained.chosen_epoch == 0


def test_out_of_memory_halves_the_batch_and_doubles_the_accumulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = cnn.Model.forward

    def small(self: cnn.Model, input_values: torch.Tensor, *rest: object, **named: object) -> object:
        if self.training and len(input_values) > 2:
            raise torch.OutOfMemoryError("no memory for this batch")
        return forward(self, input_values, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(cnn.Model, "forward", small)
    settings = recipe(batch_size=6)
    trained = fit(build_model(settings, LABELS), settings, CHOOSE, tmp_path)
    assert (trained.batch_size, trained.gradient_accumulation_steps) == (2, 4)
    assert trained.steps == 4 * 3


def test_one_clip_that_does_not_fit_is_an_error_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: cnn.Model, *_: object, **__: object) -> object:
        raise torch.OutOfMemoryError("no memory at all")

    monkeypatch.setattr(cnn.Model, "forward", never)
    nothing = LabelledClips(from_arrays([]), np.zeros(0, np.int64))
    with pytest.raises(Exception, match=r"train\.crop_seconds lower"):
        fit(build_model(recipe(), LABELS), recipe(), nothing, tmp_path)


def test_class_weights_even_out_the_classes() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    weights = training.class_weights(labels, 2)
    assert float(weights[0]) * 90 == pytest.approx(float(weights[1]) * 10)
    assert float(weights[labels].mean()) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["one-cycle", "cosine", "linear"])
def test_schedules_warm_up_and_come_down(kind: str) -> None:
    settings = recipe(lr_scheduler_type=kind, warmup_ratio=0.2, learning_rate=0.1).train
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.1)
    steps = make_schedule(optimizer, settings, 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        steps.step()
    assert max(rates) == pytest.approx(0.1, rel=0.02) and 15 <= int(np.argmax(rates)) <= 25
    assert rates[-1] < 0.005 and rates[0] < 0.01


def test_a_one_cycle_whose_rise_is_one_step_works() -> None:
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.1)
    steps = make_schedule(optimizer, recipe(warmup_ratio=0.1, learning_rate=0.1).train, 10)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        steps.step()
    assert rates[0] < 0.01 and rates[1] == max(rates) > 0.08 and rates[-1] < 0.015


@pytest.mark.parametrize("track", ["tensorboard"])
def test_a_tracker_named_in_the_recipe_gets_the_curves(tmp_path: Path, track: str) -> None:
    settings = recipe(report_to=track, epochs=1)
    fit(build_model(settings, LABELS), settings, CHOOSE, tmp_path)
    assert list(tmp_path.rglob("events.out.tfevents*"))


def judgements(*losses: float) -> Callable[[], dict[str, float]]:
    rest = iter(losses)

    def judged() -> dict[str, float]:
        loss = next(rest, losses[-1])
        return {"balanced_accuracy": 0.5, "accuracy": 0.5, "macro_f1": 0.5, "log_loss": loss}

    return judged


STABLE = {"lr_scheduler_type": "warmup-stable-decay", "warmup_ratio": 0.0, "early_stopping_patience": 2}


@pytest.mark.parametrize(
    ("losses", "epochs"), [((1.0, 1.0, 1.0), 5), ([2.0 - 0.1 * epoch for epoch in range(20)], 20), ((1, 0.5, 0.5), 6)]
)
def test_training_ends_early_where_validation_is_flat(losses: tuple[float, ...], epochs: int, tmp_path: Path) -> None:
    settings = recipe(epochs=20, ema_decay=0.0, load_best_model_at_end=False, **STABLE)
    summary = fit(build_model(settings, LABELS), settings, CHOOSE, tmp_path, judgements(*losses))
    assert summary.epochs == epochs
    rates = [json.loads(line)["learning_rate"] for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert rates[0] == pytest.approx(0.003) and rates[-1] < 0.001


@pytest.mark.parametrize("stop_after", [2, 3, 4])
def test_a_training_that_ends_early_is_resumed_exactly(stop_after: int, tmp_path: Path) -> None:
    settings = recipe(epochs=20, ema_decay=0.9, load_best_model_at_end=False, **STABLE)
    whole, epochs = train(settings, tmp_path / "whole")
    assert len(epochs) < 20
    train(settings, tmp_path / "parts", stop_after)
    resumed, rest = train(settings, tmp_path / "parts")
    assert same(whole, resumed) and len(rest) == len(epochs) - stop_after
