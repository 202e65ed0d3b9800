"""One run, from a path to a report: the folder that `auricle train` writes.

In: DATA, a recipe and a folder. Out: the run folder of RunFolder. A killed run resumes: complete folds are skipped, one
with checkpoints continues, and the result is that of a run that was never killed. What cannot work is refused before
any recording is decoded. Nothing heavy is imported until then: torch comes with what trains the recipe's family.
"""

import importlib.util
import time
from pathlib import Path

from auricle import recipes
from auricle.corpus.clip import Index
from auricle.corpus.split_kinds import check_kind
from auricle.errors import MissingExtra, RunError, UsageError
from auricle.evaluation.report import Report
from auricle.models import registration
from auricle.preparation.inspection import Inspection
from auricle.preparation.prepare import PreparedCorpus, decode, read, with_split
from auricle.recipe import Recipe, check_steps
from auricle.run_folder import RunFolder, atomic_write
from auricle.training.progress import ProgressReporter


def run(data: str | Path, recipe: Recipe, out: Path, reporter: ProgressReporter, *, resume: bool = False) -> Report:
    """Train and evaluate a model; returns the report. Raises AuricleError before anything is written."""
    recipe = resolve(recipe)
    folder = RunFolder(out)
    check_folder(out, resume)
    if resume:
        recipe = _resumed(recipe, folder)
    start = time.perf_counter()
    index = read(data, recipe)
    check_features(recipe, index.num_features)
    reporter.message(index.description)
    decoded = decode(index, recipe, reporter.progress)
    from auricle.training.grouping import decide_groups
    from auricle.training.outcome import train_and_report

    grouping = decide_groups(decoded)
    corpus = with_split(decoded, grouping.index)
    seconds = time.perf_counter() - start
    if resume and folder.index.is_file():
        started = Index.load(folder.index)
        if [(clip.id, clip.label) for clip in started] != [(clip.id, clip.label) for clip in corpus.index]:
            raise RunError(f"The run in '{folder.path}' was started on another corpus. Start a new run.")
    _write_metadata(corpus, grouping.message, folder, reporter)
    return train_and_report(corpus, grouping, folder, reporter, seconds)


def check_folder(out: Path | None, resume: bool) -> None:
    """Raise UsageError for a run folder that holds files already, unless the run is resumed."""
    if not resume and out is not None and out.exists() and any(out.iterdir()):
        raise UsageError(f"'{out}' exists already. Resume it with --resume, or name another folder with --out.")


def resolve(recipe: Recipe) -> Recipe:
    """Check the recipe against its family, its checkpoint and what is installed; fill in what a checkpoint decides.

    Raises UsageError for what cannot work, MissingExtra for a tracker that is not installed.
    """
    check_kind(recipe.data)
    options = registration.parse_options(recipe)
    tracker = recipe.train.report_to
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise MissingExtra(f"Tracking with {tracker}", "track")
    family = registration.family(recipe.model.family)
    if family.TRAINING != "fine_tuning":
        check_steps(recipe.train, f"the family '{recipe.model.family}' has none", epochs=False)
    if "checkpoint" in family.Options.model_fields:
        recipe = family.resolve(recipe, options)
    check_features(recipe, recipe.audio.num_features)
    return recipe


def check_features(recipe: Recipe, num_features: int | None) -> None:
    """Raise UsageError for precomputed features of a family that takes audio."""
    able = [name for name in registration.names() if registration.family(name).TAKES_FEATURES]
    if num_features is not None and recipe.model.family not in able:
        raise UsageError(
            f"The corpus holds {num_features} precomputed features per frame, and the family '{recipe.model.family}' "
            f"takes audio. Families that take precomputed features: {', '.join(able)}. Choose one with "
            f"--set model.family={able[0]}."
        )


def _write_metadata(corpus: PreparedCorpus, grouping: str, folder: RunFolder, reporter: ProgressReporter) -> None:
    """Write what is known before training, and report it."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder.recipe) as partial:
        corpus.recipe.save(partial)
    with atomic_write(folder.index) as partial:
        corpus.index.save(partial)
    corpus.split.save(folder.split)
    corpus.audit.save(folder.audit)
    report_corpus(corpus, grouping, reporter, folder.audit.name)


def report_corpus(corpus: PreparedCorpus, grouping: str, reporter: ProgressReporter, lists: str) -> None:
    """Report what `inspect` reports of a corpus. `grouping` is the message of its groups, `lists` names what lists the
    findings.
    """
    inspection = Inspection(corpus.index, corpus.audit, corpus.split, "", grouping)
    reporter.message(f"{corpus.audit.files}.")
    if findings := inspection.findings:
        reporter.message(f"{', '.join(findings)} ({lists} lists them).")
    for note in inspection.notes:
        reporter.message(note)
    if corpus.audit.faults_in_words:
        reporter.message(corpus.audit.faults_in_words)
    reporter.message(inspection.split_summary)


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
