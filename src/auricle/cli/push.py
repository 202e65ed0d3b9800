"""The command that shares a run on the Hugging Face Hub. As `cli`: parse, call, print."""

import argparse
from pathlib import Path
from typing import Any

from auricle.cli.options import check_run, command, print_json


def declare(commands: Any) -> None:
    """Add the command to the parser."""
    push = command(
        commands,
        "push",
        _push,
        "share a run on the Hugging Face Hub: model, card, report and metrics",
        "auricle push runs/first my-name/bird-calls --license apache-2.0 --dry-run",
    )
    push.add_argument("run", type=Path, metavar="RUN", help="the folder that `auricle train` wrote")
    push.add_argument("repo", metavar="USER/NAME", help="the repository; created if it does not exist")
    hub = push.add_argument_group("hub")
    hub.add_argument("--dry-run", action="store_true", help="show what would be pushed, without network or token")
    hub.add_argument("--private", action="store_true", help="private repository")
    hub.add_argument("--revision", metavar="BRANCH", help="the branch of the repository (default: main)")
    hub.add_argument("--message", metavar="TEXT", help="the commit message (default: one that names the recipe)")
    hub.add_argument("--license", metavar="ID", help="the licence of the weights, such as apache-2.0")
    hub.add_argument("--with-scores", action="store_true", help="include the name and scores of every test clip")
    hub.add_argument("--with-audio", action="store_true", help="include audio of misclassified clips in the report")


def _push(options: argparse.Namespace) -> int:
    check_run(options.run)
    from auricle.cli import console
    from auricle.hub.push import PushOptions, prepare_upload, push

    choices = PushOptions(
        options.private, options.revision, options.message, options.license, options.with_scores, options.with_audio
    )
    screen = console.Screen(options.json)
    upload = prepare_upload(options.run, options.repo, choices)
    console.show_upload(screen, upload)
    url = None if options.dry_run else push(upload)
    if options.json:
        print_json({**upload.as_json(), "url": url})
    else:
        screen.print(f"Pushed: {url}" if url else "Nothing was pushed: this was a dry run.")
    return 0
