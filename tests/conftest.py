"""Audio that tests make for themselves, and the real recordings where AURICLE_DATA names them."""

import atexit
import gc
import io
import os
import shutil
import tempfile

# Tensors of a test are small: several threads would spend their time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The developer's own encoders are not compared with: the cache of the Hugging Face Hub is an empty folder.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="auricle-hf-")
os.environ["HF_HUB_CACHE"] = os.path.join(os.environ["HF_HOME"], "hub")
os.environ["HF_ASSETS_CACHE"] = os.path.join(os.environ["HF_HOME"], "assets")

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

if TYPE_CHECKING:
    from tests.hub_stub import Hub

atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
RATE = 8000
PITCHES = {"high": 1800.0, "low": 300.0, "noise": 0.0}


def tone(label: str, seconds: float, seed: int, rate: int = RATE) -> np.ndarray:
    """A short sound of one of three classes that any classifier can tell apart: float (frames,)."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    noise = random.normal(0, 1, len(time))
    if label == "noise":
        return 0.3 * noise / 3
    pitch = PITCHES[label] * random.uniform(0.9, 1.1)
    wave = np.sin(2 * np.pi * pitch * time + random.uniform(0, 6)) * np.exp(-time * random.uniform(0, 3))
    return random.uniform(0.2, 0.6) * wave + 0.02 * noise


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's cache of decoded corpora."""
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


# A fifth of the time of the imports that collecting tests makes.
gc.disable()


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def frozen_imports() -> None:
    """Leave what tests import out of garbage collection, which every training asks for twice."""
    gc.collect()
    gc.freeze()


def write_corpus(folder: Path, per_class: int = 8, groups: int = 4, seconds: float = 0.5) -> Path:
    """Class folders of wav files named by group and number: 'device1_003.wav'."""
    for name, content in _corpus_files(per_class, groups, seconds):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@cache
def _corpus_files(per_class: int, groups: int, seconds: float) -> list[tuple[str, bytes]]:
    made = []
    for place, label in enumerate(PITCHES):
        for number in range(per_class):
            sound = tone(label, seconds * (1 + 0.1 * (number % 3)), seed=1000 * place + number)
            content = io.BytesIO()
            soundfile.write(content, sound, RATE, format="WAV", subtype="PCM_16")
            made.append((f"{label}/device{number % groups}_{number:03d}.wav", content.getvalue()))
    return made


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


@pytest.fixture(scope="session")
def make_corpus() -> Callable[..., Path]:
    return write_corpus


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the baseline on the three-class corpus."""
    from auricle import recipes
    from auricle.training.progress import ProgressReporter
    from auricle.training.run import run

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AURICLE_CACHE", str(folder / "cache"))
        run(write_corpus(folder / "corpus"), recipes.load("baseline"), folder / "run", ProgressReporter())
    return folder / "run"


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must be refused, with exit code 2, one message on stderr and no traceback; the message."""
    from auricle.cli.main import main

    try:
        code = main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    output = capsys.readouterr()
    assert code == 2, output.out
    assert "Traceback" not in output.err and output.err.strip()
    return output.err


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings; tests that need it are skipped where there is none."""
    folder = os.environ.get("AURICLE_DATA")
    if not folder:
        pytest.skip("AURICLE_DATA names no folder of real recordings")
    return Path(folder)


@pytest.fixture(scope="session")
def weights() -> Path:
    """The folder of published weights; tests that need it are skipped where there is none."""
    folder = os.environ.get("AURICLE_WEIGHTS")
    if not folder:
        pytest.skip("AURICLE_WEIGHTS names no folder of published weights")
    return Path(folder)


@pytest.fixture
def model_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[Hub]":
    """A Hugging Face Hub on this machine, and an empty cache."""
    from tests.hub_stub import serve

    yield from serve(tmp_path / "hf", monkeypatch)
