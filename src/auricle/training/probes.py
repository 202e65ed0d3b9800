"""Probes of encoders that are on this machine already: the probe of every report, and the recipe that is the default.

In: a corpus. Out: which cached encoder has the least log-loss on held-out groups of the training clips of the first
fold, its scores on the run's own split, and whether it beats the instant baseline by the same measure. Test clips
choose nothing, nothing is downloaded, and at most two encoders within `MAX_COST` are tried: one pass over the audio.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from auricle import recipes
from auricle.errors import UsageError
from auricle.evaluation.build_report import ProbeScores
from auricle.models import catalogue, registration
from auricle.models.catalogue import AUDIOSET, CachedEncoder, Encoder
from auricle.preparation.formatting import duration, file_size
from auricle.preparation.prepare import PreparedCorpus, decode, decode_for, read, with_split
from auricle.recipe import Model, Recipe
from auricle.run_folder import RunFolder, atomic_write
from auricle.training.progress import ProgressReporter

# Parameters of the encoder times seconds of audio. One core takes Whisper tiny.en (8.2 million) over 1.9 hours of audio
# a minute and a half, measured; the limit is seven hours of it, or five minutes.
MAX_COST = 2e11
# Clips of the fits of all folds, cubed: twenty fits of 6000 clips.
MAX_FITS = 20 * 6000**3


@dataclass(frozen=True)
class Trial:
    """An encoder, the corpus decoded for its probe, and the log-loss in nats of held-out training clips."""

    encoder: Encoder
    corpus: PreparedCorpus
    weights: str
    loss: float


def score_probe(corpus: PreparedCorpus, folder: RunFolder, weights: str, reporter: ProgressReporter) -> ProbeScores:
    """The probe of the best cached encoder on the run's split. `weights` is the hash of the run's own encoder."""
    if corpus.recipe.audio.num_features is not None:
        return ProbeScores("")
    cached = catalogue.cached_encoders()
    if not cached:
        return _reported(reporter, f"No pretrained encoder is cached, so no probe is compared. {_fetch_commands()}")
    affordable = within_budget(cached, corpus.audit.durations.total)
    fits = len(corpus.split.folds) * min(len(corpus.usable), 6000) ** 3
    if not affordable or fits > MAX_FITS:
        return _reported(reporter, _too_costly(cached[0], corpus))
    base = recipes.load("probe").model_copy(update={"data": corpus.recipe.data})
    base = base.replace("train", seed=corpus.recipe.train.seed)
    audio = corpus.recipe.audio
    base = base.replace("audio", min_seconds=audio.min_seconds, max_seconds=audio.max_seconds)
    trials, failed = _try(affordable, corpus, base, reporter)
    if not trials:
        return _reported(reporter, failed)
    best = min(trials, key=lambda trial: trial.loss)
    losses = {trial.encoder.name: trial.loss for trial in trials}
    reason = f" (held-out log-loss: {_listed(trials)}).{failed}"
    if best.weights == weights:
        return ProbeScores(f"This model is itself the probe of a cached encoder, {best.encoder.name}{reason}")
    note = f"The probe on the same split is of the cached encoder {best.encoder.name}{reason}"
    reporter.message(note)
    # Training needs torch, which choosing a recipe does without where nothing is cached.
    from auricle.training.closed_form import closed_form_trainer
    from auricle.training.cross_validation import cross_validate

    scores = cross_validate(
        best.corpus, corpus.split.folds, closed_form_trainer(best.corpus, has_vectors=False), folder
    )
    with atomic_write(folder.probe_scores) as partial:
        scores.save(partial)
    return ProbeScores(note, best.encoder.name, scores, losses)


def choose_recipe(
    data: str | Path, recipe: Recipe, alternative: Recipe | None, reporter: ProgressReporter, resumed: Path | None
) -> Recipe:
    """The recipe for a corpus where the user named none: `alternative`, a probe, of the best cached encoder if that
    beats the instant baseline on held-out training clips; else `recipe`. One message says which and why.

    A run that is `resumed`, by its folder, has chosen already.
    """
    if alternative is None:
        return recipe
    if resumed is not None and (started := RunFolder(resumed).recipe).is_file():
        model = recipes.load(started).model
        return alternative.model_copy(update={"model": model}) if model.family == alternative.model.family else recipe
    cached = catalogue.cached_encoders()
    if not cached:
        return recipe
    index = read(data, recipe)
    if index.num_features is not None:
        return recipe
    corpus = decode(index, recipe, reporter.progress)
    affordable = within_budget(cached, corpus.audit.durations.total)
    if not affordable:
        reporter.message(f"Recipe {recipe.name}. {_too_costly(cached[0], corpus)}")
        return recipe
    from auricle.training.grouping import decide_groups

    # Decoded as the probe's own run will decode it, and so divided as that will be.
    corpus = decode(index, _probe(alternative, affordable[0]), reporter.progress)
    corpus = with_split(corpus, decide_groups(corpus).index)
    trials, failed = _try(affordable, corpus, alternative, reporter)
    if not trials:
        reporter.message(f"Recipe {recipe.name}.{failed}")
        return recipe
    best, baseline = min(trials, key=lambda trial: trial.loss), _baseline_loss(corpus)
    measured = f"log-loss on held-out training clips: {_listed(trials)}, instant baseline {baseline:.3f}"
    if best.loss >= baseline:
        other = f"--recipe probe --checkpoint {best.encoder.name}"
        reporter.message(f"Recipe {recipe.name} ({measured}).{failed} Choose otherwise: {other}.")
        return recipe
    other = f"--recipe {recipe.name}"
    reporter.message(f"Recipe probe with {best.encoder.name} ({measured}).{failed} Choose otherwise: {other}.")
    return _probe(alternative, next(one for one in affordable if one.encoder == best.encoder))


def within_budget(cached: Sequence[CachedEncoder], seconds: float) -> list[CachedEncoder]:
    """At most two encoders to try on so many seconds of audio: the largest within the limit that was trained on speech,
    and the largest that was trained on AudioSet.
    """
    within = sorted(
        (one for one in cached if one.encoder.parameters * seconds <= MAX_COST), key=lambda one: one.encoder.parameters
    )
    return list({one.encoder.good_for == AUDIOSET: one for one in within}.values())


def _probe(recipe: Recipe, cached: CachedEncoder) -> Recipe:
    """The recipe with an encoder of the cache, resolved."""
    recipe = recipe.replace("model", checkpoint=cached.checkpoint, revision=cached.revision)
    return registration.family(recipe.model.family).resolve(recipe, registration.parse_options(recipe))


def _try(
    encoders: Sequence[CachedEncoder], corpus: PreparedCorpus, recipe: Recipe, reporter: ProgressReporter
) -> tuple[list[Trial], str]:
    """Every encoder's trial; and what could not be opened, in words."""
    from auricle.models.load import build_model
    from auricle.training.closed_form import fit
    from auricle.training.embeddings import embed_clips

    trials, failed = [], ""
    fold = corpus.split.folds[0]
    for cached in encoders:
        try:
            decoded = decode_for(corpus, _probe(recipe, cached), reporter.progress)
            model = build_model(decoded.recipe, decoded.labels)
        except UsageError as error:
            failed += f" '{cached.encoder.name}' was not tried: {error}"
            continue
        # The loss decides, not the final fit.
        model.config.max_support = 100
        fit(model.fit, embed_clips(decoded, model, reporter.progress), decoded, (*fold.train, *fold.valid))
        trials.append(Trial(cached.encoder, decoded, model.config.weights, model.config.held_out_loss))
    return trials, failed


