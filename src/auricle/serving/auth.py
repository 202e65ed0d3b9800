"""The door before the routes: who may come in, how many came, and how long they stayed.

In: every request. Out: the same to the application, where its token is right; counted in the metrics. Plain ASGI: it
neither reads nor buffers bodies.
"""

import hmac
import json
import time
from typing import Any

import fastapi

from auricle.serving.local_server import Application, Message, Send
from auricle.serving.service import Asking

ROUTES = ("/v1/classify", "/v1/embed", "/v1/labels", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs")
CLOSED = ("/v1/", "/metrics")
UNKNOWN_ROUTE = "other"


class Guard:
    """An ASGI application before another. With a token, the model's routes and the metrics want it."""

    def __init__(self, application: Application, asking: Asking, token: str | None) -> None:
        self._application = application
        self._asking = asking
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        start, path, metrics = time.perf_counter(), scope["path"], self._asking.metrics
        route = path if path in ROUTES else UNKNOWN_ROUTE

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                metrics.requests.labels(route, str(message["status"])).inc()
                if self._asking.stopping:
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        if path.startswith(CLOSED) and not self._knows(scope):
            metrics.rejected.labels("token").inc()
            await _unauthorised(sending)
        else:
            await self._application(scope, receive, sending)
        metrics.seconds.labels(route).observe(time.perf_counter() - start)

    def _knows(self, scope: Message) -> bool:
        if self._expected is None:
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, self._expected)


def document(app: fastapi.FastAPI) -> None:
    """Say in the application's OpenAPI document which routes want the token."""
    told = app.openapi()
    told.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, methods in told["paths"].items():
        if path.startswith(CLOSED):
            for operation in methods.values():
                operation["security"] = [{"token": []}]


async def _unauthorised(send: Send) -> None:
    error = {"kind": "token", "detail": "The service wants its token: 'Authorization: Bearer …'."}
    body = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b"Bearer"),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})
