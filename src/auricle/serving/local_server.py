"""A web application on this machine, closed to the outside.

In: an ASGI application and an address. Out: a server that runs until it is stopped. By default only this machine can
reach it; its pages may fetch nothing from elsewhere and tell nothing to anyone.
"""

import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

from auricle.errors import UsageError

# Everything comes from this server or lies in the page itself. Gradio's pages hold scripts, and build some.
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


def claim(host: str, port: int) -> socket.socket:
    """Take an address before the work that it is for; port 0 takes any free one.

    Raises UsageError when the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"'{host}' port {port} cannot be served: {getattr(error, 'strerror', None) or error}. "
            "Choose another --port (0 takes any free one), or --host 127.0.0.1."
        ) from error


def serve(application: Application, listener: socket.socket, opened: Callable[[str], None]) -> None:
    """Serve until Ctrl-C; `opened` gets the address once a browser may ask for it."""
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(sealed(application), log_level="warning", timeout_graceful_shutdown=1)
    opened(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
    uvicorn.Server(config).run(sockets=[listener])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def sealed(application: Application) -> Application:
    """The same application, whose every answer carries the security policy."""

    async def answer(scope: Message, receive: Any, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        await application(scope, receive, sending)

    return answer
