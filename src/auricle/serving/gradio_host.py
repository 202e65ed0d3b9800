"""Gradio without its openness: no analytics, no history, no web fonts, no shared folder, no file access.

Gradio reads two of these settings from the environment when it is imported: it is imported only where it is used.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

import fastapi
from starlette.middleware import Middleware

from auricle.serving.upload_guard import UploadGuard

if TYPE_CHECKING:
    import gradio as gr

PAGE_CSS = resources.files("auricle.serving") / "templates" / "page.css"


@contextlib.contextmanager
def gradio_environment() -> Iterator[None]:
    """Turn analytics off and give Gradio a temporary folder of its own. Enter this before Gradio is imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with tempfile.TemporaryDirectory(prefix="auricle-page-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield


def mount(
    app: fastapi.FastAPI,
    blocks: "gr.Blocks",
    stylesheet: Traversable,
    *,
    max_upload_bytes: int = 0,
    is_stopping: Callable[[], bool] = lambda: False,
    check_login: Callable[[str, str], bool] | None = None,
) -> None:
    """Mount a page at the root of an application, with a stylesheet after the common one.

    `max_upload_bytes` is 0 where nothing may be uploaded.
    """
    import gradio as gr

    guard = Middleware(
        UploadGuard,
        folder=Path(os.environ["GRADIO_TEMP_DIR"]),
        max_file_bytes=max_upload_bytes,
        is_stopping=is_stopping,
    )
    gr.mount_gradio_app(
        app,
        blocks,
        "/",
        theme=gr.themes.Default(
            font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"), primary_hue="blue"
        ),
        css="".join(sheet.read_text(encoding="utf-8") for sheet in (PAGE_CSS, stylesheet)),
        head='<meta name="viewport" content="width=device-width, initial-scale=1">',
        max_file_size=max(1, max_upload_bytes),
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        auth=check_login,
        auth_message="The password is the service's token. Enter any user name.",
        app_kwargs={"middleware": [guard]},
    )
