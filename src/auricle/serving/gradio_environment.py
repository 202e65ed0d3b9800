"""Gradio as it has to be: it tells nobody of its starts, and leaves nothing in a folder that all users share.

It reads both wishes from the environment when it is imported, so this module does not import it.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def closed() -> Iterator[None]:
    """Keep Gradio to itself. Enter before it is imported; its folder is gone at the end."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with tempfile.TemporaryDirectory(prefix="auricle-listen-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield
