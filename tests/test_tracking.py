"""What a tracker holds when a run is over: curves, test metrics, the confusion matrix, the model. Nothing is sent."""

import json
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from auricle import recipes
from auricle.errors import RunError
from auricle.evaluation.intervals import Interval
from auricle.evaluation.report import BaselineComparison, Report
from auricle.training import tracking
from auricle.training.progress import ProgressReporter
from auricle.training.run import run
from tests.reports import small_report


def tracked_run(corpus: Path, out: Path, tracker: str, **data: object) -> Report:
    """A run of one epoch that is followed by a tracker."""
    content = {
        "name": "small",
        "data": {"test_size": 0.25, "validation_size": 0.25, **data},
        "model": {"family": "cnn", "ensemble_baseline": False},
        "train": {"epochs": 1, "batch_size": 8, "precision": "float32", "report_to": tracker},
        "evaluate": {"bootstrap_resamples": 100, "embed_audio": False},
    }
    return run(corpus, recipes.parse(content, "test"), out, ProgressReporter())


def _log_of(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format (blocks of 32 KiB) after a head of 7 bytes."""
    place, parts = 7, []
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        size, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        parts.append(content[place + 7 : place + 7 + size])
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield b"".join(parts)
            parts = []


def test_runs_are_named_by_run_fold_and_seed() -> None:
    names = {
        "runs/folk/emodb": "emodb",
        "runs/emodb/folds/03-anna": "emodb/folds/03-anna",
        "runs/emodb/seeds/01": "emodb/seeds/01",
        "runs/emodb/seeds/01/folds/02": "emodb/seeds/01/folds/02",
        "folds/emodb": "emodb",
    }
    assert {folder: tracking.run_name(Path(folder)) for folder in names} == names


def test_wandb_holds_curves_metrics_confusions_and_the_model_offline(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    report = tracked_run(corpus, tmp_path / "run", "wandb")
    # `finish` only tells wandb's service to close the run's file; until the service has ended, the last block may be
    # in its buffer, which is all of a short run.
    wandb.teardown()
    logs = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(logs) == 1
    records = [Record.FromString(content) for content in _log_of(logs[0].read_bytes())]
    history = {item.key or "/".join(item.nested_key) for record in records for item in record.history.item}
    assert {"train/loss", "eval/balanced_accuracy", "test/confusion_table/ncols"} <= history
    summary = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for record in records
        for item in record.summary.update
    }
    assert summary["test/accuracy"] == report.metrics["accuracy"].value
    assert next(record.run.display_name for record in records if record.HasField("run")) == "run"
    artifacts = [record.request.log_artifact.artifact for record in records if record.HasField("request")]
    artifacts += [record.artifact for record in records if record.HasField("artifact")]
    models = [artifact for artifact in artifacts if artifact.type == "model"]
    files = {entry.path for artifact in models for entry in artifact.manifest.contents}
    assert {"config.json", "model.safetensors"} <= files


def test_mlflow_holds_curves_metrics_confusions_and_the_model(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{tmp_path / 'store'}")
    report = tracked_run(corpus, tmp_path / "run", "mlflow", split="folds", folds=2)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(tracking.PROJECT)
    found = {held.info.run_name: held for held in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"run", "run/folds/01-1", "run/folds/02-2"}
    assert all(held.info.status == "FINISHED" and "loss" in held.data.metrics for held in found.values())
    kept = found["run"]
    assert kept.data.metrics["test/accuracy"] == pytest.approx(report.metrics["accuracy"].value)
    assert not any(name.startswith("test/") for name in found["run/folds/01-1"].data.metrics)
    names = {item.path for item in client.list_artifacts(kept.info.run_id, "model")}
    assert {"model/config.json", "model/model.safetensors"} <= names
    confusion = mlflow.artifacts.load_dict(f"runs:/{kept.info.run_id}/confusion.json")
    assert confusion["confusion_matrix"] == [list(row) for row in report.confusion_matrix]


def test_trackio_holds_curves_metrics_confusions_and_the_model(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trackio = pytest.importorskip("trackio")
    for name, module in list(sys.modules.items()):
        for constant, place in (("TRACKIO_DIR", ""), ("MEDIA_DIR", "media"), ("ARTIFACTS_DIR", "artifacts")):
            if name.startswith("trackio") and hasattr(module, constant):
                monkeypatch.setattr(module, constant, tmp_path / "trackio" / place)
    report = tracked_run(corpus, tmp_path / "run", "trackio")
    assert "Trackio" not in capsys.readouterr().out
    kept = list(trackio.Api().runs(tracking.PROJECT))
    assert [held.name for held in kept] == ["run"]
    logs = trackio.sqlite_storage.SQLiteStorage.get_logs(tracking.PROJECT, "run", run_id=kept[0].id)
    held = {name: value for line in logs for name, value in line.items()}
    assert {"train/loss", "eval/accuracy"} <= set(held)
    assert held["test/accuracy"] == pytest.approx(report.metrics["accuracy"].value)
    rows = held["test/confusion"]["_value"]
    assert [row["clips"] for row in rows] == [count for row in report.confusion_matrix for count in row]
    (model,) = trackio.sqlite_storage.SQLiteStorage.list_artifacts(tracking.PROJECT)
    assert model["name"] == "model-run" and model["type"] == "model"


def test_tensorboard_holds_curves_metrics_and_confusions_in_the_run_folder(
    make_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    corpus = make_corpus(tmp_path / "corpus", groups=8)
    report = tracked_run(corpus, tmp_path / "run", "tensorboard", split="folds", folds=2)
    held = {}
    for folder in ("run", "folds/01-1", "folds/02-2"):
        held[folder] = EventAccumulator(str(tmp_path / "run" / "tensorboard" / folder))
        held[folder].Reload()
        assert "train/loss" in held[folder].Tags()["scalars"]
    assert "eval/accuracy" in held["folds/01-1"].Tags()["scalars"]
    assert "test/accuracy" not in held["folds/01-1"].Tags()["scalars"]
    kept = held["run"]
    assert kept.Scalars("test/accuracy")[0].value == pytest.approx(report.metrics["accuracy"].value)
    assert "test/confusion" in kept.Tags()["images"]
    table = kept.Tensors("test/confusion/text_summary")[0].tensor_proto.string_val[0].decode()
    labels = report.labels
    assert f"| {labels[0]} | " + " | ".join(str(count) for count in report.confusion_matrix[0]) in table


def test_an_unavailable_tracker_is_one_sentence(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    mlflow.set_tracking_uri(f"file:{tmp_path / 'store'}")
    with pytest.raises(RunError, match=r"MLflow is unavailable.*report_to: none"):
        tracked_run(corpus, tmp_path / "run", "mlflow")


def test_metrics_are_logged_with_their_interval_and_the_baseline() -> None:
    interval = Interval(0.5, 0.4, 0.6)
    baseline = BaselineComparison({"accuracy": Interval(0.3, 0.2, 0.4)}, {}, False)
    report = small_report(metrics={"accuracy": interval}, baseline=baseline)
    assert tracking.tracked_metrics(report) == {
        "test/accuracy": 0.5,
        "test/accuracy_low": 0.4,
        "test/accuracy_high": 0.6,
        "baseline/accuracy": 0.3,
    }
