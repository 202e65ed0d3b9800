"""Several frozen encoders on one corpus and the same folds: which one to train with.

In: DATA, names of encoders, the recipe `probe`. Out: an Audition: metrics with intervals, paired differences from the
best, and what each costs. Each encoder runs once over the clips, at its own sample rate; its layers are chosen inside
the training part of each fold, and a test part of the corpus' own stays unused. The instant baseline is compared too.
"""

import html
import json
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from auricle import recipes
from auricle.corpus import splits
from auricle.corpus.clip import Index
from auricle.corpus.split_kinds import cross_validation_kind
from auricle.errors import DataError, UsageError, unknown
from auricle.evaluation import scoring
from auricle.evaluation.compare import METRIC, Candidate, Comparison, check_metric, compare_candidates
from auricle.evaluation.metrics import METRIC_NAMES, compute_metrics, evaluate_logits
from auricle.models import catalogue, torch_runtime
from auricle.models.features.ridge import subsample
from auricle.models.load import build_model
from auricle.preparation.formatting import counted, short_duration
from auricle.preparation.prepare import PreparedCorpus, decode, read, with_split
from auricle.recipe import Data, Recipe
from auricle.training.closed_form import fit
from auricle.training.cross_validation import release_memory, scores_of
from auricle.training.embeddings import embed_clips
from auricle.training.grouping import decide_groups
from auricle.training.outcome import majority_scores
from auricle.training.progress import ProgressReporter
from auricle.training.run import check_features, report_corpus, resolve

RECIPE, BASELINE_RECIPE, BASELINE = "probe", "baseline", "instant baseline"
MAX_CLIPS = 3000
TIMED_CLIPS = 32


@dataclass(frozen=True)
class EncoderFacts:
    """What one encoder is and costs; for the baseline `checkpoint`, `parameters` and `license` are None.

    `layers` of `num_layers`, 0 being the embedding, are those that a model of all clips chooses, `fold_layers` those of
    each fold. `seconds_per_clip` is the time of one core that this model takes for a clip of the corpus, without
    decoding; of the accelerator where `device` is one. `parameters` are the encoder's; `license` is the catalogue's,
    None where it lists none.
    """

    name: str
    checkpoint: str | None
    sample_rate: int
    num_layers: int
    layers: tuple[int, ...]
    fold_layers: tuple[tuple[int, ...], ...]
    joins_descriptors: bool
    seconds_per_clip: float
    device: str
    parameters: int | None
    license: str | None


