"""One run, from a path to a report: the folder that `auricle train` leaves behind.

In: DATA, a recipe and a folder. Out: the run folder of the design. What is finished is never done twice: a fold with
scores is passed over, one with checkpoints goes on, and the end is the same as if nothing had happened.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch
from transformers import PreTrainedModel, Wav2Vec2FeatureExtractor

from auricle import hub, models
from auricle import recipe as recipes
from auricle.audio.survey import Progress, cores
from auricle.batches import Sounds, stored
from auricle.corpus import splits
from auricle.corpus.clip import Index
from auricle.corpus.splits import Fold
from auricle.errors import RunError, UsageError
from auricle.evaluation import report as reporting
from auricle.evaluation import scoring
from auricle.evaluation.page import write_page
from auricle.evaluation.scoring import Scores
from auricle.prepare import Prepared, prepare
from auricle.recipe import Recipe
from auricle.training import train as training
from auricle.training.loop import Epoch
from auricle.training.train import Material, Trained

DOUBT_FOLDS = 5
DOUBT_CLIPS = 20_000


def _ignore(*_: object) -> None:
    return None


@dataclass(frozen=True)
class Listener:
    """Who hears of a run's progress: sentences, shares of long work, epochs."""

    say: Callable[[str], None] = _ignore
    progress: Progress = _ignore
    epoch: Callable[[str, Epoch], None] = _ignore


def check_family(recipe: Recipe) -> Any:
    """The options of the recipe's family. Raises UsageError for a family or an option that is not known."""
    family = models.family(recipe.model.family)
    try:
        return family.Options.model_validate(recipe.model.options)
    except pydantic.ValidationError as error:
        known = recipes.explain(error, family.Options)
        raise UsageError(f"model section, family '{recipe.model.family}': {known}") from error


def run(data: str | Path, recipe: Recipe, out: Path, listener: Listener, *, resume: bool = False) -> dict[str, Any]:
    """Train and judge a model; returns the report. Raises AuricleError before anything is written."""
    check_family(recipe)
    if resume:
        recipe = _resumed(recipe, out)
    elif out.exists() and any(out.iterdir()):
        raise UsageError(f"'{out}' exists already. Go on with it by --resume, or name another folder with --out.")
    prepared = prepare(data, recipe, listener.progress)
    recipe = prepared.recipe
    if resume:
        _same_corpus(prepared, out)
    _lay_down(prepared, out, listener)
    measured = {"prepare_seconds": prepared.seconds}
    start = time.perf_counter()
    train_fold = _solver(prepared) if _is_solved(recipe) else _gradient(prepared)
    results = _train_all(prepared, out, train_fold, listener)
    baseline, doubted = _baseline(prepared, out, train_fold, listener)
    measured["train_seconds"] = sum(result.trained["seconds"] for result in results)
    measured["run_seconds"] = time.perf_counter() - start
    measured["clips_per_second"] = float(np.mean([result.trained["clips_per_second"] for result in results]))
    measured["peak_memory_mb"] = peak_memory_mb()
    judged = [result for result in results if result.scores is not None]
    scores = scoring.join([result.scores for result in judged if result.scores is not None])
    scores.save(out / "scores.parquet")
    report = reporting.build(
        reporting.Evidence(
            index=prepared.index,
            audit=prepared.audit,
            split=prepared.split,
            recipe=recipe,
            scores=scores,
            majority=_majority(prepared),
            baseline=scores if recipe.model.family == "baseline" else baseline,
            doubted=doubted,
            curves={result.name: result.curve for result in judged},
            chosen={result.name: result.trained["chosen"] for result in judged},
            model=_describe(results[-1]),
            work=_work(prepared, results),
            hardware=hardware(),
        )
    )
    _write_json(out / "report.json", report)
    _write_json(out / "cost.json", measured)
    (out / "model" / "README.md").write_text(hub.card(report), encoding="utf-8")
    write_page(out / "report.html", report, measured, prepared.store, prepared.positions)
    return report


@dataclass(frozen=True)
class _Result:
    """One trained fold: its folder, what training did, its curve, and its test scores (None for the final model)."""

    name: str
    folder: Path
    trained: dict[str, Any]
    curve: list[dict[str, Any]]
    scores: Scores | None


def _train_all(prepared: Prepared, out: Path, train_fold: "TrainFold", listener: Listener) -> list[_Result]:
    """Train every fold, and after several folds one model on all clips; the last result is the run's own model."""
    folds = prepared.split.folds
    if len(folds) == 1:
        return [_fold(prepared, folds[0], out, train_fold, listener)]
    results = []
    for number, fold in enumerate(folds, start=1):
        listener.say(f"Fold {number} of {len(folds)}: tests on '{fold.name}', {len(fold.test)} clips.")
        slug = re.sub(r"[^\w.-]+", "_", fold.name)
        results.append(_fold(prepared, fold, out / "folds" / f"{number:02d}-{slug}", train_fold, listener))
    listener.say("Last, the model to keep: trained on all clips; the folds above say how good it is.")
    everything = splits.whole(prepared.kept, prepared.recipe.data, prepared.audit.linked)
    results.append(_fold(prepared, everything, out, train_fold, listener))
    return results


