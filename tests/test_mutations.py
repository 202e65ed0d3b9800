"""Two thousand damaged files, through the audit and through prediction: each gets a verdict, none a crash or a hang."""

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from auricle import recipes
from auricle.audio.recordings import recordings
from auricle.inference.classifier import Classifier
from auricle.models.load import build_model
from auricle.training.grouping import inspect
from tests.conftest import RATE, tone

COUNT = 2000
CONTAINERS = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_24"),
    "au": ("AU", "ULAW"),
}


def originals(seed: int = 3) -> dict[str, bytes]:
    """One sound in each container."""
    made = {}
    for suffix, (container, subtype) in CONTAINERS.items():
        buffer = io.BytesIO()
        soundfile.write(buffer, tone("low", 0.4, seed), RATE, format=container, subtype=subtype)
        made[suffix] = buffer.getvalue()
    return made


def mutated(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """Flip bits, cut, splice with another file, repeat a stretch, or overwrite the header."""
    data = bytearray(content)
    kind = random.integers(6)
    if kind == 0:
        for place in random.integers(len(data) * 8, size=int(random.integers(1, 40))):
            data[place // 8] ^= 1 << (place % 8)
    elif kind == 1:
        data = data[: int(random.integers(len(data)))]
    elif kind == 2:
        cut, at = int(random.integers(len(data))), int(random.integers(len(other)))
        data = data[:cut] + bytearray(other[at:])
    elif kind == 3:
        start = int(random.integers(len(data)))
        data = data[:start] + data[max(0, start - 200) : start] * 3 + data[start:]
    elif kind == 4:
        data[: min(64, len(data))] = random.integers(0, 256, min(64, len(data)), dtype=np.uint8).tobytes()
    else:
        start = int(random.integers(min(80, len(data))))
        data[start : start + 4] = b"\xff\xff\xff\x7f"
    return bytes(data)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Damaged files under two labels, one in ten under a name that belongs to another container."""
    folder = tmp_path_factory.mktemp("damaged")
    random = np.random.default_rng(7)
    sounds, names = [originals(seed) for seed in range(40)], list(CONTAINERS)
    for label in ("a", "b"):
        (folder / label).mkdir()
    for number in range(COUNT):
        made = sounds[number % len(sounds)]
        suffix, other = names[number % len(names)], names[int(random.integers(len(names)))]
        content = mutated(made[suffix], made[other], random)
        shown = other if number % 10 == 0 else suffix
        (folder / "ab"[number % 2] / f"{number:04d}.{shown}").write_bytes(content)
    return folder


def test_every_damaged_file_gets_a_verdict_from_the_audit(damaged: Path) -> None:
    start = time.perf_counter()
    audit = inspect(damaged, recipes.parse({}, "test"), lambda *_: None).audit
    assert audit.clips == COUNT
    assert audit.usable + len(audit.quarantined_ids) == COUNT
    assert all(fault.kind and fault.detail for fault in (*audit.quarantined, *audit.warnings))
    assert COUNT * 0.2 < audit.usable < COUNT * 0.9
    json.dumps(audit.as_json())
    assert time.perf_counter() - start < 120


def test_every_damaged_file_gets_an_answer_or_a_reason_from_prediction(damaged: Path) -> None:
    settings = recipes.parse({"audio": {"sample_rate": RATE}, "model": {"size": "tutorial"}}, "test")
    classifier = Classifier(build_model(settings, ("a", "b")))
    start = time.perf_counter()
    answers = list(classifier.predict(recordings([str(damaged)])))
    assert len(answers) == COUNT
    for answer in answers:
        if answer.error is None:
            assert answer.label in ("a", "b") and np.isfinite(answer.probability) and answer.seconds > 0
        else:
            assert not answer.choices and answer.error
    assert COUNT * 0.05 < sum(answer.error is not None for answer in answers) < COUNT * 0.8
    assert time.perf_counter() - start < 180
