"""The notebook of the first hour runs from its first cell to its last, and shows its results."""

import json
import os
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first_hour.ipynb"


def test_it_is_stored_without_outputs() -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in content["cells"])


def test_it_runs_and_shows_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="the notebook is run with nbformat, nbclient and ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="the notebook is run with nbformat, nbclient and ipykernel")
    pytest.importorskip("ipykernel", reason="the notebook is run with nbformat, nbclient and ipykernel")
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "src"), prepend=os.pathsep)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # One kernel that is this Python: the kernels that a machine has installed may be others.
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    pages = [
        "".join(output["data"]["text/html"]) for output in outputs(notebook) if "text/html" in output.get("data", {})
    ]
    assert any("clips usable" in page for page in pages)
    assert any("report.html" in page for page in pages)
    printed = "".join(output["text"] for output in outputs(notebook) if output["output_type"] == "stream")
    assert "held-out test clips" in printed
    assert (tmp_path / "runs" / "first" / "report.html").is_file()


def outputs(notebook) -> list:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
