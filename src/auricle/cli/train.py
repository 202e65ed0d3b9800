"""The commands that train and measure: train, audition, evaluate, compare, demo. As `cli`: parse, call, print."""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auricle.cli import options as shared
from auricle.cli.options import DATA_HELP, RUN_HELP, Parser, command, device_option, json_only, positive
from auricle.errors import UsageError
from auricle.models import ranks, registration
from auricle.run_folder import check_model, new_run_folder

if TYPE_CHECKING:
    from auricle.cli.console import Screen
    from auricle.evaluation.compare import Comparison


def declare(commands: Any) -> None:
    """Add the commands to the parser."""
    train = command(commands, _train, "auricle train my-recordings --group recorder --epochs 40 --out runs/first")
    shared.corpus_options(train)
    shared.training_options(train)
    shared.engine_options(train)
    train.output.add_argument(
        "--out", type=Path, metavar="RUN", help="the run folder (default: runs/DATA-RECIPE, such as runs/birds-sound)"
    )
    train.output.add_argument("--resume", action="store_true", help="continue the interrupted run in --out")
    processes = "processes of this machine that train together, such as one for each GPU (default: 1)"
    train.add_argument("--nproc", type=positive, default=1, metavar="N", help=processes)
    audio = "omit audio of misclassified clips from the report"
    train.output.add_argument("--no-audio", dest="embed_audio", action="store_false", default=None, help=audio)

    audition = command(commands, _audition, "auricle audition my-recordings --encoders whisper-tiny.en,mn04")
    shared.corpus_options(audition, only_recipe="probe")
    shared.engine_options(audition)
    encoders = audition.add_argument_group("encoders")
    names = "as --checkpoint names them (default: those that `auricle encoders` lists as cached)"
    encoders.add_argument("--encoders", metavar="NAME,NAME", help=names)
    clips = "of a larger corpus, a stratified sample of N clips is used (default: 3000)"
    encoders.add_argument("--clips", type=positive, metavar="N", help=clips)
    encoders.add_argument("--seed", type=int, metavar="N", help="seed of inner folds and intervals (default: 0)")
    _comparison_options(audition)
    device_option(audition)

    evaluate = command(commands, _evaluate, "auricle evaluate runs/first recordings-of-next-year")
    evaluate.add_argument("run", type=Path, metavar="RUN", help=RUN_HELP)
    evaluate.add_argument("data", nargs="?", metavar="DATA", help=f"{DATA_HELP} (default: the run's own test clips)")
    device_option(evaluate)

    compare = command(commands, _compare, "auricle compare runs/first runs/second --page comparison.html")
    compare.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="two or more folders of finished runs")
    _comparison_options(compare)

    demo = command(commands, _demo, "auricle demo --out demo")
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="the seed of the corpus (default: 0)")
    device_option(demo)
    folder = "where the corpus and the run go (default: demo)"
    demo.output.add_argument("--out", type=Path, default=Path("demo"), metavar="FOLDER", help=folder)


def _comparison_options(parser: Parser) -> None:
    metric = "the metric that decides which is the best, such as balanced_accuracy (default: accuracy)"
    parser.add_argument("--metric", default="accuracy", metavar="NAME", help=metric)
    page = "also write a page with the differences and the clips on which they disagree"
    parser.output.add_argument("--page", type=Path, metavar="FILE.html", help=page)