TrainFold = Callable[[Fold, Path, Listener], tuple[PreTrainedModel, Trained, Callable[[], np.ndarray]]]


def _fold(prepared: Prepared, fold: Fold, folder: Path, train_fold: TrainFold, listener: Listener) -> _Result:
    """Train one fold unless it is finished. trained.json is written last and vouches for the rest."""
    done = folder / "trained.json"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        model, trained, judge = train_fold(fold, folder, listener)
        save_model(model, folder / "model")
        if fold.test:
            _scores(prepared, fold.test, judge(), fold.name).save(folder / "fold-scores.parquet")
        _write_json(done, {**asdict(trained), "parameters": sum(weight.numel() for weight in model.parameters())})
    history = folder / "history.jsonl"
    lines = history.read_text(encoding="utf-8").splitlines() if history.is_file() else []
    scores = Scores.load(folder / "fold-scores.parquet") if fold.test else None
    return _Result(
        fold.name, folder, json.loads(done.read_text()), [_steady(json.loads(line)) for line in lines], scores
    )


def _gradient(prepared: Prepared) -> TrainFold:
    """Training by gradient, through `transformers.Trainer`."""
    recipe = prepared.recipe

    def train_fold(fold: Fold, folder: Path, listener: Listener) -> Any:
        model = build_model(recipe, prepared.labels)
        learn, choose = _material(prepared, fold.train), _material(prepared, fold.valid)
        training.calibrate(model, learn, recipe.evaluate.batch_seconds)
        trained = training.train(model, recipe, learn, choose, folder, lambda epoch: listener.epoch(fold.name, epoch))
        sounds = _sounds(prepared, fold.test)
        return model, trained, lambda: scoring.score(model, sounds, batch_seconds=recipe.evaluate.batch_seconds)

    return train_fold


def _solver(prepared: Prepared) -> TrainFold:
    """Fitting in closed form: what does not depend on training, the embeddings, is computed once for all folds."""
    recipe = prepared.recipe
    model = build_model(recipe, prepared.labels)
    ids = [clip.id for clip in prepared.kept]
    start = time.perf_counter()
    embedded = scoring.embed(model, _sounds(prepared, ids), batch_seconds=recipe.evaluate.batch_seconds)
    row_of = {id: row for row, id in enumerate(ids)}
    rate = len(ids) / (time.perf_counter() - start)
    truth = _labels(prepared, ids)
    groups = _groups(prepared)

    def train_fold(fold: Fold, folder: Path, listener: Listener) -> Any:
        start = time.perf_counter()
        fitted = build_model(recipe, prepared.labels)
        rows = [row_of[id] for id in (*fold.train, *fold.valid)]
        fitted.solve(
            embedded[rows],
            truth[rows],
            groups[rows] if groups is not None else None,
            class_weighted=recipe.train.balance != "none",
            seed=recipe.train.seed,
        )
        tested = embedded[[row_of[id] for id in fold.test]]
        trained = Trained(1, 1, 1, len(rows), 1, time.perf_counter() - start, rate)
        return fitted, trained, lambda: scoring.score_embedded(fitted, tested)

    return train_fold


def _baseline(prepared: Prepared, out: Path, train_fold: "TrainFold", listener: Listener) -> tuple[Scores, Scores]:
    """The instant baseline on the same split, and its out-of-fold scores on all clips to doubt labels by."""
    files = (out / "doubts.parquet", out / "baseline.parquet")
    if all(file.is_file() for file in files):
        return Scores.load(files[1]), Scores.load(files[0])
    if prepared.recipe.model.family != "baseline":
        listener.say("The instant baseline, on the same split.")
        recipe = prepared.recipe.model_copy(update={"model": recipes.Model(family="baseline")})
        train_fold = _solver(replace(prepared, recipe=recipe))

    def judged(folds: Sequence[Fold]) -> Scores:
        parts = [_scores(prepared, fold.test, train_fold(fold, out, listener)[2](), fold.name) for fold in folds]
        return scoring.join(parts)

    scores = judged(prepared.split.folds)
    doubts = scores
    if len(scores) < len(prepared.kept) <= DOUBT_CLIPS:
        doubts = judged(splits.shuffled(prepared.kept, prepared.recipe.data, prepared.audit.linked))
    doubts.save(files[0])
    scores.save(files[1])
    return scores, doubts


def build_model(recipe: Recipe, labels: Sequence[str]) -> PreTrainedModel:
    """A fresh model of the recipe's family; the same seed gives the same weights."""
    family = models.family(recipe.model.family)
    assert recipe.audio.sample_rate is not None, "preparing resolves the sample rate"
    config = family.configure(
        check_family(recipe), sample_rate=recipe.audio.sample_rate, channels=recipe.audio.channels, labels=labels
    )
    config.window_seconds = recipe.evaluate.window_seconds
    config.overlap = recipe.evaluate.overlap
    torch.manual_seed(recipe.train.seed)
    model: PreTrainedModel = family.Model(config)
    return model


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write the model folder whole or not at all: under another name first."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=model.config.sample_rate, do_normalize=False, return_attention_mask=True
    ).save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def peak_memory_mb() -> float | None:
    """The most memory that this process has held, in MB; None where the system does not tell."""
    try:
        import resource
    except ModuleNotFoundError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def hardware() -> dict[str, Any]:
    """What this machine is, as far as it decides speed."""
    name = "unknown processor"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"processor": name, "cores": cores(), "accelerator": gpu, "bf16": training.native_bf16()}


