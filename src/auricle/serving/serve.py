"""A model served over HTTP, from the first connection to the last answer.

In: a model folder, an address and limits. Out: a server that runs until it is told to stop; then it takes no new
connection, answers every request that came, and ends. A second signal ends it at once.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import fastapi
import uvicorn
from starlette.middleware.trustedhost import TrustedHostMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from auricle.errors import UsageError
from auricle.inference.classifier import Classifier, Runtime, load
from auricle.serving.app import application
from auricle.serving.auth import Guard, document
from auricle.serving.batching import Scorer
from auricle.serving.limits import Limits
from auricle.serving.local_server import LOOPBACK_NAMES, Application, claim, is_loopback, sealed
from auricle.serving.metrics import Metrics
from auricle.serving.service import Asking

# While it stops, a connection that is open and idle may still bring a request for so long: it may be on its way.
LINGER_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15
# A request's head is small; whoever needs longer for it keeps a connection that others want.
HEAD_SECONDS = 10.0
# Many more connections than requests: most are idle between two requests, and a refusal needs one too.
CONNECTIONS = 4096

Mount = Callable[[fastapi.FastAPI, Asking], None]


@dataclass(frozen=True)
class Served:
    """What is asked of a service: where it listens, its token, and what it takes. Port 0 is any free one.

    `open_to_all` lets others than this machine ask without a token.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    open_to_all: bool = False
    refuse: bool = True
    precision: str = "auto"
    runtime: Runtime = "auto"
    limits: Limits = field(default_factory=Limits)


def serve(run: Path, asked: Served, opened: Callable[[str], None], mount: Mount) -> None:
    """Open a run, model or exported folder and serve it until a signal; `opened` gets the address.

    `mount` may add pages to the application. Raises UsageError for an address that cannot be had, or that others can
    reach without a token; RunError for a folder that is no model.
    """
    if asked.token is None and not asked.open_to_all and not is_loopback(asked.host):
        raise UsageError(
            f"--host received '{asked.host}', which other machines can reach, and there is no token. Set one in "
            "AURICLE_TOKEN or with --token-file, or let everybody in with --open."
        )
    with claim(asked.host, asked.port) as listener:
        classifier = load(run, asked.precision, refuse=asked.refuse, runtime=asked.runtime)
        asking = ask(classifier, asked.limits, run.resolve().name)
        app = guarded(asking, asked, mount)
        host, port = listener.getsockname()[:2]
        opened(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
        Draining(app, asking).run(sockets=[listener])


def ask(classifier: Classifier, limits: Limits, name: str) -> Asking:
    """Put a model behind its queue."""
    metrics = Metrics()
    return Asking(classifier, limits, Scorer(classifier, limits, metrics), metrics, name)


def guarded(asking: Asking, asked: Served, mount: Mount) -> Application:
    """The application with its pages, behind its door."""
    app = application(asking)
    mount(app, asking)
    if asked.token is not None:
        document(app)
    # A page elsewhere, open in a browser of this machine, must not reach the service under a name of its own.
    names = LOOPBACK_NAMES if is_loopback(asked.host) else ["*"]
    return sealed(TrustedHostMiddleware(Guard(app, asking, asked.token), allowed_hosts=names))


class Draining(uvicorn.Server):
    """A server that loses nothing when it stops."""

    def __init__(self, app: Application, asking: Asking) -> None:
        limits = asking.limits
        config = uvicorn.Config(
            app,
            http=Line,
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
        self._asking = asking

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; a second signal ends the process."""
        if self.should_exit:
            os._exit(128 + signal.Signals(sig).value)
        self._asking.stopping = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the door, answer whom it let in, and end.

        From the signal on every answer says that its connection closes, so that those in use end by themselves.
        """
        late = [line for listener in sockets or [] for line in _waiting(listener)]
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for line in late:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, line)
        end = time.monotonic() + LINGER_SECONDS
        while self.server_state.connections and time.monotonic() < end:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        """What uvicorn makes for a connection that it accepts by itself."""
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


class Line(HttpToolsProtocol):
    """A connection that is closed when the head of a request takes too long."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._late: asyncio.TimerHandle | None = None
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait on, if this was no whole head; uvicorn itself only waits where nothing comes at all."""
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        super().connection_lost(exc)
        self._wait()

    def _wait(self) -> None:
        wants_head = not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete)
        if wants_head and self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._give_up)
        elif not wants_head and self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def _waiting(listener: socket.socket) -> Iterator[socket.socket]:
    """Accept the connections that wait at a door: where it is closed before them, the system cuts them off."""
    listener.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            line, _ = listener.accept()
            line.setblocking(False)
            yield line
