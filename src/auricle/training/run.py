"""One run, from a path to a report: the folder that `auricle train` leaves behind.

In: DATA, a recipe and a folder. Out: the run folder of the design. What is finished is never done twice: a fold with
scores is passed over, one with checkpoints goes on, and the end is the same as if nothing had happened.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from auricle import recipe as recipes
from auricle.corpus import splits
from auricle.corpus.clip import Index
from auricle.corpus.splits import Fold
from auricle.errors import RunError, UsageError
from auricle.evaluation import duration, open_set, scoring
from auricle.evaluation import report as reporting
from auricle.evaluation.model_card import card, dataset_of
from auricle.evaluation.page import write_page
from auricle.evaluation.rejection import Draws, RejectionReport, by_classes, by_mistakes
from auricle.evaluation.scoring import Scores
from auricle.evaluation.seeds import spread
from auricle.models.load import check_frames, is_fitted, is_pretrained, settle
from auricle.models.precision import native_bf16
from auricle.parallel import cores
from auricle.preparation.prepare import Prepared, prepare
from auricle.recipe import Recipe
from auricle.training import tracking
from auricle.training import train as training
from auricle.training.cross_validation import (
    ProgressReporter,
    Result,
    TrainFold,
    closed_form_trainer,
    from_scratch,
    labels_of,
    scores_of,
    train_all,
    train_one,
    write_json,
)
from auricle.training.finetune import Timed, by_finetuning

# Judging every label takes five more fits, whose cost grows with the cube of the clips: seconds up to here.
DOUBT_CLIPS = 4000


def run(
    data: str | Path, recipe: Recipe, out: Path, listener: ProgressReporter, *, resume: bool = False
) -> dict[str, Any]:
    """Train and judge a model; returns the report. Raises AuricleError before anything is written."""
    recipe = settle(recipe)
    training.check_tracker(recipe.train)
    if resume:
        recipe = _resumed(recipe, out)
    elif out.exists() and any(out.iterdir()):
        raise UsageError(f"'{out}' exists already. Go on with it by --resume, or name another folder with --out.")
    prepared = prepare(data, recipe, listener.progress)
    recipe = prepared.recipe
    check_frames(recipe)
    if resume:
        _same_corpus(prepared, out)
    write_metadata(prepared, out, listener)
    measured: dict[str, float | None] = {"prepare_seconds": prepared.seconds}
    start = time.perf_counter()
    train_fold = _trainer(prepared, listener, measured.__setitem__)
    results = train_all(prepared, out, train_fold, listener)
    again = {seed: _train_again(prepared, seed, out, listener) for seed in _further_seeds(recipe)}
    everything = [*results, *(result for repeated in again.values() for result in repeated)]
    baseline, suspect_labels = _baseline(prepared, out, train_fold, listener)
    measured["train_seconds"] = sum(result.trained["seconds"] for result in everything)
    measured["run_seconds"] = time.perf_counter() - start
    measured["clips_per_second"] = float(np.mean([result.trained["clips_per_second"] for result in results]))
    measured["peak_memory_mb"] = peak_memory_mb()
    judged = [result for result in results if result.scores is not None]
    scores = _scores_of(judged)
    scores.save(out / "scores.parquet")
    report = reporting.build(
        reporting.ReportInputs(
            index=prepared.index,
            audit=prepared.audit,
            split=prepared.split,
            recipe=recipe,
            scores=scores,
            majority=_majority(prepared),
            baseline=scores if recipe.model.family == "baseline" else baseline,
            suspect_labels=suspect_labels,
            refusal=_refusal(prepared, results, scores),
            cuts=_joined([result.cuts for result in judged]),
            trained_seconds=_trained_seconds(prepared),
            curves={result.name: result.curve for result in judged},
            chosen={result.name: result.trained["chosen"] for result in judged},
            model=_describe(results[-1]),
            work=_work(prepared, everything),
            hardware=hardware(),
        )
    )
    if again:
        repeated = [_scores_of(results) for results in again.values()]
        report["seeds"] = spread([recipe.train.seed, *again], [scores, *repeated], recipe.evaluate.top_k)
    write_json(out / "report.json", report)
    write_json(out / "cost.json", measured)
    readme = card(report, measured, dataset=dataset_of(prepared.index))
    (out / "model" / "README.md").write_text(readme, encoding="utf-8")
    write_page(out / "report.html", report, measured, prepared.store, prepared.positions)
    tracking.finish(recipe, out, report)
    return report


def _trainer(prepared: Prepared, listener: ProgressReporter, timed: Timed) -> TrainFold:
    """What trains one fold of the recipe's family: in closed form, from a checkpoint, or from scratch."""
    recipe = prepared.recipe
    if is_fitted(recipe):
        return closed_form_trainer(prepared)
    if is_pretrained(recipe):
        return tracking.followed(by_finetuning(prepared, listener, timed), recipe)
    return tracking.followed(from_scratch(prepared), recipe)


def _further_seeds(recipe: Recipe) -> range:
    first = recipe.train.seed
    return range(first + 1, first + recipe.train.seeds)


def _train_again(prepared: Prepared, seed: int, out: Path, listener: ProgressReporter) -> list[Result]:
    """Train the folds of the same split from another seed; no model of all clips, since none is kept.

    A family that is fitted in closed form is fitted again too: what little it draws comes from the seed.
    """
    listener.say(f"Once more from seed {seed}, on the same split.")
    prepared = replace(prepared, recipe=prepared.recipe.replace("train", seed=seed))
    folds = prepared.split.folds
    train_fold = _trainer(prepared, listener, lambda *_: None)
    folder = out / "seeds" / f"{seed:02d}"
    if len(folds) == 1:
        return [train_one(prepared, folds[0], folder, train_fold, listener)]
    return [
        train_one(prepared, fold, folder / "folds" / f"{number:02d}", train_fold, listener)
        for number, fold in enumerate(folds, start=1)
    ]


