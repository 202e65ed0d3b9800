"""The command line: parse, call, print, map errors to exit codes. No logic, and no heavy import before it is needed.

Exit codes: 0 done, 1 some inputs failed, 2 wrong usage, recipe or data.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from auricle import __version__
from auricle.cli import export, live, predict, serve, voices
from auricle.cli.options import command, print_json, quiet_libraries
from auricle.errors import AuricleError, MissingExtra, UsageError

if TYPE_CHECKING:
    from auricle.recipe import Recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    # oneDNN keeps a program for every shape that it met, about half a megabyte each, and clips have many lengths.
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, "32")
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    try:
        call: Callable[[argparse.Namespace], int] = options.call
        return call(options)
    except AuricleError as error:
        return _fail(options, str(error))
    except ModuleNotFoundError as error:
        if extra := _EXTRA_OF.get((error.name or "").partition(".")[0]):
            # The page brings what the service needs, but most of what it brings the service does without.
            extra = "serve" if (options.command, extra) == ("serve", "demo") else extra
            return _fail(options, str(MissingExtra(f"auricle {options.command}", extra)))
        raise
    except KeyboardInterrupt:
        print("Stopped. A training goes on with --resume.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


_EXTRA_OF = {name: "train" for name in ("torch", "transformers", "accelerate", "sklearn", "jinja2", "PIL", "datasets")}
_EXTRA_OF |= {name: "demo" for name in ("filelock", "gradio", "fastapi", "starlette", "uvicorn")}
_EXTRA_OF |= {name: "export" for name in ("onnx", "onnxscript")}
_EXTRA_OF |= {name: "serve" for name in ("batched", "fastapi_offline", "prometheus_client", "python_multipart")}


def _inspect(options: argparse.Namespace) -> int:
    from auricle.cli import console
    from auricle.preparation.prepare import inspect

    screen = console.Screen(options.json)
    found = inspect(options.data, _recipe(options), screen.progress)
    screen.finish()
    if options.json:
        clips = [{"id": clip.id, "label": clip.label, "group": clip.group, "fold": clip.fold} for clip in found.index]
        split = found.split and {"kind": found.split.kind, "described": found.split.description}
        about = {
            "description": found.index.description,
            "num_features": found.index.num_features,
            "split": split,
            "index": clips,
        }
        print_json({**found.audit.as_json(), **about})
    else:
        console.show_inspection(screen, found)
    if options.strict and found.audit.quarantined:
        return _fail(options, f"{len(found.audit.quarantined)} clips are unusable, and --strict was asked for.")
    return 0


def _train(options: argparse.Namespace) -> int:
    from auricle.cli import console

    recipe = _recipe(options)
    if options.resume and options.out is None:
        raise UsageError("--resume received no run folder. Name the one to go on with: --out RUN.")
    quiet_libraries()
    from auricle.training.progress import ProgressReporter
    from auricle.training.run import run

    out = options.out or _free_folder(Path("runs"), f"{_stem(options.data)}-{recipe.name}")
    screen = console.Screen(options.json)
    listener = ProgressReporter(screen.say, screen.progress, screen.epoch)
    report = run(options.data, recipe, out, listener, resume=options.resume)
    if options.json:
        print_json({**report, "run": str(out)})
    else:
        console.show_report(screen, report)
        screen.say(f"Report: {out / 'report.html'}   Model: {out / 'model'}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from auricle.cli import console
    from auricle.evaluation.evaluate import evaluate

    quiet_libraries()
    screen = console.Screen(options.json)
    found = evaluate(options.run, options.data, screen.progress)
    screen.finish()
    if options.json:
        print_json(found)
    else:
        console.show_judgement(screen, found)
    return 0


def _listen(options: argparse.Namespace) -> int:
    from auricle.cli import console
    from auricle.serving.gradio_host import gradio_environment

    screen = console.Screen(options.json)

    def on_ready(url: str) -> None:
        if options.json:
            print_json({"url": url, "corrections": str(options.corrections)})
        screen.say(f"Open {url}. Corrections are saved to {options.corrections}. Stop with Ctrl-C.")
        if not local_server.is_loopback(options.host):
            screen.say(f"! Everyone who can reach {options.host} can play these recordings and change the corrections.")
        sys.stdout.flush()
        if options.browser:
            webbrowser.open(url)

    with gradio_environment(), contextlib.suppress(KeyboardInterrupt):
        from auricle.labelling import page
        from auricle.serving import local_server

        corpus_options = ["--recipe", options.recipe] if options.recipe != _DEFAULT_RECIPE else []
        corpus_options += ["--reader", options.reader] if options.reader else []
        corpus_options += [word for setting in options.set for word in ("--set", setting)]
        listen_options = page.ListenOptions(
            options.corrections, options.run, options.host, options.port, options.seed, tuple(corpus_options)
        )
        page.listen(options.data, _recipe(options), listen_options, screen.progress, on_ready)
    return 0


def _push(options: argparse.Namespace) -> int:
    from auricle.cli import console
    from auricle.hub.push import Wishes, pack, send

    wishes = Wishes(
        options.private, options.revision, options.message, options.license, options.with_scores, options.with_audio
    )
    screen = console.Screen(options.json)
    shipment = pack(options.run, options.repo, wishes)
    told = shipment.as_json()
    console.show_shipment(screen, told)
    url = None if options.dry_run else send(shipment)
    if options.json:
        print_json({**told, "url": url})
    else:
        screen.say(f"Pushed: {url}" if url else "Nothing was pushed: this was a dry run.")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from auricle.cli import console
    from auricle.demo import demo
    from auricle.training.progress import ProgressReporter

    quiet_libraries()
    screen = console.Screen(options.json)
    report = demo(options.out, ProgressReporter(screen.say, screen.progress, screen.epoch), seed=options.seed)
    if options.json:
        print_json(report)
        return 0
    console.show_report(screen, report)
    screen.say(f"Planted faults found: {report['planted']['found']} of {report['planted']['planted']}.")
    screen.say(f"Report: {(options.out / 'run' / 'report.html').resolve().as_uri()}")
    screen.say(f"Try it: auricle predict {options.out / 'run'} {options.out / 'corpus'}")
    return 0


def _recipe(options: argparse.Namespace) -> "Recipe":
    """The named recipe with what the options change."""
    from auricle import recipe

    settings = list(options.set)
    if options.reader:
        settings.append(f"data.reader={options.reader}")
    if options.strict:
        settings.append("data.strict=true")
    if getattr(options, "relabelled", None):
        settings.append(f"data.corrections={json.dumps(options.relabelled)}")
    if getattr(options, "no_audio", False):
        settings.append("evaluate.embed_audio=false")
    return recipe.load(options.recipe, settings)


def _stem(data: str) -> str:
    name = Path(data.rstrip("/")).name
    return name.partition(".")[0] or "corpus"


def _free_folder(parent: Path, name: str) -> Path:
    """parent/name, or the first of parent/name-2, -3 … that does not exist."""
    number = 1
    while (folder := parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


def _fail(options: argparse.Namespace, message: str) -> int:
    if getattr(options, "json", False):
        print_json({"error": message})
    else:
        print(f"auricle: {message}", file=sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
    """argparse, with the sentence before the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"auricle: {message}\n{self.format_usage()}")


