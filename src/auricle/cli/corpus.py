"""The commands about a corpus: inspect and listen. As `cli`: parse, call, print."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from auricle.cli.options import command, corpus_options, engine_options, recipe_of
from auricle.errors import DataError
from auricle.run_folder import check_model

_LISTEN_EXAMPLE = """auricle listen my-recordings --corrections corrections.csv
auricle train my-recordings --corrections corrections.csv"""


def declare(commands: Any) -> None:
    """Add the commands to the parser."""
    inspect = command(commands, _inspect, "auricle inspect my-recordings --label species --group recorder")
    corpus_options(inspect)
    engine_options(inspect)

    listen = command(commands, _listen, _LISTEN_EXAMPLE)
    corpus_options(listen, corrections=False)
    page = listen.add_argument_group("page")
    default, saved = Path("corrections.csv"), "where corrections are saved (default: corrections.csv)"
    page.add_argument("--corrections", dest="corrections_file", type=Path, default=default, metavar="FILE", help=saved)
    page.add_argument("--run", type=Path, metavar="RUN", help="a run folder: show its suspect labels as findings")
    page.add_argument("--port", type=int, default=7860, help="the page's port, 0 for any free one (default: 7860)")
    page.add_argument("--host", default="127.0.0.1", help="the address to serve (default: 127.0.0.1, this machine)")
    page.add_argument("--no-browser", dest="browser", action="store_false", help="do not open the page")
    seed = "the seed of the random order of clips (default: 0)"
    page.add_argument("--seed", dest="order_seed", type=int, default=0, metavar="N", help=seed)


def _inspect(options: argparse.Namespace) -> int:
    """Report what is in a corpus, what is wrong with it, and how it would be split."""
    recipe = recipe_of(options)
    from auricle.cli import console
    from auricle.training.grouping import inspect

    screen = console.Screen(options.json)
    inspection = inspect(options.data, recipe, screen.progress)
    console.show_inspection(screen, inspection)
    screen.print_json(inspection.as_json())
    if options.strict and (unusable := inspection.audit.quarantined):
        raise DataError(f"{len(unusable)} clips are unusable, and --strict does not allow any.")
    return 0


def _listen(options: argparse.Namespace) -> int:
    """Play labelled clips in a web page, and correct wrong labels."""
    recipe = recipe_of(options)
    if options.run is not None:
        check_model(options.run)
    from auricle.cli import console
    from auricle.serving.gradio_host import gradio_environment

    screen = console.Screen(options.json)

    def on_ready(url: str) -> None:
        screen.print_json({"url": url, "corrections": str(options.corrections_file)})
        screen.print(f"Open {url}. Corrections are saved to {options.corrections_file}. Stop with Ctrl-C.")
        if not local_server.is_loopback(options.host):
            screen.print(
                f"! Everyone who can reach {options.host} can play these recordings and change the corrections."
            )
        sys.stdout.flush()
        if options.browser:
            import webbrowser

            webbrowser.open(url)

    with gradio_environment(), contextlib.suppress(KeyboardInterrupt):
        from auricle.labelling import page
        from auricle.serving import local_server

        listen_options = page.ListenOptions(
            options.corrections_file,
            options.run,
            options.host,
            options.port,
            options.order_seed,
            tuple(_repeated(options)),
        )
        page.listen(options.data, recipe, listen_options, screen.progress, on_ready)
    return 0


def _repeated(options: argparse.Namespace) -> Iterator[str]:
    """The options by which the corpus was read: training with the corrections needs the same."""
    if options.recipe is not None:
        yield from ("--recipe", options.recipe)
    for name in ("reader", "label", "group", "pattern"):
        if (value := getattr(options, name)) is not None:
            yield from (f"--{name}", value)
    for setting in options.set:
        yield from ("--set", setting)
