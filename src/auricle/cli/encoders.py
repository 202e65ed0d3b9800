"""The command about pretrained encoders: encoders. As `cli`: parse, call, print."""

import argparse
from typing import Any

from auricle.cli.options import command, json_only
from auricle.errors import UsageError


def declare(commands: Any) -> None:
    """Add the command to the parser."""
    encoders = command(commands, _encoders, "auricle encoders\nauricle encoders --fetch whisper-tiny.en")
    download = encoders.add_argument_group("download")
    download.add_argument(
        "--fetch", metavar="NAME", help="download this encoder, or complete its download, and verify it"
    )
    download.add_argument(
        "--allow-pickle",
        action="store_true",
        help="also weights that are published only as a pickle, which is not opened",
    )


def _encoders(options: argparse.Namespace) -> int:
    """List the pretrained encoders that have a short name, or download one."""
    if options.allow_pickle and options.fetch is None:
        raise UsageError("--allow-pickle changes a download, and --fetch names none. Add --fetch NAME.")
    from auricle.cli import console
    from auricle.models import catalogue

    screen = console.Screen(options.json)
    if options.fetch is None:
        statuses = catalogue.statuses()
        console.show_encoders(screen, statuses)
        screen.print_json([status.as_json() for status in statuses])
        return 0
    console.show_encoder(screen, catalogue.find(options.fetch))
    with json_only(options):
        fetched = catalogue.fetch(options.fetch, allow_pickle=options.allow_pickle, progress=screen.download)
    console.show_fetched(screen, fetched)
    screen.print_json(fetched.as_json())
    return 0
