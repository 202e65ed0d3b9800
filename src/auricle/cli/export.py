"""The commands that take a model elsewhere: export and push. As `cli`: parse, call, print."""

import argparse
import json
from pathlib import Path
from typing import Any

from auricle.cli.options import RUN_HELP, command, json_only
from auricle.errors import UsageError
from auricle.run_folder import check_model


def declare(commands: Any) -> None:
    """Add the commands to the parser."""
    export = command(commands, _export, "auricle export runs/first --onnx --out first-onnx")
    export.add_argument("run", type=Path, metavar="RUN", help=RUN_HELP)
    onnx = export.add_argument_group("export")
    onnx.add_argument("--onnx", action="store_true", help="write ONNX, the only format")
    onnx.add_argument(
        "--int8", action="store_true", help="quantize to int8; refused if that is slower here or loses accuracy"
    )
    lost = "the accuracy on validation clips that int8 may lose (default: 0.01)"
    onnx.add_argument("--tolerance", type=float, default=0.01, metavar="SHARE", help=lost)
    compared = "recordings to compare with PyTorch on (default: the run's own validation and test clips)"
    onnx.add_argument("--check", nargs="+", default=[], metavar="FILE", help=compared)
    export.output.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to write (default: RUN/onnx, or RUN/onnx-int8 with --int8)"
    )

    push = command(commands, _push, "auricle push runs/first my-name/bird-calls --license apache-2.0 --dry-run")
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


def _export(options: argparse.Namespace) -> int:
    """Export a model to ONNX, to run without PyTorch."""
    if not options.onnx:
        raise UsageError("export received no format. Add --onnx.")
    check_model(options.run)
    from auricle.cli import console
    from auricle.export.onnx import export

    screen = console.Screen(options.json)
    with json_only(options):
        result = export(
            options.run,
            options.out,
            check=options.check,
            int8=options.int8,
            tolerance=options.tolerance,
            message=screen.print,
        )
    screen.print(f"Exported: {result.out}")
    screen.print_json({**json.loads(result.to_json()), "out": str(result.out)})
    return 0


def _push(options: argparse.Namespace) -> int:
    """Share a run on the Hugging Face Hub: model, card, report and metrics."""
    check_model(options.run)
    from auricle.cli import console
    from auricle.hub.push import PushOptions, prepare_upload, push

    choices = PushOptions(
        options.private, options.revision, options.message, options.license, options.with_scores, options.with_audio
    )
    screen = console.Screen(options.json)
    upload = prepare_upload(options.run, options.repo, choices)
    console.show_upload(screen, upload)
    url = None if options.dry_run else push(upload)
    screen.print(f"Pushed: {url}" if url else "Nothing was pushed: this was a dry run.")
    screen.print_json({**upload.as_json(), "url": url})
    return 0
