"""One run, from a path to a report: the folder that `auricle train` writes.

In: DATA, a recipe and a folder. Out: the run folder of RunFolder. A killed run resumes: complete folds are skipped, one
with checkpoints continues, and the result is that of a run that was never killed. Nothing heavy is imported before the
corpus is decoded: torch comes with what trains the recipe's family.
"""

import time
from pathlib import Path

from auricle import recipes
from auricle.corpus.clip import Index
from auricle.errors import RunError, UsageError
from auricle.evaluation.report import Report
from auricle.preparation.prepare import PreparedCorpus, decode, read, with_split
from auricle.recipe import Recipe
from auricle.run_folder import RunFolder, atomic_write
from auricle.training.progress import ProgressReporter
from auricle.training.resolve import ResolvedRecipe, check_corpus, resolve


def run(data: str | Path, recipe: Recipe, out: Path, reporter: ProgressReporter, *, resume: bool = False) -> Report:
    """Train and evaluate a model; returns the report. Raises AuricleError before anything is written."""
    resolved = resolve(recipe)
    folder = RunFolder(out)
    if resume:
        resolved = ResolvedRecipe(_resumed(resolved.recipe, folder), resolved.options)
    elif out.exists() and any(out.iterdir()):
        raise UsageError(f"'{out}' exists already. Resume it with --resume, or name another folder with --out.")
    start = time.perf_counter()
    index = read(data, resolved.recipe)
    check_corpus(resolved.recipe, index)
    reporter.message(index.description)
    decoded = decode(index, resolved.recipe, reporter.progress)
    from auricle.training.grouping import decide_groups
    from auricle.training.outcome import train_and_report

    grouping = decide_groups(decoded)
    reporter.message(grouping.message)
    corpus = with_split(decoded, grouping.index)
    seconds = time.perf_counter() - start
    if resume:
        _check_same_corpus(corpus, folder)
    write_metadata(corpus, folder, reporter)
    return train_and_report(corpus, ResolvedRecipe(corpus.recipe, resolved.options), folder, reporter, seconds)


def write_metadata(corpus: PreparedCorpus, folder: RunFolder, reporter: ProgressReporter) -> None:
    """Write what is known before training, and report how the corpus is divided."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder.recipe) as partial:
        corpus.recipe.save(partial)
    with atomic_write(folder.index) as partial:
        corpus.index.save(partial)
    corpus.split.save(folder.split)
    corpus.audit.save(folder.audit)
    reporter.message(f"Split: {corpus.split.description}.")
    for note in corpus.split.notes:
        reporter.message(note)
    if corpus.audit.quarantined:
        reporter.message(f"{len(corpus.audit.quarantined)} clips are unusable and excluded: audit.json lists them.")


def _resumed(recipe: Recipe, folder: RunFolder) -> Recipe:
    """The recipe that the run was started with. Raises UsageError for another one."""
    if not folder.recipe.is_file():
        return recipe
    started = recipes.load(folder.recipe)
    audio = started.audio
    if audio.num_features is not None and recipe.audio.num_features is None:
        recipe = recipe.replace("audio", num_features=audio.num_features, sample_rate=audio.sample_rate)
    elif recipe.audio.sample_rate is None:
        recipe = recipe.replace("audio", sample_rate=audio.sample_rate)
    if started != recipe:
        changed = [name for name in Recipe.model_fields if getattr(started, name) != getattr(recipe, name)]
        raise UsageError(
            f"The run in '{folder.path}' was started with another recipe (section {', '.join(changed)} differs). "
            "Resume with the recipe and settings that it was started with, or start a new run with another --out."
        )
    return started


def _check_same_corpus(corpus: PreparedCorpus, folder: RunFolder) -> None:
    if folder.index.is_file():
        started = Index.load(folder.index)
        if [(clip.id, clip.label) for clip in started] != [(clip.id, clip.label) for clip in corpus.index]:
            raise RunError(f"The run in '{folder.path}' was started on another corpus. Start a new run.")
