"""The JSON bodies of the service's answers. The OpenAPI document is generated from them, and the routes return them."""

from typing import Any

from pydantic import BaseModel

from auricle.inference.classifier import ClassProbability
from auricle.inference.events import Event
from auricle.serving.body import FIELD, FORM


class WindowPrediction(BaseModel):
    """The prediction for a window, in seconds from the start of the recording."""

    start: float
    end: float
    label: str
    probability: float
    unknown: bool
    choices: list[ClassProbability]


class Classification(BaseModel):
    """The predicted class. If `unknown` is true, no class reached the threshold, and `label` is 'unknown'."""

    label: str
    probability: float
    unknown: bool
    choices: list[ClassProbability]
    seconds: float
    warnings: list[str]
    model: str
    windows: list[WindowPrediction] | None = None
    events: list[Event] | None = None


class Embedding(BaseModel):
    """An embedding of length 1. `content_hash` identifies the decoded samples."""

    embedding: list[float]
    content_hash: str
    seconds: float
    warnings: list[str]
    model: str


class ModelInfo(BaseModel):
    """The model's labels and input format. Below `threshold` the answer is 'unknown'; null turns that off."""

    labels: list[str]
    model: str
    sample_rate: int
    channels: int
    threshold: float | None
    window_seconds: float
    max_bytes: int
    max_seconds: float


class Status(BaseModel):
    """The state of the service."""

    status: str


class ErrorInfo(BaseModel):
    """An error: a code for programs and a sentence for people."""

    kind: str
    detail: str


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorInfo


ERRORS = {
    400: "The query or the form in the body is invalid.",
    401: "The token is missing or wrong.",
    408: "The body arrived too slowly.",
    413: "The body is too large.",
    415: "The media type of the body is not audio.",
    422: "The audio cannot be used. `kind` is one of: unreadable, empty, truncated, nan, long, channels, rate.",
    429: "The service is at its limit. `Retry-After` gives the seconds to wait.",
    503: "Too many connections are open.",
    504: "The deadline passed before the answer was ready.",
}
RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of a route's errors."""
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": ERRORS[status]} for status in statuses
    }
    if 429 in responses:
        responses[429]["headers"] = RETRY_AFTER
    if 503 in responses:
        responses[503] = {"description": ERRORS[503], "content": {"text/plain": {"schema": {"type": "string"}}}}
    return responses


_BINARY = {"type": "string", "format": "binary"}
AUDIO_BODY = {
    "requestBody": {
        "required": True,
        "description": "An audio file, sent as the body or as a form field. The format is detected from the content. "
        "Raw PCM is sent as audio/L16 with rate and channels, or with `sample_rate` in the query.",
        "content": {
            "application/octet-stream": {"schema": _BINARY},
            FORM: {"schema": {"type": "object", "required": [FIELD], "properties": {FIELD: _BINARY}}},
            "audio/L16;rate=16000;channels=1": {"schema": _BINARY},
        },
    }
}