@dataclass(frozen=True)
class Audition:
    """Encoders on the same folds of a corpus. `encoders` are in the order of `comparison.runs`, the best first.

    `clips` of `corpus_clips` took part; `majority` are the metrics of always answering the commonest class; `advice`
    names a cheaper encoder that is not distinguishable from the best, and may be empty; `command` trains with the best.
    """

    comparison: Comparison
    encoders: tuple[EncoderFacts, ...]
    majority: Mapping[str, float]
    clips: int
    corpus_clips: int
    split: str
    notes: tuple[str, ...]
    advice: str
    command: str

    @property
    def best(self) -> EncoderFacts:
        return self.encoders[0]

    def as_json(self) -> dict[str, object]:
        """Plain data for programs."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(filter(None, (self.comparison.verdict, self.advice, self.command)))

    def _repr_html_(self) -> str:
        return f"{self.comparison._repr_html_()}<pre>{html.escape(self.command)}</pre>"


def audition(
    data: str | Path,
    names: Sequence[str],
    recipe: Recipe,
    reporter: ProgressReporter,
    *,
    max_clips: int | None = None,
    metric: str = METRIC,
) -> Audition:
    """Compare encoders, named as `--checkpoint` takes them; without names, those of the catalogue that are cached.

    `recipe` is `probe` or one like it, whose data section says how the corpus is read and divided; `data.split: auto`
    tests every clip once. Above `max_clips` clips, by default MAX_CLIPS, a stratified sample of that many is used.
    Raises UsageError for an unknown encoder or metric before anything is decoded, DataError as `train` does.
    """
    check_metric(metric, METRIC_NAMES)
    checkpoints = _labelled(_checked(names))
    resolved = {name: resolve(_with_checkpoint(recipe, checkpoint)) for name, checkpoint in checkpoints.items()}
    notes: list[str] = []

    def message(text: str) -> None:
        notes.append(text)
        show(text)

    show, reporter = reporter.message, replace(reporter, message=message)
    index = read(data, recipe)
    check_features(recipe, index.num_features)
    message(index.description)
    sample = _sample(
        _without_test_part(index, recipe.data, message),
        recipe.data,
        MAX_CLIPS if max_clips is None else max_clips,
        message,
    )
    everything = {BASELINE: _baseline_recipe(recipe), **resolved}
    corpora = _prepared(sample, everything, reporter)
    candidates, facts = [], {}
    for number, (name, corpus) in enumerate(corpora.items()):
        show(f"{number + 1} of {len(corpora)}: {name}")
        candidate, facts[name] = _auditioned(corpus, name, checkpoints.get(name), reporter)
        candidates.append(candidate)
        release_memory()
    settings = recipe.evaluate
    comparison = compare_candidates(
        candidates, metric, resamples=settings.bootstrap_resamples, seed=recipe.train.seed, top_k=settings.top_k
    )
    encoders = tuple(facts[run.name] for run in comparison.runs)
    majority = majority_scores(corpora[BASELINE])
    return Audition(
        comparison=comparison,
        encoders=encoders,
        majority=compute_metrics(evaluate_logits(majority.truth, majority.logits, settings.top_k)),
        clips=comparison.clips,
        corpus_clips=len(index),
        split=corpora[BASELINE].split.description,
        notes=tuple(notes),
        advice=_advice(comparison, encoders, data, recipe),
        command=train_command(data, recipe, encoders[0].checkpoint),
    )


def train_command(data: str | Path, recipe: Recipe, checkpoint: str | None) -> str:
    """The command that trains with a checkpoint, or the baseline for None, and reads the corpus as `recipe` does."""
    words = ["auricle", "train", str(data), "--recipe", RECIPE if checkpoint else BASELINE_RECIPE]
    words += ["--checkpoint", checkpoint] if checkpoint else []
    usual = dict(_flat(recipes.load(RECIPE)))
    option_of = {key: f"--{name.replace('_', '-')}" for name, key in recipes.NAMED_SETTINGS.items()}
    for key, value in _flat(recipe):
        if key in ("name", "model.checkpoint") or usual.get(key) == value or (key[:6] == "model." and not checkpoint):
            continue
        if key == "data.strict":
            words.append("--strict")
        elif key in option_of and key != "evaluate.embed_audio":
            words += [option_of[key], str(value)]
        else:
            words += ["--set", f"{key}={json.dumps(value, ensure_ascii=False)}"]
    return shlex.join(words)


def _flat(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Every key of a recipe with its section, and its value."""
    pending = list(recipe.model_dump().items())
    while pending:
        key, value = pending.pop(0)
        if isinstance(value, Mapping) and value:
            pending[:0] = [(f"{key}.{name}", inner) for name, inner in value.items()]
        else:
            yield key, value


def _checked(names: Sequence[str]) -> list[str]:
    """The encoders to compare. Raises UsageError for a repeated or unknown one, and where none is named or cached."""
    known = [entry.name for entry in catalogue.ENCODERS if entry.is_supported]
    for name in names:
        is_listed = name in [entry.name for entry in catalogue.ENCODERS]
        if not is_listed and "/" not in name and not Path(name).expanduser().exists():
            raise UsageError(f"{unknown('encoder', name, known)} A Hub name, a folder or a file works too.")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"--encoders received '{repeated[0]}' more than once. Name each encoder once.")
    listed = list(names) or [status.encoder.name for status in catalogue.statuses() if status.cached is not None]
    listed = [name for name in listed if names or name in known]
    if not listed:
        raise UsageError(
            "No encoder of the catalogue is on this machine. Download one with `auricle encoders --fetch NAME`, such "
            f"as {known[0]}, or name others: `--encoders NAME,FOLDER`."
        )
    return listed


def _labelled(checkpoints: Sequence[str]) -> dict[str, str]:
    """The checkpoints by the names to show: of a folder or file the last part, where no other is shown as that."""
    last = [Path(one).name if Path(one).expanduser().exists() else one for one in checkpoints]
    unique = {name for name, count in Counter((*last, BASELINE)).items() if count == 1}
    return {name if name in unique else one: one for name, one in zip(last, checkpoints, strict=True)}


