"""The command that exports a model. As `cli`: parse, call, print."""

import argparse
import json
from pathlib import Path
from typing import Any

from auricle.cli.options import RUN_HELP, check_run, command, json_only, print_json
from auricle.errors import UsageError


def declare(commands: Any) -> None:
    """Add the command to the parser."""
    export = command(
        commands,
        "export",
        _export,
        "export a model to ONNX, to run without PyTorch",
        "auricle export runs/first --onnx --out first-onnx",
    )
    export.add_argument("run", type=Path, metavar="RUN", help=RUN_HELP)
    onnx = export.add_argument_group("export")
    onnx.add_argument("--onnx", action="store_true", help="write ONNX, the only format")
    onnx.add_argument(
        "--int8", action="store_true", help="quantize to int8; refused if that is slower here or loses accuracy"
    )
    onnx.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="the accuracy on validation clips that int8 may lose (default: 0.01)",
    )
    onnx.add_argument(
        "--check",
        nargs="+",
        default=[],
        metavar="FILE",
        help="recordings to compare with PyTorch on (default: the run's own validation and test clips)",
    )
    export.output.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to write (default: RUN/onnx, or RUN/onnx-int8 with --int8)"
    )


def _export(options: argparse.Namespace) -> int:
    if not options.onnx:
        raise UsageError("export received no format. Add --onnx.")
    check_run(options.run)
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
    if options.json:
        print_json({**json.loads(result.to_json()), "out": str(result.out)})
    else:
        screen.print(f"Exported: {result.out}")
    return 0