def _scores_of(results: Sequence[Result]) -> Scores:
    return scoring.join([result.scores for result in results if result.scores is not None])


def _joined(parts: Sequence[Scores | None]) -> Scores | None:
    """The scores of several folds as one; None where there are none."""
    found = [part for part in parts if part is not None]
    return scoring.join(found) if found else None


def _refusal(prepared: Prepared, results: Sequence[Result], scores: Scores) -> RejectionReport | None:
    """What refusing is worth, where the recipe asks for it. The last result is the kept model: it gets a threshold."""
    recipe = prepared.recipe
    target = open_set.wanted(recipe)
    if target is None:
        return None
    draws = Draws(recipe.evaluate.bootstrap_resamples, recipe.train.seed, prepared.index.group_name)
    kept = results[-1].out_of_set
    if kept is None:
        found = by_mistakes(scores, _joined([result.valid for result in results]), target, draws)
    else:
        asked = [result.out_of_set for result in results if result.scores is not None and result.out_of_set is not None]
        found = by_classes(scores, open_set.join(asked), kept, target, draws)
    path = results[-1].folder / "model" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**config, "threshold": found.threshold, "max_false_accept_rate": found.target})
    return found


def _trained_seconds(prepared: Prepared) -> dict[str, tuple[float, float]]:
    """The shortest and longest stretch that the training of each fold heard; closed form hears whole clips."""
    crop = None if is_fitted(prepared.recipe) else prepared.recipe.train.crop_seconds
    facts, places = prepared.store.facts, prepared.positions
    return {
        fold.name: duration.stretches(np.array([facts[places[id]].seconds for id in fold.train]), crop)
        for fold in prepared.split.folds
    }


def _baseline(
    prepared: Prepared, out: Path, train_fold: TrainFold, listener: ProgressReporter
) -> tuple[Scores, Scores | None]:
    """The instant baseline on the same split; and, to doubt labels by, on folds that ignore groups.

    A model that knows a clip's group but not the clip may doubt its label; one that never heard the speaker may not.
    """
    baseline, doubts = out / "baseline.parquet", out / "doubts.parquet"
    doubting = len(prepared.kept) <= DOUBT_CLIPS
    if not baseline.is_file():
        if prepared.recipe.model.family != "baseline":
            listener.say("The instant baseline, on the same split.")
            recipe = prepared.recipe.model_copy(update={"model": recipes.Model(family="baseline")})
            train_fold = closed_form_trainer(replace(prepared, recipe=recipe))

        def judged(folds: Sequence[Fold]) -> Scores:
            asked = ((fold, train_fold(fold, out, listener).judge) for fold in folds)
            return scoring.join(
                [scores_of(prepared, fold.test, judge.clips(fold.test), fold.name) for fold, judge in asked]
            )

        if doubting:
            judged(splits.shuffled(prepared.kept, prepared.recipe.data, prepared.audit.duplicate_groups)).save(doubts)
        judged(prepared.split.folds).save(baseline)
    return Scores.load(baseline), Scores.load(doubts) if doubting else None


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
    return {"processor": name, "cores": cores(), "accelerator": gpu, "bf16": native_bf16()}


def _majority(prepared: Prepared) -> Scores:
    """What one gets by always saying the commonest class of the training part: log priors as logits."""
    parts = []
    for fold in prepared.split.folds:
        counts = np.bincount(labels_of(prepared, fold.train), minlength=len(prepared.labels))
        priors = np.log((counts + 1) / (counts + 1).sum()).astype(np.float32)
        parts.append(scores_of(prepared, fold.test, np.tile(priors, (len(fold.test), 1)), fold.name))
    return scoring.join(parts)


def _describe(result: Result) -> dict[str, Any]:
    config = json.loads((result.folder / "model" / "config.json").read_text(encoding="utf-8"))
    return {
        "type": config["model_type"],
        "base_model": config.get("base_model"),
        "pretrained": "base_model" in config,
        "parameters": result.trained["parameters"],
        "temperature": result.trained.get("temperature", 1.0),
        "sample_rate": config["sample_rate"],
        "channels": config["channels"],
        "num_features": config.get("num_features"),
    }


def _work(prepared: Prepared, results: Sequence[Result]) -> dict[str, Any]:
    return {
        "audio_seconds": prepared.audit.durations.total,
        "trainings": len(results),
        "epochs": sum(result.trained["epochs"] for result in results),
        "steps": sum(result.trained["steps"] for result in results),
        "batch_size": results[-1].trained["batch_size"] * results[-1].trained["accumulation"],
    }


def write_metadata(prepared: Prepared, out: Path, listener: ProgressReporter) -> None:
    out.mkdir(parents=True, exist_ok=True)
    prepared.recipe.save(out / "recipe.yaml")
    prepared.index.save(out / "index.parquet")
    prepared.split.save(out / "split.json")
    prepared.audit.save(out / "audit.json")
    listener.say(prepared.index.description)
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
    asked, found = recipe, begun.audio
    if found.num_features is not None and recipe.audio.num_features is None:
        asked = recipe.replace("audio", num_features=found.num_features, sample_rate=found.sample_rate)
    elif recipe.audio.sample_rate is None:
        asked = recipe.replace("audio", sample_rate=found.sample_rate)
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
        if [(clip.id, clip.label) for clip in begun] != [(clip.id, clip.label) for clip in prepared.index]:
            raise RunError(f"The corpus is not the one that the run in '{out}' was begun on. Begin a new run.")