def _is_solved(recipe: Recipe) -> bool:
    return hasattr(models.family(recipe.model.family).Model, "solve")


def _material(prepared: Prepared, ids: Sequence[str]) -> Material:
    return Material(_sounds(prepared, ids), _labels(prepared, ids))


def _sounds(prepared: Prepared, ids: Sequence[str]) -> Sounds:
    places = prepared.positions
    return stored(prepared.store, [places[id] for id in ids])


def _labels(prepared: Prepared, ids: Sequence[str]) -> np.ndarray:
    number = {label: place for place, label in enumerate(prepared.labels)}
    label_of = {clip.id: clip.label for clip in prepared.kept}
    return np.array([number[label_of[id]] for id in ids], dtype=np.int64)


def _groups(prepared: Prepared) -> np.ndarray | None:
    if not all(clip.group is not None for clip in prepared.kept):
        return None
    return np.array([clip.group for clip in prepared.kept])


def _scores(prepared: Prepared, ids: Sequence[str], logits: np.ndarray, fold: str) -> Scores:
    clips = {clip.id: clip for clip in prepared.kept}
    places = prepared.positions
    return Scores(
        labels=prepared.labels,
        ids=tuple(ids),
        truth=_labels(prepared, ids),
        logits=logits,
        seconds=np.array([prepared.store.facts[places[id]].seconds for id in ids]),
        groups=tuple(clips[id].group for id in ids),
        folds=(fold,) * len(ids),
    )


def _majority(prepared: Prepared) -> Scores:
    """What one gets by always saying the commonest class of the training part: log priors as logits."""
    parts = []
    for fold in prepared.split.folds:
        counts = np.bincount(_labels(prepared, fold.train), minlength=len(prepared.labels))
        priors = np.log((counts + 1) / (counts + 1).sum()).astype(np.float32)
        parts.append(_scores(prepared, fold.test, np.tile(priors, (len(fold.test), 1)), fold.name))
    return scoring.join(parts)


def _describe(result: _Result) -> dict[str, Any]:
    config = json.loads((result.folder / "model" / "config.json").read_text(encoding="utf-8"))
    return {
        "type": config["model_type"],
        "parameters": result.trained["parameters"],
        "sample_rate": config["sample_rate"],
        "channels": config["channels"],
    }


def _work(prepared: Prepared, results: Sequence[_Result]) -> dict[str, Any]:
    return {
        "audio_seconds": prepared.audit.durations.total,
        "trainings": len(results),
        "epochs": sum(result.trained["epochs"] for result in results),
        "steps": sum(result.trained["steps"] for result in results),
        "batch_size": results[-1].trained["batch_size"] * results[-1].trained["accumulation"],
    }


def _steady(line: dict[str, Any]) -> dict[str, Any]:
    """A line of history without what the clock measured."""
    return {name: line[name] for name in ("epoch", "loss", "learning_rate", "valid")}


def _lay_down(prepared: Prepared, out: Path, listener: Listener) -> None:
    out.mkdir(parents=True, exist_ok=True)
    prepared.recipe.save(out / "recipe.yaml")
    prepared.index.save(out / "index.parquet")
    prepared.split.save(out / "split.json")
    prepared.audit.save(out / "audit.json")
    listener.say(prepared.index.recognised)
    listener.say(f"Split: {prepared.split.described}.")
    for note in prepared.split.notes:
        listener.say(note)
    if prepared.audit.quarantined:
        listener.say(f"{len(prepared.audit.quarantined)} clips are unusable and set aside: audit.json names them.")


def _resumed(recipe: Recipe, out: Path) -> Recipe:
    """The recipe of the run that goes on; another one is refused, since the end would be neither's."""
    path = out / "recipe.yaml"
    if not path.is_file():
        return recipe
    begun = recipes.load(path)
    asked = recipe if recipe.audio.sample_rate else recipe.replace("audio", sample_rate=begun.audio.sample_rate)
    if begun != asked:
        changed = [name for name in Recipe.model_fields if getattr(begun, name) != getattr(asked, name)]
        raise UsageError(
            f"The run in '{out}' was begun with another recipe (section {', '.join(changed)} differs). "
            "Resume with the recipe and settings it was begun with, or begin a new run with another --out."
        )
    return begun


def _same_corpus(prepared: Prepared, out: Path) -> None:
    path = out / "index.parquet"
    if path.is_file():
        begun = Index.load(path)
        if [clip.id for clip in begun] != [clip.id for clip in prepared.index]:
            raise RunError(f"The corpus is not the one that the run in '{out}' was begun on. Begin a new run.")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)
