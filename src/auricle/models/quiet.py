"""Keep progress bars and warnings of transformers off the terminal: the command line and notebooks show their own."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def quiet_process() -> None:
    """Silence them in this process, whether they are imported already or later; nothing is imported for it."""
    if sys.modules.get("transformers") is not None:
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence them in this block only: in Python, the process is not ours."""
    if importlib.util.find_spec("transformers") is None:
        yield
        return
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
