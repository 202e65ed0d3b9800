"""The command that exports a model. As `cli`: parse, call, print."""

import argparse
import json
from pathlib import Path
from typing import Any

from auricle.cli.options import command, print_json, quiet_libraries


def declare(commands: Any) -> None:
    """Add the command to the parser."""
    export = command(commands, "export", _export, "export a model to ONNX, to run without PyTorch")
    export.add_argument("run", type=Path, metavar="RUN", help="a run folder or a model folder")
    export.add_argument("--onnx", action="store_true", help="ONNX, the only format")
    export.add_argument(
        "--int8",
        action="store_true",
        help="use 8-bit integer products; refused if slower on this machine or less accurate",
    )
    export.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="accuracy that int8 may lose on the validation clips (default: 0.01)",
    )
    export.add_argument(
        "--out", type=Path, metavar="FOLDER", help="output folder (default: RUN/onnx, or RUN/onnx-int8 with --int8)"
    )
    export.add_argument(
        "--check",
        nargs="+",
        default=[],
        metavar="FILE",
        help="recordings for the comparison with PyTorch (default: the run's validation and test clips)",
    )


def _export(options: argparse.Namespace) -> int:
    from auricle.cli import console
    from auricle.errors import UsageError

    if not options.onnx:
        raise UsageError("export received no format. Allowed: --onnx.")
    quiet_libraries()
    from auricle.export.onnx import export

    screen = console.Screen(options.json)
    result = export(
        options.run, options.out, check=options.check, int8=options.int8, tolerance=options.tolerance, say=screen.say
    )
    if options.json:
        print_json({**json.loads(result.to_json()), "out": str(result.out)})
    else:
        screen.say(f"Exported: {result.out}")
    return 0
