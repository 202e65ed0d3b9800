"""`python -m benchmarks NAME`: run one benchmark.

The benchmarks are the files of this folder without a leading underscore. Each has `add_arguments(parser)` and
`run(options, screen)`; only the named one is imported. A failed benchmark ends with exit code 2, or with its own.
"""

import argparse
import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from auricle.errors import AuricleError
from benchmarks._environment import Screen


def benchmarks() -> dict[str, str]:
    """The benchmarks, and what each measures: the first line of its file, read without importing it."""
    files = sorted(path for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("_"))
    texts = {path.stem: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in files}
    return {name: (text or "").partition("\n")[0] for name, text in texts.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark that the command line names; returns the exit code."""
    listing = "".join(f"\n  {name:14}{title}" for name, title in benchmarks().items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Compare auricle with its reference systems:{listing}",
        epilog="python -m benchmarks NAME --help shows the options of one benchmark.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=benchmarks(), metavar="NAME", help="which benchmark")
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = parser.parse_args(given[:1]).name
    module = importlib.import_module(f"benchmarks.{name}")
    own = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=benchmarks()[name])
    own.add_argument("--json", action="store_true", help="print JSON lines for programs")
    module.add_arguments(own)
    options = own.parse_args(given[1:])
    try:
        module.run(options, Screen(options.json))
    except AuricleError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
