"""The service over HTTP: sounds in, what the model says of them out, as JSON.

In: an Asking. Out: a FastAPI application, whose OpenAPI document promises no more and no less than the routes do. A
page may be mounted at its root afterwards.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any, Literal

import fastapi
import numpy as np
from fastapi import Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

import auricle
from auricle.errors import UsageError
from auricle.inference.events import EventRules
from auricle.recipe import REFUSED
from auricle.serving import body, schema
from auricle.serving.api_docs import manual
from auricle.serving.decode import Pcm
from auricle.serving.limits import Refused
from auricle.serving.service import Asking, Told, Wanted

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1
TOP = 5
ABOUT = "Send a sound, and get what the model says of it. Bodies are known by their content, whatever their names say."

Positive = Annotated[float | None, Query(gt=0, le=3600, allow_inf_nan=False)]
Share = Annotated[float, Query(gt=0, le=1, allow_inf_nan=False)]
Form = Literal["s16le", "s16be", "f32le"]


def application(asking: Asking) -> fastapi.FastAPI:
    """Make the application of a model. It warms the model when it starts, and lets it go when it ends."""
    ready = asyncio.Event()

    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(_warm(asking, ready))
        warming.add_done_callback(functools.partial(_warmed, asking))
        try:
            yield
        finally:
            warming.cancel()
            asking.close()

    app = fastapi.FastAPI(
        title="auricle",
        version=auricle.__version__,
        summary=f"The model '{asking.name}'.",
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    _handle_errors(app, asking)
    _classify(app, asking)
    _embed(app, asking)
    _labels(app, asking)
    _states(app, asking, ready)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(manual(app.openapi()))

    return app


async def _warm(asking: Asking, ready: asyncio.Event) -> None:
    await asking.scorer.warm()
    ready.set()


def _warmed(asking: Asking, warming: "asyncio.Task[None]") -> None:
    """A model that cannot answer for a little noise answers for nothing: whoever looks after the service must know."""
    if not warming.cancelled() and (error := warming.exception()) is not None:
        asking.is_broken = True
        logger.critical("The model cannot answer.", exc_info=error)


def _classify(app: fastapi.FastAPI, asking: Asking) -> None:
    @app.post(
        "/v1/classify",
        operation_id="classify",
        summary="Say what a sound is",
        response_model=schema.Classified,
        responses=schema.refusals(400, 401, 408, 413, 415, 422, 429, 503, 504),
        openapi_extra=schema.BODY,
    )
    async def classify(
        request: Request,
        top: Annotated[int, Query(ge=1, le=10_000, description="How many classes to name.")] = TOP,
        windows: Annotated[Positive, Query(description="Answer for windows of so many seconds too.")] = None,
        hop: Annotated[Positive, Query(description="Seconds between windows (default: half a window).")] = None,
        events: Annotated[bool, Query(description="Merge windows into events.")] = False,
        on: Annotated[Share, Query(description="An event begins at this probability.")] = EventRules.on,
        off: Annotated[
            Share | None,
            Query(description=f"An event ends below this probability (default: {EventRules.off}, or `on`)."),
        ] = None,
        min_seconds: Annotated[
            float, Query(ge=0, le=3600, allow_inf_nan=False, description="Shorter events are left out.")
        ] = EventRules.min_seconds,
        rate: Annotated[int | None, Query(description="Of raw PCM: its sample rate in hertz.")] = None,
        channels: Annotated[int, Query(description="Of raw PCM: its channels.")] = 1,
        form: Annotated[Form, Query(description="Of raw PCM: how a sample is written.")] = "s16le",
    ) -> Response:
        try:
            rules = EventRules(on, min(on, EventRules.off) if off is None else off, min_seconds)
        except UsageError as error:
            raise Refused("query", str(error)) from error
        wanted = Wanted(windows is not None, events, windows, hop, rules)
        async with asking.turn() as turn:
            sent = await body.read(request, turn, asking.limits)
            told = await asking.answer(turn, sent.content, sent.name, wanted, _pcm(sent.pcm, rate, channels, form))
        return JSONResponse(_classified(asking, told, wanted, top))


def _embed(app: fastapi.FastAPI, asking: Asking) -> None:
    @app.post(
        "/v1/embed",
        operation_id="embed",
        summary="Give a sound's vector",
        response_model=schema.Embedded,
        responses=schema.refusals(400, 401, 408, 413, 415, 422, 429, 503, 504),
        openapi_extra=schema.BODY,
    )
    async def embed(
        request: Request,
        rate: Annotated[int | None, Query(description="Of raw PCM: its sample rate in hertz.")] = None,
        channels: Annotated[int, Query(description="Of raw PCM: its channels.")] = 1,
        form: Annotated[Form, Query(description="Of raw PCM: how a sample is written.")] = "s16le",
    ) -> Response:
        async with asking.turn() as turn:
            sent = await body.read(request, turn, asking.limits)
            found = await asking.vector(turn, sent.content, sent.name, _pcm(sent.pcm, rate, channels, form))
        return JSONResponse(
            {
                "vector": found.vector.astype(float).tolist(),
                "content": found.content,
                "seconds": found.seconds,
                "warnings": list(found.warnings),
                "model": asking.name,
            }
        )


def _labels(app: fastapi.FastAPI, asking: Asking) -> None:
    classifier, limits = asking.classifier, asking.limits

    @app.get(
        "/v1/labels",
        operation_id="labels",
        summary="Say what the model knows",
        response_model=schema.Labels,
        responses=schema.refusals(401, 503),
    )
    async def labels() -> Response:
        return JSONResponse(
            {
                "labels": list(classifier.labels),
                "model": asking.name,
                "sample_rate": classifier.settings.sample_rate,
                "channels": classifier.settings.channels,
                "threshold": classifier.threshold,
                "window_seconds": classifier.window_seconds,
                "max_bytes": limits.body_bytes,
                "max_seconds": limits.seconds,
            }
        )


def _states(app: fastapi.FastAPI, asking: Asking, ready: asyncio.Event) -> None:
    @app.get(
        "/healthz",
        operation_id="healthz",
        summary="Say that the service is alive",
        response_model=schema.State,
        responses={503: {"model": schema.State, "description": "The model cannot answer."}},
    )
    async def healthz() -> Response:
        return JSONResponse({"status": "broken"}, 503) if asking.is_broken else JSONResponse({"status": "alive"})

    @app.get(
        "/readyz",
        operation_id="readyz",
        summary="Say whether the service is ready for requests",
        response_model=schema.State,
        responses={
            503: {"model": schema.State, "description": "The model is not warm yet, or the service is stopping."}
        },
    )
    async def readyz() -> Response:
        state = "stopping" if asking.stopping else "ready" if ready.is_set() else "warming"
        return JSONResponse({"status": state}, 200 if state == "ready" else 503)

    @app.get(
        "/metrics",
        operation_id="metrics",
        summary="Count, for Prometheus",
        response_class=Response,
        responses={
            200: {"description": "Counters as text.", "content": {"text/plain": {"schema": {"type": "string"}}}},
            **schema.refusals(401, 503),
        },
    )
    async def metrics() -> Response:
        asking.metrics.under_way.set(asking.under_way)
        asking.metrics.held_bytes.set(asking.held_bytes)
        return Response(asking.metrics.text(), media_type=asking.metrics.content_type)


def _pcm(stated: Pcm | None, rate: int | None, channels: int, form: Form) -> Pcm | None:
    """What the body's type says of raw PCM, else what the query says."""
    if stated is not None or rate is None:
        return stated
    return body.pcm(rate, channels, form)


