"""The command that serves a model: parse, call, print. The defaults in its help are those of `limits.Limits`."""

import argparse
import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auricle.cli.options import RUN_HELP, command, model_options, print_json
from auricle.errors import UsageError
from auricle.run_folder import check_model

if TYPE_CHECKING:
    import fastapi

    from auricle.serving.limits import Limits
    from auricle.serving.service import InferenceService

TOKEN = "AURICLE_TOKEN"
_EXAMPLE = """auricle serve runs/first --port 8000
curl --data-binary @recording.wav http://127.0.0.1:8000/v1/classify"""
_MEBIBYTE = 1 << 20
# The option, the limit it sets, its type, its unit, and its help.
_LIMITS: tuple[tuple[str, str, type, float, str], ...] = (
    ("--max-mb", "body_bytes", float, _MEBIBYTE, "maximum MiB of a request body (default: 64)"),
    ("--max-seconds", "seconds", float, 1, "maximum duration of the audio (default: 600)"),
    ("--max-channels", "channels", int, 1, "maximum channels (default: 8)"),
    ("--max-rate", "sample_rate", int, 1, "maximum sample rate in hertz (default: 192000)"),
    ("--max-requests", "requests", int, 1, "maximum requests in progress; further ones get 429 (default: 128)"),
    ("--max-held-mb", "held_bytes", float, _MEBIBYTE, "maximum MiB of all request bodies (default: 512)"),
    ("--deadline", "deadline", float, 1, "seconds until a request is dropped (default: 30)"),
    ("--body-seconds", "body_seconds", float, 1, "seconds until its body must be complete (default: 20)"),
    ("--batch", "batch_clips", int, 1, "maximum clips in a batch (default: 16)"),
    ("--batch-wait", "batch_wait", float, 1e-3, "milliseconds to wait for a batch to fill (default: 4)"),
    ("--threads", "threads", int, 1, "scoring threads (default: one per core)"),
    ("--decoders", "decoders", int, 1, "decoding threads (default: 2)"),
)


def declare(commands: Any) -> None:
    """Add the command to the parser."""
    serve = command(commands, _serve, _EXAMPLE)
    serve.add_argument("run", type=Path, metavar="RUN", help=RUN_HELP)
    model_options(serve)
    server = serve.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", help="the address to serve (default: 127.0.0.1, this machine)")
    server.add_argument("--port", type=int, default=8000, help="the port, 0 for any free one (default: 8000)")
    server.add_argument(
        "--token-file", type=Path, metavar="FILE", help=f"a file with the token to require (default: ${TOKEN}, if set)"
    )
    server.add_argument("--open", dest="open_to_all", action="store_true", help="allow other machines without a token")
    server.add_argument("--no-page", dest="page", action="store_false", help="serve the API only, no web page")
    limits = serve.add_argument_group("limits")
    for name, limit, kind, _, help in _LIMITS:
        limits.add_argument(name, dest=f"limit_{limit}", type=kind, metavar="N", help=help)


def _serve(options: argparse.Namespace) -> int:
    """Serve a model over HTTP, with a web page."""
    token = _token(options)
    check_model(options.run, options.runtime)
    # Each scoring thread has its own core. Threads within one operation would wait for each other, and spin.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from auricle.serving.serve import ServerConfig, serve

    names = ("host", "port", "open_to_all", "refuse", "precision", "runtime")
    config = ServerConfig(token=token, limits=_limits(options), **{name: getattr(options, name) for name in names})

    def on_ready(url: str) -> None:
        if options.json:
            print_json({"url": url})
        else:
            print(f"Serving {options.run} at {url} (API documentation: {url}docs). Stop with Ctrl-C.")
        sys.stdout.flush()

    with contextlib.ExitStack() as stack:
        serve(options.run, config, on_ready, _mount_page(options, token, stack))
    return 0


def _limits(options: argparse.Namespace) -> "Limits":
    from auricle.serving.limits import Limits

    changed = {}
    for _, limit, _, unit, _ in _LIMITS:
        value = getattr(options, f"limit_{limit}")
        if value is not None:
            changed[limit] = value if unit == 1 else type(getattr(Limits, limit))(value * unit)
    return Limits(**changed)


def _mount_page(
    options: argparse.Namespace, token: str | None, stack: contextlib.ExitStack
) -> "Callable[[fastapi.FastAPI, InferenceService], None]":
    """What mounts the web page, or a placeholder that gives the reason why there is none."""
    from auricle.serving.api_docs import add_placeholder

    if not options.page:
        return lambda app, _: add_placeholder(app, "This service was started with --no-page.")
    if importlib.util.find_spec("gradio") is None:
        reason = "The web page needs the extra 'demo'. Install it: pip install 'auricle[demo]'"
        return lambda app, _: add_placeholder(app, reason)
    from auricle.serving.gradio_host import gradio_environment

    stack.enter_context(gradio_environment())
    from auricle.serving import page

    return lambda app, service: page.mount(app, service, options.run, token)


def _token(options: argparse.Namespace) -> str | None:
    """The token that requests must send. It is never an argument: other users can see a process's arguments."""
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
            f"{source} has no usable token. Allowed: 8 or more printable ASCII characters without spaces. "
            "Create one with `openssl rand -hex 32`."
        )
    return token
