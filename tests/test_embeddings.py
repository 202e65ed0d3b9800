"""Embeddings in files: what is written is what is read, by clip, and a fit from a file is the fit from memory."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from auricle.models.features.ridge_layer import RidgeLayer
from auricle.models.features.vectors import Columns
from auricle.training import embeddings
from auricle.training.embeddings import ClipVectors, Embeddings, RowFile

COUNTS = (1, 3, 2, 1, 4)


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(sum(COUNTS), 6)).astype(np.float32)


@pytest.fixture
def stored(rows: np.ndarray, tmp_path: Path) -> Embeddings:
    """The rows of five clips, written in batches of any order."""
    file = RowFile(tmp_path / "vectors.npy", len(rows))
    for numbers in np.array_split(np.random.default_rng(1).permutation(len(rows)), 4):
        file.write(numbers, rows[numbers])
    ends = np.cumsum(COUNTS)
    return Embeddings(
        file.path,
        {
            f"clip{number}": slice(end - count, end)
            for number, (end, count) in enumerate(zip(ends, COUNTS, strict=True))
        },
    )


def test_what_is_written_in_batches_is_an_npy_file(stored: Embeddings, rows: np.ndarray) -> None:
    np.testing.assert_array_equal(np.load(stored.path), rows)


def test_a_clips_vector_is_the_mean_over_its_windows(stored: Embeddings, rows: np.ndarray) -> None:
    parts = np.split(rows, np.cumsum(COUNTS)[:-1])
    expected = np.stack([part.mean(0) for part in parts])
    vectors = stored.of([f"clip{number}" for number in range(len(COUNTS))])
    assert len(vectors) == len(COUNTS) and vectors.width == 6
    np.testing.assert_allclose(vectors.everything(), expected, rtol=1e-6)
    np.testing.assert_allclose(vectors[np.array([4, 0, 4])], expected[[4, 0, 4]], rtol=1e-6)
    np.testing.assert_array_equal(vectors[np.array([3])], rows[6:7])
    assert vectors[np.array([], int)].shape == (0, 6)


def test_columns_are_taken_of_every_row(stored: Embeddings, rows: np.ndarray) -> None:
    model: Any = SimpleNamespace(used_columns=lambda: np.array([5, 1]))
    vectors = stored.used_by(model).of(["clip3", "clip0"])
    assert vectors.width == 2
    np.testing.assert_array_equal(vectors.everything(), rows[[6, 0]][:, [5, 1]])
    np.testing.assert_array_equal(Columns(vectors, np.array([1]))[np.array([1])], rows[[0]][:, [1]])


@pytest.mark.parametrize("max_support", [100, 30], ids=["exact", "landmarks"])
def test_a_fit_from_a_file_is_the_fit_from_memory(tmp_path: Path, max_support: int) -> None:
    random, labels = np.random.default_rng(0), np.arange(60) % 3
    values = (random.normal(size=(60, 8)) + labels[:, None]).astype(np.float32)
    file = RowFile(tmp_path / "vectors.npy", 60)
    file.write(np.arange(60), values)
    vectors = ClipVectors(file.path, None, [slice(row, row + 1) for row in range(60)])
    fits = [
        RidgeLayer([4, 4], 3, 0).fitted(source, labels, None, class_weighted=True, max_support=max_support, seed=0)
        for source in (values, vectors)
    ]
    np.testing.assert_array_equal(fits[0].linear.numpy(), fits[1].linear.numpy())
    np.testing.assert_array_equal(fits[0].held_out, fits[1].held_out)


def test_logits_in_blocks_are_those_of_all_at_once(
    stored: Embeddings, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings.torch_runtime, "score_embeddings", lambda model, values: 2.0 * values[:, :3])
    ids, model = list(stored.rows), SimpleNamespace()
    whole = stored.logits(model, ids)  # type: ignore[arg-type]
    monkeypatch.setattr(embeddings, "BLOCK_CLIPS", 2)
    np.testing.assert_allclose(stored.logits(model, ids), whole)  # type: ignore[arg-type]
    np.testing.assert_allclose(whole, 2.0 * stored.of(ids).everything()[:, :3], rtol=1e-6)
