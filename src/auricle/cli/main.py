"""The command line: parse, call, map errors to exit codes. No logic, and no heavy import before it is needed.

Exit codes: 0 done, 1 some inputs failed, 2 wrong usage, recipe or data.
"""

import argparse
import contextlib
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from auricle import __version__, parallel
from auricle.cli import corpus, encoders, export, live, predict, serve, tag, train, voices
from auricle.cli.options import Parser, print_json
from auricle.errors import AuricleError, MissingExtra, UsageError
from auricle.models import device
from auricle.models.quiet import quiet_process

_DESCRIPTION = "Train a sound classifier from labelled recordings, measure how good it is, and use it."
_EPILOG = """start here:
  auricle demo                                    the whole way on a generated corpus, in a minute
  auricle inspect my-recordings                   what is in your corpus, and what is wrong with it
  auricle train my-recordings --recipe baseline   a model and a report in seconds
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options, unexpected = _parser().parse_known_args(arguments, argparse.Namespace(arguments=arguments))
    if unexpected:
        options.parser.refuse(unexpected[0])
    # oneDNN caches a program for every input shape, about half a megabyte each, and clips have many lengths.
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, "32")
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    quiet_process()
    try:
        call: Callable[[argparse.Namespace], int] = options.call
        with device.use(getattr(options, "device", "auto")), rare_collections(), _engine(options):
            return call(options)
    except AuricleError as error:
        return _fail(options, str(error))
    except ModuleNotFoundError as error:
        if extra := _EXTRA_OF.get((error.name or "").partition(".")[0]):
            # The page needs gradio, the service alone needs only some of what gradio installs.
            extra = "serve" if (options.command, extra) == ("serve", "demo") else extra
            return _fail(options, str(MissingExtra(f"auricle {options.command}", extra)))
        raise
    except KeyboardInterrupt:
        resume = " Resume with --resume." if getattr(options, "resume", None) is not None else ""
        print(f"auricle: stopped.{resume}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _engine(options: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    """Where the command works on its clips."""
    engine, address = getattr(options, "engine", "local"), getattr(options, "ray_address", None)
    if engine == "local" and address is not None:
        raise UsageError(f"--ray-address received '{address}', and --engine is local. Add --engine ray.")
    return contextlib.nullcontext() if engine == "local" else parallel.connected(address)


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Look for reference cycles more rarely: imports make millions of objects that stay, and a sixth of their time went
    into looking through them.
    """
    usual = gc.get_threshold()
    gc.set_threshold(50_000, 5, 5)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


_EXTRA_OF = {name: "train" for name in ("torch", "transformers", "accelerate", "sklearn", "jinja2", "PIL", "datasets")}
_EXTRA_OF |= {name: "train" for name in ("huggingface_hub", "safetensors")}
_EXTRA_OF |= {name: "demo" for name in ("filelock", "gradio", "fastapi", "starlette", "uvicorn")}
_EXTRA_OF |= {"ray": "scale"}
_EXTRA_OF |= {name: "export" for name in ("onnx", "onnxscript")}
_EXTRA_OF |= {name: "serve" for name in ("batched", "fastapi_offline", "prometheus_client", "python_multipart")}


def _fail(options: argparse.Namespace, message: str) -> int:
    if options.json:
        print_json({"error": message})
    else:
        print(f"auricle: {message}", file=sys.stderr)
    return 2


def _parser() -> Parser:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="auricle", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=as_written)
    parser.add_argument("--version", action="version", version=f"auricle {__version__}")
    parser.set_defaults(verbose=False, json=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (corpus, encoders, train, predict, tag, live, serve, export, voices):
        module.declare(commands)
    return parser