def _baseline_loss(corpus: PreparedCorpus) -> float:
    """The instant baseline's log-loss on the same held-out training clips."""
    from auricle.models.families.probe.network import CHOICE_CLIPS
    from auricle.models.features.ridge import fit_ridge
    from auricle.models.load import build_model
    from auricle.training.closed_form import fit
    from auricle.training.embeddings import embed_clips

    recipe = corpus.recipe.model_copy(update={"model": Model(family="baseline")})
    model, fold = build_model(recipe, corpus.labels), corpus.split.folds[0]
    solve = partial(fit_ridge, sizes=model.config.part_sizes, classes=len(corpus.labels), max_support=CHOICE_CLIPS)
    return fit(solve, embed_clips(corpus, model), corpus, (*fold.train, *fold.valid)).loss


def own_weights(folder: RunFolder) -> str:
    """The hash of the encoder of a run's model, "" where it is no probe."""
    config = json.loads(folder.model_config.read_text(encoding="utf-8"))
    return str(config.get("weights", ""))


def _reported(reporter: ProgressReporter, note: str) -> ProbeScores:
    reporter.message(note.strip())
    return ProbeScores(note.strip())


def _listed(trials: Sequence[Trial]) -> str:
    return ", ".join(f"{trial.encoder.name} {trial.loss:.3f}" for trial in trials)


def _fetch_commands() -> str:
    """How to download a small encoder of each kind."""
    parts = [
        f"`auricle encoders --fetch {name}` ({', '.join(encoder.good_for)}; {file_size(encoder.download)})"
        for name in ("mn04", "whisper-tiny.en")
        for encoder in (catalogue.find(name),)
    ]
    return f"Download one: {' or '.join(parts)}."


def _too_costly(cached: CachedEncoder, corpus: PreparedCorpus) -> str:
    return (
        f"No probe of a cached encoder was tried: {duration(corpus.audit.durations.total)} of audio in "
        f"{len(corpus.usable)} clips take more than minutes. Train one: --recipe probe --checkpoint "
        f"{cached.encoder.name}."
    )
