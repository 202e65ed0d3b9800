"""`python -m benchmarks NAME`: run one measurement. The benchmarks are the files of this folder without an underscore."""

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from auricle.errors import AuricleError
from benchmarks._figures import Screen


def benchmarks() -> dict[str, ModuleType]:
    """The benchmarks there are, by name. Each has TITLE, `add_arguments(parser)` and `run(options, screen)`."""
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    names = sorted(module.name for module in found if not module.name.startswith("_"))
    return {name: importlib.import_module(f"benchmarks.{name}") for name in names}


def main() -> int:
    """Run the benchmark that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure auricle beside its references.")
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    known = benchmarks()
    for name, module in known.items():
        command = commands.add_parser(name, help=module.TITLE, description=module.TITLE)
        command.add_argument("--json", action="store_true", help="print JSON lines for programs")
        module.add_arguments(command)
    options = parser.parse_args()
    try:
        known[options.name].run(options, Screen(options.json))
    except AuricleError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
