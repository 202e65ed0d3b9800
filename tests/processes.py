"""Processes that tests end by a signal: they begin with PyTorch imported, which takes a fresh one seconds."""

import multiprocessing
import os
from collections.abc import Mapping
from multiprocessing.process import BaseProcess

CONTEXT = multiprocessing.get_context("forkserver")
# All forks of one process that has run nothing: no thread, no random state and no module that a test has changed.
CONTEXT.set_forkserver_preload(
    ["auricle.training.run", "auricle.training.finetune", "auricle.training.loop", "auricle.evaluation.evaluate"]
)


def start_python(code: str, environment: Mapping[str, str] | None = None) -> BaseProcess:
    """Run Python code in a process of its own, by default in this one's environment."""
    given = dict(os.environ if environment is None else environment)
    process: BaseProcess = CONTEXT.Process(target=_execute, args=(code, given))
    process.start()
    return process


def run_python(code: str, environment: Mapping[str, str] | None = None) -> int:
    """Run Python code as `start_python` does to its end; gives its exit code."""
    process = start_python(code, environment)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _execute(code: str, environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    exec(code, {})
