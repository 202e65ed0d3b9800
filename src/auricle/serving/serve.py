"""Serve a model over HTTP until a signal, behind a bearer token if there is one.

The server then accepts no new connection, answers every request that it accepted, and ends. A second signal ends it at
once.
"""

import asyncio
import contextlib
import functools
import hmac
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import fastapi
import uvicorn
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from auricle.errors import UsageError
from auricle.inference.classifier import Runtime, load
from auricle.serving import local_server
from auricle.serving.app import create_app
from auricle.serving.limits import Limits
from auricle.serving.local_server import Application, Message, Send
from auricle.serving.service import InferenceService

# During shutdown an idle connection may still carry a request that was sent before the signal.
LINGER_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15
# The head of a request is small; a client that needs longer blocks a connection.
HEAD_SECONDS = 10.0
# Many more connections than requests: most are idle between two requests, and an error response needs one too.
CONNECTIONS = 4096

ROUTES = ("/v1/classify", "/v1/embed", "/v1/labels", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs")
PROTECTED = ("/v1/", "/metrics")
OTHER_ROUTE = "other"

MountPage = Callable[[fastapi.FastAPI, InferenceService], None]


@dataclass(frozen=True)
class ServerConfig:
    """Where a service listens, who needs a token, how it runs the model, and its limits. Port 0 takes any free one."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    open_to_all: bool = False
    refuse: bool = True
    precision: str = "auto"
    runtime: Runtime = "auto"
    limits: Limits = field(default_factory=Limits)


def serve(run: Path, config: ServerConfig, on_ready: Callable[[str], None], mount_page: MountPage) -> None:
    """Serve a run, model or exported folder until a signal; `on_ready` receives the URL.

    `mount_page` may add pages to the application. Raises UsageError for an address that is unavailable, or that other
    machines can reach without a token; RunError for a folder without a model.
    """
    if config.token is None and not config.open_to_all and not local_server.is_loopback(config.host):
        raise UsageError(
            f"--host received '{config.host}', which other machines can reach, and there is no token. Set one in "
            "AURICLE_TOKEN or with --token-file, or allow everyone with --open."
        )
    with local_server.bind(config.host, config.port) as listener:
        classifier = load(run, config.precision, refuse=config.refuse, runtime=config.runtime)
        service = InferenceService(classifier, config.limits, run.resolve().name)
        app = secure_app(service, config, mount_page)
        on_ready(local_server.url_of(listener))
        GracefulServer(app, service).run(sockets=[listener])


def secure_app(service: InferenceService, config: ServerConfig, mount_page: MountPage) -> Application:
    """The application with its pages, behind authentication, host check and security headers."""
    app = create_app(service)
    mount_page(app, service)
    if config.token is not None:
        _add_security_scheme(app)
    # DNS rebinding: a page of another site must not reach a local service under a host name of its own.
    names = local_server.LOOPBACK_NAMES if local_server.is_loopback(config.host) else ["*"]
    authenticated = AuthMiddleware(app, service, config.token)
    return local_server.with_security_headers(TrustedHostMiddleware(authenticated, allowed_hosts=names))


class AuthMiddleware:
    """An ASGI application before another, which counts requests and leaves bodies alone.

    With a token, the model's routes and the metrics require it.
    """

    def __init__(self, app: Application, service: InferenceService, token: str | None) -> None:
        self._app = app
        self._service = service
        self._expected = f"Bearer {token}".encode()
        self._protected = () if token is None else PROTECTED

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, path, metrics = time.perf_counter(), scope["path"], self._service.metrics
        route = path if path in ROUTES else OTHER_ROUTE

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                metrics.requests.labels(route, str(message["status"])).inc()
                if self._service.stopping:
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        received = Headers(scope=scope).get("authorization", "").encode("latin-1")
        if path.startswith(self._protected) and not hmac.compare_digest(received, self._expected):
            metrics.rejected.labels("token").inc()
            detail = "The token is missing or wrong. Send 'Authorization: Bearer TOKEN'."
            error = {"error": {"kind": "token", "detail": detail}}
            await JSONResponse(error, 401, {"www-authenticate": "Bearer"})(scope, receive, counting_send)
        else:
            await self._app(scope, receive, counting_send)
        metrics.seconds.labels(route).observe(time.perf_counter() - start)


class GracefulServer(uvicorn.Server):
    """A server that loses no request when it stops."""

    def __init__(self, app: Application, service: InferenceService) -> None:
        limits = service.limits
        config = uvicorn.Config(
            app,
            http=TimeoutProtocol,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            limit_concurrency=CONNECTIONS + limits.requests,
            backlog=1024,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=round(limits.deadline) + 5,
        )
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the shutdown; a second signal ends the process."""
        if self.should_exit:
            os._exit(128 + signal.Signals(sig).value)
        self._service.stopping = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, answer the requests in progress, and end.

        After the signal every response carries 'Connection: close', so that open connections end by themselves.
        """
        pending = [connection for listener in sockets or [] for connection in _accept_pending(listener)]
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        # What uvicorn creates for a connection that it accepts itself.
        protocol = functools.partial(
            TimeoutProtocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        for connection in pending:
            await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)
        end = time.monotonic() + LINGER_SECONDS
        while self.server_state.connections and time.monotonic() < end:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


class TimeoutProtocol(HttpToolsProtocol):
    """A connection that closes when the head of a request takes too long. uvicorn's timeout covers idle ones only."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Start the timer for the first request: asyncio creates a protocol when it accepts a connection."""
        super().__init__(*args, **options)
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(HEAD_SECONDS, self._time_out)

    def data_received(self, data: bytes) -> None:
        """Stop the timer if the head is complete."""
        super().data_received(data)
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        super().connection_lost(exc)
        self._update_timer()

    def _is_waiting(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _update_timer(self) -> None:
        needs_timer = self._is_waiting() and not self.transport.is_closing()
        if needs_timer and self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._time_out)
        elif not needs_timer and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        self._timer = None
        if self._is_waiting():
            self.transport.close()


def _accept_pending(listener: socket.socket) -> Iterator[socket.socket]:
    """Accept the connections in the backlog: the system resets them when the listener closes."""
    listener.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            yield connection


def _add_security_scheme(app: fastapi.FastAPI) -> None:
    """Mark the protected routes in the application's OpenAPI document."""
    document = app.openapi()
    document.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        if path.startswith(PROTECTED):
            for operation in methods.values():
                operation["security"] = [{"token": []}]
