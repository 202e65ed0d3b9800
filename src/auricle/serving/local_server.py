"""A web server that is closed to the outside.

By default only this machine can reach it. Its pages load nothing from other hosts and send nothing to them.
"""

import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

from auricle.errors import UsageError

# Everything comes from this server or is part of the page. Gradio's pages contain inline scripts and create some.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
LOOPBACK_NAMES = ["localhost", "127.0.0.1", "::1", "[::1]"]

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Any, Send], Awaitable[None]]


def bind(host: str, port: int) -> socket.socket:
    """Bind an address before the work that it is for. Raises UsageError if it is unavailable."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"'{host}' port {port} is unavailable: {getattr(error, 'strerror', None) or error}. "
            "Choose another --port (0 takes any free one), or --host 127.0.0.1."
        ) from error


def url_of(listener: socket.socket) -> str:
    """The URL of a bound address."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def run(app: Application, listener: socket.socket, on_ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C; `on_ready` receives the URL once a browser may open it."""
    config = uvicorn.Config(with_security_headers(app), log_level="warning", timeout_graceful_shutdown=1)
    on_ready(url_of(listener))
    uvicorn.Server(config).run(sockets=[listener])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def with_security_headers(app: Application) -> Application:
    """The same application with the security headers on every response. A response may add a stricter policy."""

    async def respond(scope: Message, receive: Any, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        await app(scope, receive, send_with_headers)

    return respond
