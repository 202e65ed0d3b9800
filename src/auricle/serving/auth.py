"""Authentication by a bearer token, and the count of all requests. Plain ASGI: it neither reads nor buffers bodies."""

import hmac
import time
from typing import Any

import fastapi
from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from auricle.serving.local_server import Application, Message, Send
from auricle.serving.service import InferenceService

ROUTES = ("/v1/classify", "/v1/embed", "/v1/labels", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs")
PROTECTED = ("/v1/", "/metrics")
OTHER_ROUTE = "other"


class AuthMiddleware:
    """An ASGI application before another. With a token, the model's routes and the metrics require it."""

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


def add_security_scheme(app: fastapi.FastAPI) -> None:
    """Mark the protected routes in the application's OpenAPI document."""
    document = app.openapi()
    document.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        if path.startswith(PROTECTED):
            for operation in methods.values():
                operation["security"] = [{"token": []}]
