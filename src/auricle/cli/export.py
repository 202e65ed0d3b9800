"""The command that exports a model. As `cli`: parse, call, print."""

import argparse
from pathlib import Path
from typing import Any

from auricle.cli.options import command, print_json, quiet_libraries


def declare(commands: Any) -> None:
    """Add the command to the parser."""
    export = command(commands, "export", _export, "write a model that answers without PyTorch")
    export.add_argument("run", type=Path, metavar="RUN", help="a run folder or a model folder")
    export.add_argument("--onnx", action="store_true", help="as ONNX, the one format there is")
    export.add_argument(
        "--int8",
        action="store_true",
        help="with 8-bit products; refused where that is slower here or loses accuracy",
    )
    export.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="the accuracy that int8 may lose on the validation clips (default: 0.01)",
    )
    export.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where (default: RUN/onnx, or RUN/onnx-int8 with --int8)"
    )
    export.add_argument(
        "--check",
        nargs="+",
        default=[],
        metavar="FILE",
        help="recordings to compare with PyTorch on (default: the run's own validation and test clips)",
    )


def _export(options: argparse.Namespace) -> int:
    from auricle.cli import console
    from auricle.errors import UsageError

    if not options.onnx:
        raise UsageError("export received no format. Allowed: --onnx.")
    quiet_libraries()
    from auricle.export.onnx import export

    screen = console.Screen(options.json)
    found = export(
        options.run, options.out, check=options.check, int8=options.int8, tolerance=options.tolerance, say=screen.say
    )
    if options.json:
        print_json(found)
    else:
        screen.say(f"Exported: {found['out']}")
    return 0