def _classified(asking: Asking, told: Told, wanted: Wanted, top: int) -> dict[str, Any]:
    answer = told.answer
    found: dict[str, Any] = {
        "label": answer.label,
        "probability": answer.probability,
        "unknown": answer.unknown,
        "choices": [{"label": one.label, "probability": one.probability} for one in answer.choices[:top]],
        "seconds": answer.seconds,
        "warnings": list(answer.warnings),
        "model": asking.name,
        "windows": None,
        "events": None,
    }
    if wanted.windows:
        found["windows"] = [
            {"start": one.start, "end": one.end, **_best(asking, one.probabilities, top)} for one in told.windows
        ]
    if wanted.events:
        found["events"] = [
            {"label": one.label, "start": one.start, "end": one.end, "probability": one.probability}
            for one in told.events
        ]
    return found


def _best(asking: Asking, row: np.ndarray, top: int) -> dict[str, Any]:
    """A window's likeliest classes, in the words of an answer."""
    labels, threshold = asking.classifier.labels, asking.classifier.threshold
    places: Sequence[int] = np.argsort(-row, kind="stable")[:top].tolist()
    choices = [{"label": labels[place], "probability": float(row[place])} for place in places]
    unknown = threshold is not None and float(row[places[0]]) < threshold
    label = REFUSED if unknown else labels[places[0]]
    return {"label": label, "probability": float(row[places[0]]), "unknown": unknown, "choices": choices}


def _handle_errors(app: fastapi.FastAPI, asking: Asking) -> None:
    rejected: Callable[[str], Any] = asking.metrics.rejected.labels

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        rejected(error.kind).inc()
        headers = {"Retry-After": str(RETRY_SECONDS)} if error.status == 429 else {}
        return _error(error.status, error.kind, error.detail, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        rejected("query").inc()
        first = error.errors()[0]
        return _error(400, "query", f"'{first['loc'][-1]}' received {str(first.get('input'))[:80]!r}: {first['msg']}.")

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        return _error(error.status_code, "request", str(error.detail), dict(error.headers or {}))


def _error(status: int, kind: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"kind": kind, "detail": detail}}, status, headers)