_DEFAULT_RECIPE = "sound"
_DATA_HELP = "a folder, archive, table, glob or Hugging Face data set"


def _parser() -> _Parser:
    parser = _Parser(prog="auricle", description="From labelled recordings to a sound classifier that can be trusted.")
    parser.add_argument("--version", action="version", version=f"auricle {__version__}")
    parser.set_defaults(verbose=False, json=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    inspect = command(commands, "inspect", _inspect, "what is in a corpus, and what is wrong with it")
    inspect.add_argument("data", metavar="DATA", help=_DATA_HELP)
    _recipe_options(inspect)
    _fixes_option(inspect)
    _listen_options(command(commands, "listen", _listen, "play labelled clips in a web page, and correct wrong labels"))

    train = command(commands, "train", _train, "train a classifier and report how good it is")
    train.add_argument("data", metavar="DATA", help=_DATA_HELP)
    _recipe_options(train)
    _fixes_option(train)
    train.add_argument("--out", type=Path, metavar="RUN", help="the run folder (default: runs/DATA-RECIPE)")
    train.add_argument("--resume", action="store_true", help="go on with the run in --out")
    train.add_argument("--no-audio", action="store_true", help="keep the sound of mistakes out of the report")

    evaluate = command(commands, "evaluate", _evaluate, "judge a trained model again, or on other labelled recordings")
    evaluate.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    evaluate.add_argument("data", nargs="?", metavar="DATA", help=f"{_DATA_HELP} (default: the run's own test clips)")

    predict.declare(commands)
    live.declare(commands)
    _push_options(command(commands, "push", _push, "share a run on the Hugging Face Hub: model, card, report, metrics"))
    voices.declare(commands)
    serve.declare(commands)
    export.declare(commands)
    demo = command(commands, "demo", _demo, "make a small corpus, train on it, and show the report")
    demo.add_argument("--out", type=Path, default=Path("demo"), metavar="FOLDER", help="where (default: demo)")
    demo.add_argument("--seed", type=int, default=0, help="another seed, another corpus")
    return parser


def _listen_options(listen: argparse.ArgumentParser) -> None:
    listen.add_argument("data", metavar="DATA", help=_DATA_HELP)
    _recipe_options(listen)
    listen.add_argument(
        "--corrections",
        type=Path,
        default=Path("corrections.csv"),
        metavar="FILE",
        help="where corrections are saved (default: corrections.csv)",
    )
    listen.add_argument("--run", type=Path, metavar="RUN", help="a run folder: show its suspect labels as findings")
    listen.add_argument("--port", type=int, default=7860, help="the page's port, 0 for any free one (default: 7860)")
    listen.add_argument("--host", default="127.0.0.1", help="the address to serve (default: 127.0.0.1, this machine)")
    listen.add_argument("--no-browser", dest="browser", action="store_false", help="do not open the page")
    listen.add_argument("--seed", type=int, default=0, help="the seed of the random order of clips (default: 0)")


def _push_options(push: argparse.ArgumentParser) -> None:
    push.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    push.add_argument("repo", metavar="USER/NAME", help="the repository; made where there is none")
    push.add_argument("--dry-run", action="store_true", help="show what would go; no network, no token")
    push.add_argument("--private", action="store_true", help="only you may see it")
    push.add_argument("--revision", metavar="BRANCH", help="a branch of the repository (default: main)")
    push.add_argument("--message", metavar="TEXT", help="what the commit is called")
    push.add_argument("--license", metavar="ID", help="the licence of the weights, by the Hub's name: apache-2.0")
    push.add_argument("--with-scores", action="store_true", help="send every test clip's name and scores too")
    push.add_argument("--with-audio", action="store_true", help="send the sound of mistakes in the report too")


def _recipe_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--recipe", default=_DEFAULT_RECIPE, metavar="NAME|FILE", help="a recipe by name, or a YAML file"
    )
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one recipe value")
    command.add_argument("--reader", metavar="NAME", help="how the layout is read (default: recognised)")
    command.add_argument("--strict", action="store_true", help="stop at bad recordings instead of setting them aside")


def _fixes_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--corrections",
        dest="relabelled",
        metavar="FILE",
        help="a CSV of labels put right, as `auricle listen` writes it",
    )


if __name__ == "__main__":
    sys.exit(main())
