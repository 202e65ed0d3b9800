"""The HTTP API: audio in, predictions and embeddings out, as JSON. Its OpenAPI document matches its routes exactly."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

import fastapi
from fastapi import Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

import auricle
from auricle.errors import UsageError
from auricle.inference.events import EventRules
from auricle.inference.predictor import ScoredWindow
from auricle.serving import body, schema
from auricle.serving.api_docs import add_api_docs
from auricle.serving.decode import Upload
from auricle.serving.limits import RequestError
from auricle.serving.service import InferenceService, PredictOptions, Timeline

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1
TOP = 5
DESCRIPTION = "Send audio and get its predicted class. The format is detected from the content, not from the file name."
# The errors that a route with an audio body may answer with.
AUDIO_ERRORS = (400, 401, 408, 413, 415, 422, 429, 503, 504)

Positive = Annotated[float | None, Query(gt=0, le=3600, allow_inf_nan=False)]
Probability = Annotated[float, Query(gt=0, le=1, allow_inf_nan=False)]
Encoding = Literal["s16le", "s16be", "f32le"]
PcmRate = Annotated[int | None, Query(description="Raw PCM: the sample rate in hertz.")]
PcmChannels = Annotated[int, Query(description="Raw PCM: the number of channels.")]
PcmEncoding = Annotated[Encoding, Query(description="Raw PCM: the sample format.")]


inference = fastapi.APIRouter(tags=["Inference"])
monitoring = fastapi.APIRouter(tags=["Monitoring"])


def create_app(service: InferenceService) -> fastapi.FastAPI:
    """Create the application of a model. It warms the model up when it starts, and closes the service when it ends."""

    @contextlib.asynccontextmanager
    async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
        warm_up = app.state.warm_up = asyncio.create_task(service.scorer.warm())
        warm_up.add_done_callback(functools.partial(_check_warm_up, service))
        try:
            yield
        finally:
            warm_up.cancel()
            service.close()

    app = fastapi.FastAPI(
        title="auricle",
        version=auricle.__version__,
        summary=f"The model '{service.name}'.",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    _add_error_handlers(app, service)
    app.include_router(inference)
    app.include_router(monitoring)
    add_api_docs(app)
    return app


def _check_warm_up(service: InferenceService, warm_up: "asyncio.Task[None]") -> None:
    """A model that fails on a little noise fails on everything: report it to the operator."""
    if not warm_up.cancelled() and (error := warm_up.exception()) is not None:
        service.is_broken = True
        logger.critical("The model failed its warm-up.", exc_info=error)


@inference.post(
    "/v1/classify",
    summary="Classify audio",
    response_model=schema.Classification,
    responses=schema.error_responses(*AUDIO_ERRORS),
    openapi_extra=schema.AUDIO_BODY,
)
async def classify(
    request: Request,
    top: Annotated[int, Query(ge=1, le=10_000, description="How many classes to return.")] = TOP,
    windows: Annotated[Positive, Query(description="Also classify windows of this many seconds.")] = None,
    hop: Annotated[Positive, Query(description="Seconds between windows (default: half a window).")] = None,
    events: Annotated[bool, Query(description="Detect events.")] = False,
    onset: Annotated[Probability, Query(description="An event starts at this probability.")] = EventRules.onset,
    offset: Annotated[
        Probability | None,
        Query(description=f"An event ends below this probability (default: {EventRules.offset}, at most `onset`)."),
    ] = None,
    min_seconds: Annotated[
        float, Query(ge=0, le=3600, allow_inf_nan=False, description="Drop events shorter than this.")
    ] = EventRules.min_seconds,
    sample_rate: PcmRate = None,
    channels: PcmChannels = 1,
    encoding: PcmEncoding = "s16le",
) -> Response:
    service: InferenceService = request.app.state.service
    try:
        rules = EventRules(onset, min(onset, EventRules.offset) if offset is None else offset, min_seconds)
    except UsageError as error:
        raise RequestError("query", str(error)) from error
    options = PredictOptions(windows is not None, events, windows, hop, rules)
    async with service.slot() as slot:
        upload = await body.read(request, slot, service.limits)
        timeline = await service.predict(slot, _with_pcm(upload, sample_rate, channels, encoding), options)
    return _json(_classification(service, timeline, options, top))


@inference.post(
    "/v1/embed",
    summary="Compute an embedding",
    response_model=schema.Embedding,
    responses=schema.error_responses(*AUDIO_ERRORS),
    openapi_extra=schema.AUDIO_BODY,
)
async def embed(
    request: Request, sample_rate: PcmRate = None, channels: PcmChannels = 1, encoding: PcmEncoding = "s16le"
) -> Response:
    service: InferenceService = request.app.state.service
    async with service.slot() as slot:
        upload = await body.read(request, slot, service.limits)
        embedded = await service.embed(slot, _with_pcm(upload, sample_rate, channels, encoding))
    return _json(
        schema.Embedding(
            embedding=embedded.vector.astype(float).tolist(),
            content_hash=embedded.content,
            seconds=embedded.seconds,
            warnings=list(embedded.warnings),
            model=service.name,
        )
    )


@inference.get(
    "/v1/labels",
    summary="List the model's labels and limits",
    response_model=schema.ModelInfo,
    responses=schema.error_responses(401, 503),
)
async def labels(request: Request) -> Response:
    service: InferenceService = request.app.state.service
    classifier = service.classifier
    return _json(
        schema.ModelInfo(
            labels=list(classifier.labels),
            model=service.name,
            sample_rate=classifier.settings.sample_rate,
            channels=classifier.settings.channels,
            threshold=classifier.threshold,
            window_seconds=classifier.window_seconds,
            max_bytes=service.limits.body_bytes,
            max_seconds=service.limits.seconds,
        )
    )


@monitoring.get(
    "/healthz",
    summary="Liveness check",
    response_model=schema.Status,
    responses={503: {"model": schema.Status, "description": "The model is broken."}},
)
async def healthz(request: Request) -> Response:
    is_broken = request.app.state.service.is_broken
    return JSONResponse({"status": "broken" if is_broken else "alive"}, 503 if is_broken else 200)


@monitoring.get(
    "/readyz",
    summary="Readiness check",
    response_model=schema.Status,
    responses={503: {"model": schema.Status, "description": "The service is warming up or stopping."}},
)
async def readyz(request: Request) -> Response:
    service, warm_up = request.app.state.service, request.app.state.warm_up
    is_warm = warm_up.done() and not warm_up.cancelled() and warm_up.exception() is None
    status = "stopping" if service.stopping else "ready" if is_warm else "warming"
    return JSONResponse({"status": status}, 200 if status == "ready" else 503)


@monitoring.get(
    "/metrics",
    summary="Metrics in Prometheus format",
    response_class=Response,
    responses={
        200: {"description": "Metrics as text.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **schema.error_responses(401, 503),
    },
)
async def metrics(request: Request) -> Response:
    service: InferenceService = request.app.state.service
    service.metrics.in_progress.set(service.in_progress)
    service.metrics.body_bytes.set(service.held_bytes)
    return Response(service.metrics.text(), media_type=service.metrics.content_type)


def _with_pcm(upload: Upload, sample_rate: int | None, channels: int, encoding: Encoding) -> Upload:
    """The upload with the PCM format of the query, unless its media type states one."""
    if upload.pcm is not None or sample_rate is None:
        return upload
    return replace(upload, pcm=body.pcm(sample_rate, channels, encoding))


def _classification(
    service: InferenceService, timeline: Timeline, options: PredictOptions, top: int
) -> schema.Classification:
    prediction = timeline.prediction
    return schema.Classification(
        label=str(prediction.label),
        probability=prediction.probability,
        unknown=prediction.unknown,
        choices=list(prediction.choices[:top]),
        seconds=prediction.seconds,
        warnings=list(prediction.warnings),
        model=service.name,
        windows=[_window(service, window, top) for window in timeline.windows] if options.windows else None,
        events=list(timeline.events) if options.events else None,
    )


def _window(service: InferenceService, window: ScoredWindow, top: int) -> schema.WindowPrediction:
    prediction = service.classifier.window_prediction("", window)
    return schema.WindowPrediction(
        start=window.start,
        end=window.end,
        label=str(prediction.label),
        probability=prediction.probability,
        unknown=prediction.unknown,
        choices=list(prediction.choices[:top]),
    )


def _add_error_handlers(app: fastapi.FastAPI, service: InferenceService) -> None:
    count_rejected: Callable[[str], Any] = service.metrics.rejected.labels

    @app.exception_handler(RequestError)
    async def request_error(_: Request, error: RequestError) -> Response:
        count_rejected(error.kind).inc()
        headers = {"Retry-After": str(RETRY_SECONDS)} if error.status == 429 else {}
        return _error(error.status, error.kind, error.detail, headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> Response:
        count_rejected("query").inc()
        first = error.errors()[0]
        return _error(400, "query", f"'{first['loc'][-1]}' received {str(first.get('input'))[:80]!r}: {first['msg']}.")

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        return _error(error.status_code, "request", str(error.detail), dict(error.headers or {}))


def _error(status: int, kind: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"kind": kind, "detail": detail}}, status, headers)


def _json(content: BaseModel) -> Response:
    return JSONResponse(content.model_dump())
