"""What the commands of the command line share: how one is declared, how JSON is printed, how libraries are kept quiet.

Nothing heavy is imported before a command runs.
"""

import argparse
import contextlib
import importlib.util
import json
import sys
from collections.abc import Callable
from typing import Any


def command(commands: Any, name: str, call: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=help[0].upper() + help[1:] + "."
    )
    command.add_argument("--json", action="store_true", help="print JSON for programs")
    command.add_argument("--verbose", action="store_true", help="log what the library does")
    command.set_defaults(call=call)
    return command


def print_json(content: dict[str, Any]) -> None:
    json.dump(content, sys.stdout, ensure_ascii=False, indent=1)
    print()


def quiet_libraries() -> None:
    """One line per epoch is ours; the libraries' own bars would break it up, and standard output is for the answer.

    An exported model answers where these libraries are not installed: then nothing has to be quiet.
    """
    if importlib.util.find_spec("transformers") is None:
        return
    with contextlib.redirect_stdout(sys.stderr):
        # It says there, once, that a tracker is offline.
        import transformers.integrations.integration_utils  # noqa: F401
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
