"""The shapes of what the service says, for its documentation: what OpenAPI promises, the routes keep."""

from typing import Any

from pydantic import BaseModel, Field

from auricle.serving.body import FIELD, FORM


class Choice(BaseModel):
    """One class and its probability."""

    label: str
    probability: float = Field(ge=0, le=1.000001)


class Window(BaseModel):
    """What is heard in a stretch, in seconds from the start: the likeliest classes."""

    start: float
    end: float
    label: str
    probability: float
    unknown: bool
    choices: list[Choice]


class Event(BaseModel):
    """A stretch, in seconds from the start, in which a class is heard."""

    label: str
    start: float
    end: float
    probability: float


class Classified(BaseModel):
    """What a sound is. `unknown`: the likeliest class is not likely enough, and `label` is 'unknown'."""

    label: str
    probability: float
    unknown: bool
    choices: list[Choice]
    seconds: float
    warnings: list[str]
    model: str
    windows: list[Window] | None = None
    events: list[Event] | None = None


class Embedded(BaseModel):
    """What a sound sounds like to the model: a vector of length 1. `content` is a hash of the samples heard."""

    vector: list[float]
    content: str
    seconds: float
    warnings: list[str]
    model: str


class Labels(BaseModel):
    """What the model knows, and how it hears. Below `threshold` an answer is 'unknown'; null where it never is."""

    labels: list[str]
    model: str
    sample_rate: int
    channels: int
    threshold: float | None
    window_seconds: float
    max_bytes: int
    max_seconds: float


class State(BaseModel):
    """Whether the service is alive, or ready."""

    status: str


class Fault(BaseModel):
    """Why there is no answer: one word for programs, a sentence for people."""

    kind: str
    detail: str


class Error(BaseModel):
    """The body of every answer that is none."""

    error: Fault


REFUSALS = {
    400: "The query or the form of the body is wrong.",
    401: "The service has a token, and the request has another or none.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is of a type that is no sound.",
    422: "The sound cannot be used; `kind` names its fault: unreadable, empty, truncated, nan, long, channels, rate.",
    429: "Too many requests are under way. `Retry-After` says when to try again.",
    503: "Too many connections are open.",
    504: "There was no answer in time.",
}
RETRY = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers with these statuses, for a route's documentation."""
    told: dict[int | str, dict[str, Any]] = {
        status: {"model": Error, "description": REFUSALS[status]} for status in statuses
    }
    if 429 in told:
        told[429]["headers"] = RETRY
    if 503 in told:
        told[503] = {"description": REFUSALS[503], "content": {"text/plain": {"schema": {"type": "string"}}}}
    return told


_BINARY = {"type": "string", "format": "binary"}
BODY = {
    "requestBody": {
        "required": True,
        "description": "A sound file, as it is or in a form; its content alone says what it is. Or raw PCM: as "
        "audio/L16 with rate and channels, or with `rate` in the query.",
        "content": {
            "application/octet-stream": {"schema": _BINARY},
            FORM: {"schema": {"type": "object", "required": [FIELD], "properties": {FIELD: _BINARY}}},
            "audio/L16;rate=16000;channels=1": {"schema": _BINARY},
        },
    }
}
