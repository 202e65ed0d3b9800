"""The service's documentation as a page of its own: no script, nothing fetched from elsewhere.

In: the OpenAPI document. Out: HTML that says the same, route by route.
"""

import html
from collections.abc import Iterator, Mapping
from typing import Any

import fastapi
from fastapi.responses import HTMLResponse

STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "h2{border-top:1px solid #8884;padding-top:1rem}code,pre{font-family:ui-monospace,monospace;font-size:.92em}"
    "pre{background:#8881;padding:.7rem;overflow-x:auto}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #8883}"
)


def manual(document: Mapping[str, Any]) -> str:
    """Write the page."""
    info = document["info"]
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{_text(info['title'])}</title><style>{STYLE}</style></head><body>",
        f"<h1>{_text(info['title'])} {_text(info['version'])}</h1>",
        f"<p>{_text(info.get('summary', ''))} {_text(info.get('description', ''))}</p>",
        "<p>For programs: <a href='openapi.json'>openapi.json</a>.</p>",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts += _operation(document, path, method, operation)
    return "".join([*parts, "</body></html>"])


def doorplate(app: fastapi.FastAPI, why: str) -> None:
    """Say at the root of a service why there is no page for people, and where the documentation is."""
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>auricle</title>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{STYLE}</style></head>"
        f"<body><h1>auricle</h1><p>{_text(why)}</p><p>For programs: <a href='docs'>documentation</a>.</p></body></html>"
    )

    @app.get("/", include_in_schema=False)
    async def root() -> HTMLResponse:
        return HTMLResponse(page)


def _operation(document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h2 id='{_text(operation['operationId'])}'><code>{method.upper()} {_text(path)}</code></h2>"
    yield f"<p>{_text(operation['summary'])}.</p>"
    if method == "post":
        yield f"<p>{_text(operation['requestBody']['description'])}</p>"
        yield f"<pre>curl -F file=@sound.wav http://localhost:8000{_text(path)}\n"
        yield f"curl --data-binary @sound.wav http://localhost:8000{_text(path)}</pre>"
    if rows := [_parameter(one) for one in operation.get("parameters", ())]:
        yield _table(("query", "kind", "default", "what"), rows)
    rows = [
        (f"<code>{status}</code>", _shape(document, answer), _text(answer["description"]))
        for status, answer in operation["responses"].items()
    ]
    yield _table(("status", "body", "when"), rows)


def _parameter(one: Mapping[str, Any]) -> tuple[str, ...]:
    kinds = one["schema"].get("anyOf", [one["schema"]])
    kind = next(kind for kind in kinds if kind.get("type") != "null")
    words = " or ".join(kind["enum"]) if "enum" in kind else kind["type"]
    least = kind.get("minimum", kind.get("exclusiveMinimum"))
    if least is not None and "maximum" in kind:
        words += f", {least:g} to {kind['maximum']:g}"
    default = one["schema"].get("default")
    shown = "" if default is None else f"<code>{_text(default)}</code>"
    return (f"<code>{_text(one['name'])}</code>", _text(words), shown, _text(one.get("description", "")))


def _shape(document: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    """The fields of a JSON body, with their kinds."""
    for media, content in answer.get("content", {}).items():
        name = content["schema"].get("$ref", "").rpartition("/")[2]
        if not name:
            return _text(media)
        fields = document["components"]["schemas"][name]["properties"]
        return "<br>".join(f"<code>{_text(field)}</code> {_text(_kind(kind))}" for field, kind in fields.items())
    return ""


def _kind(kind: Mapping[str, Any]) -> str:
    if "anyOf" in kind:
        return " or ".join(_kind(one) for one in kind["anyOf"])
    if "$ref" in kind:
        return str(kind["$ref"].rpartition("/")[2]).lower()
    if kind.get("type") == "array":
        return f"list of {_kind(kind['items'])}s"
    return str(kind.get("type", "anything"))


def _table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in heading)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _text(value: object) -> str:
    return html.escape(str(value))
