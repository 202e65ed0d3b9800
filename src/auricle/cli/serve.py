"""The command that serves a model: parse, call, print.

Its options' defaults are those of `serving.limits.Limits`, which is not imported before the command runs.
"""

import argparse
import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auricle.cli.options import command, print_json, quiet_libraries
from auricle.errors import UsageError

if TYPE_CHECKING:
    import fastapi

    from auricle.serving.service import Asking

TOKEN = "AURICLE_TOKEN"
_MEGABYTE = 1 << 20
# The option, the limit that it sets, how its value is read, its unit, and what it says.
_LIMITS: tuple[tuple[str, str, type, float, str], ...] = (
    ("--max-mb", "body_bytes", float, _MEGABYTE, "MiB that a body may have (default: 64)"),
    ("--max-seconds", "seconds", float, 1, "how long a sound may be (default: 600)"),
    ("--max-channels", "channels", int, 1, "how many channels it may have (default: 8)"),
    ("--max-rate", "sample_rate", int, 1, "hertz of its sample rate (default: 192000)"),
    ("--max-requests", "requests", int, 1, "requests under way at once; one more gets 429 (default: 128)"),
    ("--max-held-mb", "held_bytes", float, _MEGABYTE, "MiB that all bodies may have together (default: 512)"),
    ("--deadline", "deadline", float, 1, "seconds in which a request is answered, or dropped (default: 30)"),
    ("--body-seconds", "body_seconds", float, 1, "seconds in which its body has come (default: 20)"),
    ("--batch", "batch_clips", int, 1, "clips scored together at most (default: 16)"),
    ("--batch-wait", "batch_wait", float, 1e-3, "milliseconds to wait for company (default: 4)"),
    ("--threads", "threads", int, 1, "threads that score, with a core each (default: one for each core)"),
    ("--decoders", "decoders", int, 1, "threads that decode (default: 2)"),
)


def declare(commands: Any) -> None:
    """Add the command to the parser."""
    serve = command(commands, "serve", _serve, "answer for sounds over HTTP, with a page for people")
    serve.add_argument("run", type=Path, metavar="RUN", help="a run folder, a model folder, or an exported one")
    serve.add_argument("--host", default="127.0.0.1", help="the address to serve (default: 127.0.0.1, this machine)")
    serve.add_argument("--port", type=int, default=8000, help="the port, 0 for any free one (default: 8000)")
    serve.add_argument("--runtime", choices=("auto", "torch", "onnx"), default="auto", help="what runs the model")
    serve.add_argument(
        "--precision", choices=("auto", "float32", "bf16"), default="auto", help="of large encoders (default: auto)"
    )
    serve.add_argument(
        "--no-unknown", dest="refuse", action="store_false", help="name a class even where the model is not sure enough"
    )
    serve.add_argument(
        "--token-file", type=Path, metavar="FILE", help=f"a file with the token to ask for (default: ${TOKEN}, if set)"
    )
    serve.add_argument("--open", dest="open_to_all", action="store_true", help="let other machines ask without a token")
    serve.add_argument("--no-page", dest="page", action="store_false", help="serve programs only, no page for people")
    for name, limit, kind, _, help in _LIMITS:
        serve.add_argument(name, dest=f"limit_{limit}", type=kind, metavar="N", help=help)


def _serve(options: argparse.Namespace) -> int:
    token = _token(options)
    # Each scoring thread has a core to itself. Threads of one operation would wait for each other, and spin.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    quiet_libraries()
    from auricle.serving.limits import Limits
    from auricle.serving.serve import Served, serve

    given = {limit: getattr(options, f"limit_{limit}") for _, limit, *_ in _LIMITS}
    units = {limit: (kind, unit) for _, limit, kind, unit, _ in _LIMITS}
    changed = {
        limit: value if units[limit][1] == 1 else type(getattr(Limits, limit))(value * units[limit][1])
        for limit, value in given.items()
        if value is not None
    }
    asked = Served(
        options.host,
        options.port,
        token,
        options.open_to_all,
        options.refuse,
        options.precision,
        options.runtime,
        Limits(**changed),
    )

    def opened(address: str) -> None:
        if options.json:
            print_json({"url": address})
        else:
            print(f"Serving {options.run} at {address} (documentation: {address}docs). Ctrl-C ends it.")
        sys.stdout.flush()

    with contextlib.ExitStack() as stack:
        serve(options.run, asked, opened, _page(options, token, stack))
    return 0


def _page(
    options: argparse.Namespace, token: str | None, stack: contextlib.ExitStack
) -> "Callable[[fastapi.FastAPI, Asking], None]":
    """What mounts the page for people; without it, what says at its place why there is none."""
    from auricle.serving.api_docs import doorplate

    if not options.page:
        return lambda app, _: doorplate(app, "This service was started without its page for people.")
    if importlib.util.find_spec("gradio") is None:
        missing = "The page for people needs the extra 'demo'. Install it: pip install 'auricle[demo]'"
        return lambda app, _: doorplate(app, missing)
    from auricle.serving.gradio_environment import closed

    stack.enter_context(closed())
    from auricle.serving import page

    about = page.about(options.run)
    return lambda app, asking: page.mount(app, asking, about, token)


def _token(options: argparse.Namespace) -> str | None:
    """The token that requests must bring. Never an argument: those of a process can be seen by others."""
    if options.token_file is None:
        token = os.environ.get(TOKEN)
        source = f"${TOKEN}"
    else:
        source = f"--token-file '{options.token_file}'"
        try:
            token = options.token_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{source} cannot be read: {error}. Name a text file with the token.") from error
    if token is None:
        return None
    token = token.strip()
    if len(token) < 8 or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"{source} holds no usable token. Allowed: 8 or more printable ASCII characters without spaces. "
            "`openssl rand -hex 32` makes one."
        )
    return token
