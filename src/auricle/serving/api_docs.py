"""The API documentation: FastAPI's own page, with Swagger UI from an installed package.

The browser fetches nothing from another host, and of the page's inline scripts only FastAPI's own may run.
"""

import base64
import hashlib
import html
import re
from importlib import resources

import fastapi
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response

ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}
# Swagger UI draws its arrows from data URIs and sets styles; 'Try it out' calls this server.
POLICY = (
    "default-src 'none'; script-src 'self' '{script_hash}'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_api_docs(app: fastapi.FastAPI) -> None:
    """Add the route `/docs` and the files that its page loads."""
    # URLs are relative: a proxy may serve the application below a path. The validator badge would ask another host.
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=f"{app.title} {app.version}: API documentation",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon.png",
        oauth2_redirect_url=None,
        swagger_ui_parameters={"validatorUrl": None},
    )
    script = re.search(rb"<script>(.*?)</script>", bytes(page.body), re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script.group(1)).digest()).decode()
    page.headers["content-security-policy"] = POLICY.format(script_hash=f"sha256-{digest}")
    static = resources.files("fastapi_offline") / "static"

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return page

    @app.get("/docs/{name}", include_in_schema=False)
    def asset(name: str) -> Response:
        if name not in ASSETS:
            raise fastapi.HTTPException(404, f"The documentation has no file '{name}'.")
        return Response(static.joinpath(name).read_bytes(), media_type=ASSETS[name])


def add_placeholder(app: fastapi.FastAPI, reason: str) -> None:
    """Show at the root of a service why it has no web page, with a link to the API documentation."""
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>auricle</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;"
        "margin:2rem auto;padding:0 1rem}</style></head>"
        f"<body><h1>auricle</h1><p>{html.escape(reason)}</p><p><a href='docs'>API documentation</a></p></body></html>"
    )

    @app.get("/", include_in_schema=False)
    async def root() -> HTMLResponse:
        return HTMLResponse(page)