def _with_checkpoint(recipe: Recipe, name: str) -> Recipe:
    if recipe.model.family != RECIPE:
        raise UsageError(
            f"model.family received '{recipe.model.family}'. Encoders are compared frozen, by the family '{RECIPE}'."
        )
    own = recipe.model.options.get("checkpoint")
    if own != recipes.load(RECIPE).model.options["checkpoint"]:
        raise UsageError(f"model.checkpoint received '{own}'. Name all encoders to compare: `--encoders {own},{name}`.")
    return recipe.replace("model", checkpoint=name)


def _baseline_recipe(recipe: Recipe) -> Recipe:
    """The recipe `baseline` with the same corpus, bounds and seeds."""
    baseline = recipes.load(BASELINE_RECIPE)
    return baseline.model_copy(update={"data": recipe.data, "audio": recipe.audio, "train": recipe.train})


def _without_test_part(index: Index, data: Data, message: Callable[[str], None]) -> Index:
    """The clips outside a test part of the corpus' own, which is to stay unseen until training is over."""
    kept = [clip.fold != "test" for clip in index]
    if data.split != "auto" or all(kept) or not any(kept):
        return index
    rest = index.select(kept)
    message(
        f"The corpus' own test part, {counted(len(index) - len(rest), 'clip')}, is not used: it stays unseen until "
        "training is over."
    )
    if any(clip.fold == "valid" for clip in rest):
        return rest
    return replace(rest, clips=tuple(replace(clip, fold=None) for clip in rest))


def _sample(index: Index, data: Data, max_clips: int, message: Callable[[str], None]) -> Index:
    """A stratified sample of so many clips, with two of every class at least; all clips where there are no more."""
    if len(index) <= max_clips:
        return index
    _, numbers, sizes = np.unique([clip.label for clip in index], return_inverse=True, return_counts=True)
    if max_clips < 2 * len(sizes):
        raise UsageError(
            f"--clips received {max_clips}, and {len(sizes)} classes need two clips each: `--clips {2 * len(sizes)}`."
        )
    if data.split.endswith(".json"):
        raise UsageError(
            f"--split received '{data.split}', and its clips cannot be sampled. Use all: `--clips {len(index)}`."
        )
    rows = subsample(numbers, max_clips, data.seed)
    for number in np.flatnonzero(np.bincount(numbers[rows], minlength=len(sizes)) < np.minimum(sizes, 2)):
        rows = np.union1d(rows, np.flatnonzero(numbers == number)[:2])
    chosen = set(rows.tolist())
    message(f"A stratified sample of {len(chosen)} of {len(index)} clips is used. To use all: `--clips {len(index)}`.")
    return index.select([row in chosen for row in range(len(index))])


def _prepared(index: Index, by_name: Mapping[str, Recipe], reporter: ProgressReporter) -> dict[str, PreparedCorpus]:
    """The corpus for each recipe, decoded once per sample rate and divided once, by the groups of the first."""
    by_rate: dict[int, PreparedCorpus] = {}
    decoded = {}
    for name, recipe in by_name.items():
        rate = recipe.audio.sample_rate
        if rate is None or rate not in by_rate:
            corpus = decode(index, recipe, reporter.progress)
            by_rate[corpus.store.settings.sample_rate] = corpus
        else:
            corpus = replace(by_rate[rate], recipe=recipe)
        decoded[name] = corpus
    first = next(iter(decoded.values()))
    grouping = decide_groups(first)
    kind = cross_validation_kind(grouping.index, first.recipe.data)
    if kind != first.recipe.data.split:
        # What was given for another kind of split has no effect, and that is no error here.
        first = replace(first, recipe=first.recipe.replace("data", split=kind).with_given(()))
    first = with_split(first, grouping.index)
    report_corpus(first, grouping.message, reporter, "`auricle inspect`")
    shared = set(first.positions).intersection(*(corpus.positions for corpus in decoded.values()))
    usable, held_out = (part.select([clip.id in shared for clip in part]) for part in (first.usable, first.held_out))
    if left := [clip.id for clip in first.usable if clip.id not in shared]:
        reporter.message(
            f"Left out: {counted(len(left), 'clip')}, such as '{left[0]}', not usable at every sample rate."
        )
    folds = tuple(
        splits.Fold(
            fold.name, *(tuple(id for id in part if id in shared) for part in (fold.train, fold.valid, fold.test))
        )
        for fold in first.split.folds
    )
    if any(not fold.train or not fold.test for fold in folds):
        raise DataError("Too few clips are usable at every sample rate. Compare encoders of one rate at a time.")
    split = replace(first.split, folds=folds)
    return {
        name: replace(corpus, index=first.index, usable=usable, split=split, held_out=held_out)
        for name, corpus in decoded.items()
    }