def _train(options: argparse.Namespace) -> int:
    """Train a classifier and report how good it is."""
    from auricle.training.run import check_folder

    if options.resume and options.out is None:
        raise UsageError("--resume received no run folder. Name the run to continue: --out RUN.")
    if ranks.started() > 1 and options.device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"--device received '{options.device}', and every process takes a device of its own: auto, cpu, cuda."
        )
    if ranks.number():
        from auricle.training.followers import follow

        follow()
        return 0
    recipe = shared.recipe_of(options)
    registration.parse_options(recipe)
    if options.nproc > 1 and ranks.started() == 1:
        from auricle.training.launch import launch

        check_folder(options.out, options.resume)
        return launch(options.nproc, options.arguments)
    from auricle import recipes
    from auricle.cli import console
    from auricle.training.probes import choose_recipe
    from auricle.training.progress import ProgressReporter
    from auricle.training.run import run

    together: Callable[[], AbstractContextManager[None]] = nullcontext
    if ranks.started() > 1:
        from auricle.training.followers import leading as together

    screen = console.Screen(options.json)
    reporter = ProgressReporter(screen.print, screen.progress, screen.epoch)
    if ranks.started() > 1:
        screen.print(f"{ranks.started()} processes compute gradients together; all else is done by the first.")
    with json_only(options), together():
        if options.recipe is None:
            check_folder(options.out, options.resume)
            alternative = recipes.alternative(options.set, shared.named_settings(options))
            recipe = choose_recipe(options.data, recipe, alternative, reporter, options.out if options.resume else None)
        out = options.out or new_run_folder(options.data, recipe.name)
        report = run(options.data, recipe, out, reporter, resume=options.resume)
    console.show_report(screen, report)
    screen.print(f"Report: {out / 'report.html'}   Model: {out / 'model'}")
    screen.print_json({**report.as_json(), "run": str(out)})
    return 0


def _audition(options: argparse.Namespace) -> int:
    """Compare pretrained encoders on your recordings, and name the one to train with."""
    _check_page(options)
    recipe = shared.recipe_of(options)
    names = [name.strip() for name in (options.encoders or "").split(",") if name.strip()]
    from auricle.cli import console
    from auricle.training.audition import audition
    from auricle.training.progress import ProgressReporter

    screen = console.Screen(options.json)
    reporter = ProgressReporter(screen.print, screen.progress, screen.epoch)
    with json_only(options):
        result = audition(options.data, names, recipe, reporter, max_clips=options.clips, metric=options.metric)
    console.show_audition(screen, result)
    _write_page(options, result.comparison, screen)
    screen.print_json(result.as_json())
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    """Measure a trained model again, or on other labelled recordings."""
    check_model(options.run)
    if options.data is not None:
        from auricle.corpus.read import check_location

        check_location(options.data)
    from auricle.cli import console
    from auricle.evaluation.evaluate import evaluate

    screen = console.Screen(options.json)
    with json_only(options):
        evaluation = evaluate(options.run, options.data, screen.progress)
    console.show_evaluation(screen, evaluation)
    screen.print_json(evaluation.as_json())
    return 0


def _compare(options: argparse.Namespace) -> int:
    """Compare runs on the test clips that they share: which is better, or that none is."""
    _check_page(options)
    from auricle.cli import console
    from auricle.evaluation.compare import compare

    screen = console.Screen(options.json)
    comparison = compare(options.runs, options.metric)
    console.show_comparison(screen, comparison)
    _write_page(options, comparison, screen)
    screen.print_json(asdict(comparison))
    return 0


def _check_page(options: argparse.Namespace) -> None:
    page: Path | None = options.page
    if page is not None and (page.suffix.lower() != ".html" or not page.parent.is_dir()):
        raise UsageError(f"--page received '{page}'. Name a file that ends in .html, in a folder that exists.")


def _write_page(options: argparse.Namespace, comparison: "Comparison", screen: "Screen") -> None:
    if options.page is not None:
        from auricle.evaluation.page import write_comparison

        write_comparison(options.page, comparison)
        screen.print(f"Page: {options.page}")


def _demo(options: argparse.Namespace) -> int:
    """Generate a small corpus with planted faults, train on it, and show the report."""
    from auricle.demo import check_folder

    check_folder(options.out)
    from auricle.cli import console
    from auricle.demo import demo
    from auricle.training.progress import ProgressReporter

    screen = console.Screen(options.json)
    reporter = ProgressReporter(screen.print, screen.progress, screen.epoch)
    with json_only(options):
        result = demo(options.out, reporter, seed=options.seed)
    console.show_report(screen, result.report)
    screen.print(f"Planted faults found: {result.faults.detected} of {result.faults.planted}.")
    screen.print(f"Try it: auricle predict {options.out / 'run'} {options.out / 'corpus'}")
    screen.print(f"Open the report: {(options.out / 'run' / 'report.html').resolve().as_uri()}")
    screen.print_json({**result.report.as_json(), "planted": asdict(result.faults)})
    return 0