def _auditioned(
    corpus: PreparedCorpus, name: str, checkpoint: str | None, reporter: ProgressReporter
) -> tuple[Candidate, EncoderFacts]:
    """Embed the clips once, and fit and score each fold."""
    model = build_model(corpus.recipe, corpus.labels)
    for note in getattr(model, "notes", ()):
        reporter.message(f"{name}: {note}")
    embeddings = embed_clips(corpus, model, reporter.progress)
    parts, fold_layers = [], []
    for fold in corpus.split.folds:
        fit(model.fit, embeddings, corpus, (*fold.train, *fold.valid))
        logits = embeddings.used_by(model).logits(model, fold.test)
        parts.append(scores_of(corpus, fold.test, logits, fold.name))
        fold_layers.append(_layers(model))
    scores = scoring.join(parts)
    fit(model.fit, embeddings, corpus, [clip.id for clip in corpus.usable])
    facts = EncoderFacts(
        name=name,
        checkpoint=checkpoint,
        sample_rate=corpus.store.settings.sample_rate,
        num_layers=len(getattr(model.config, "layer_sizes", ())),
        layers=_layers(model),
        fold_layers=tuple(fold_layers),
        joins_descriptors=checkpoint is None or bool(model.config.joins_descriptors),
        seconds_per_clip=_seconds_per_clip(corpus, model),
        device=torch_runtime.device_of(model).type,
        parameters=sum(weight.numel() for weight in model.encoder.parameters()) if checkpoint else None,
        license=next((one.license for one in catalogue.ENCODERS if checkpoint in (one.name, one.source)), None),
    )
    recipe = corpus.recipe
    return Candidate(
        name, scores, recipe.name, recipe.model.family, corpus.index.group_name, parameters=facts.parameters
    ), facts


def _layers(model: PreTrainedModel) -> tuple[int, ...]:
    return tuple(getattr(model.config, "layers", None) or ())


def _seconds_per_clip(corpus: PreparedCorpus, model: PreTrainedModel) -> float:
    """The mean time of one core that a fitted model takes for clips of evenly spaced durations; of an accelerator, the
    time by the clock.
    """
    ids = [clip.id for clip in corpus.usable]
    order = np.argsort(corpus.seconds(ids), kind="stable")
    rows = order[np.unique(np.linspace(0, len(ids) - 1, min(len(ids), TIMED_CLIPS)).astype(int))]
    on_cpu = torch_runtime.device_of(model).type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _embed(corpus, model, [ids[rows[0]]])
        start = clock()
        _embed(corpus, model, [ids[row] for row in rows])
        return (clock() - start) / len(rows)
    finally:
        torch.set_num_threads(threads)


def _embed(corpus: PreparedCorpus, model: PreTrainedModel, ids: Iterable[str]) -> None:
    list(scoring.embed_windows(model, corpus.audio(list(ids)), batch_seconds=corpus.recipe.evaluate.batch_seconds))


def _advice(comparison: Comparison, encoders: Sequence[EncoderFacts], data: str | Path, recipe: Recipe) -> str:
    """One sentence where a cheaper encoder cannot be distinguished from the best, with its command."""
    best = encoders[0]
    cheaper = [
        facts
        for facts, run in zip(encoders[1:], comparison.runs[1:], strict=True)
        if not run.is_distinguishable and facts.seconds_per_clip < best.seconds_per_clip
    ]
    if not cheaper:
        return ""
    least = min(cheaper, key=lambda facts: facts.seconds_per_clip)
    return (
        f"'{least.name}' cannot be distinguished from '{best.name}' on these clips and takes "
        f"{short_duration(least.seconds_per_clip)} a clip instead of {short_duration(best.seconds_per_clip)}: "
        f"`{train_command(data, recipe, least.checkpoint)}`."
    )
