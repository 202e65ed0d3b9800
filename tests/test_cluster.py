"""A Ray cluster of two machines, on this one: what it gives is what this machine gives, whatever is lost on the way."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from auricle import parallel
from auricle.audio import recordings
from auricle.audio.inspect import inspect_clips
from auricle.audio.settings import Settings
from auricle.audio.store import prepare
from auricle.cli.main import main
from auricle.corpus.read import read_index
from auricle.errors import DataError, UsageError
from auricle.parallel import parallel_map
from tests.conftest import RATE, write_corpus
from tests.test_encoders import folder

pytest.importorskip("ray", reason="the extra 'scale' is not installed")


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """Two machines of one processor each."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made
    ray.shutdown()
    made.shutdown()


def at(machines: Any) -> list[str]:
    return ["--engine", "ray", "--ray-address", machines.address]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, one of which is damaged."""
    folder = write_corpus(tmp_path_factory.mktemp("cluster") / "corpus", per_class=14)
    (folder / "low" / "device0_999.wav").write_bytes(b"RIFF no recording")
    return folder


def doubled(part: int) -> int:
    time.sleep(0.01)
    return 2 * part


def failed(part: int) -> int:
    raise UsageError(f"part {part} is wrong")


def killed(part: int, marks: Path) -> int:
    """End the process of the first attempt of every third part."""
    mark = marks / str(part)
    if part % 3 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return part


def doomed(part: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return part


def test_results_are_in_order_and_errors_are_the_works_own(machines: Any, tmp_path: Path) -> None:
    with parallel.connected(machines.address):
        assert list(parallel_map(doubled, range(40))) == [2 * part for part in range(40)]
        with pytest.raises(UsageError, match="part 0 is wrong"):
            list(parallel_map(failed, range(3)))
        assert list(parallel_map(functools.partial(killed, marks=tmp_path), range(9))) == list(range(9))
    assert not parallel.on_cluster()


def test_work_that_ends_every_process_ends_with_a_sentence(machines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "RETRIES", 1)
    with parallel.connected(machines.address), pytest.raises(DataError, match="lost its process 2 times"):
        list(parallel_map(doomed, range(1)))


def test_a_store_and_an_inspection_are_the_local_ones_byte_for_byte(
    machines: Any, corpus: Path, tmp_path: Path
) -> None:
    index, settings = read_index(corpus), Settings(RATE, 1, 0.05, 3600.0)
    here = prepare(index.clips, settings, cache=tmp_path / "here")
    infos = inspect_clips(index.clips, settings, lambda *_: None)
    with parallel.connected(machines.address):
        there = prepare(index.clips, settings, cache=tmp_path / "there")
        found = inspect_clips(index.clips, settings, lambda *_: None)
    for one, other in zip(sorted(here.folder.iterdir()), sorted(there.folder.iterdir()), strict=True):
        assert one.name == other.name and one.read_bytes() == other.read_bytes()
    for info, other_info in zip(infos, found, strict=True):
        assert (info.id, info.audio_hash, info.findings) == (other_info.id, other_info.audio_hash, other_info.findings)
    assert [info.id for info in found if not info.usable] == ["low/device0_999.wav"]


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the baseline, prepared and trained here."""
    out = tmp_path_factory.mktemp("run") / "run"
    assert main(["train", str(corpus), "--recipe", "baseline", "--no-audio", "--out", str(out)]) == 0
    return out


RECIPES = {
    "baseline": ["--recipe", "baseline"],
    "probe": ["--recipe", "probe", "--checkpoint", str(folder("tiny-whisper"))],
    # With a weight that is computed from its norm, which no process can be sent as it is.
    "emotion": ["--recipe", "emotion", "--checkpoint", str(folder("tiny-hubert")), "--epochs", "1"],
    "sound": ["--recipe", "sound", "--epochs", "1", "--set", "model.size=tutorial"],
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_with_a_cluster_is_training_without(
    recipe: str, machines: Any, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, made = [tmp_path / "here", tmp_path / "there"], []
    for out, engine in zip(runs, ([], at(machines)), strict=True):
        monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / f"cache-{out.name}"))
        settings = ["--no-audio", "--split", "holdout", "--group", "none", "--out", str(out)]
        assert main(["train", str(corpus), *RECIPES[recipe], *settings, *engine]) == 0
        files = sorted(path for path in (tmp_path / f"cache-{out.name}").rglob("*") if path.is_file())
        made.append({path.relative_to(tmp_path / f"cache-{out.name}"): path.read_bytes() for path in files})
    assert made[0].keys() == made[1].keys()
    for name, content in made[0].items():
        assert content == made[1][name], name
    for name in ("scores.parquet", "split.json", "model/model.safetensors"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes()


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_predictions_are_the_local_ones_byte_for_byte(
    kind: str,
    machines: Any,
    corpus: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(recordings, "CHUNK_FILES", 8)
    here, there = (tmp_path / f"{name}.{kind}" for name in ("here", "there"))
    assert main(["predict", str(run), str(corpus), "--out", str(here)]) == 1, "one recording is damaged"
    monkeypatch.setattr("auricle.inference.job.CHUNK_FILES", 8)
    assert main(["predict", str(run), str(corpus), "--out", str(there), *at(machines)]) == 1
    assert here.read_bytes() == there.read_bytes()
    capsys.readouterr()


def test_a_machine_lost_in_the_middle_changes_nothing(
    machines: Any, corpus: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("auricle.audio.recordings", "auricle.inference.job"):
        monkeypatch.setattr(f"{module}.CHUNK_FILES", 2)
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    assert main(["predict", str(run), str(corpus), "--out", str(here)]) == 1
    lost = machines.add_node(num_cpus=2)
    timer = threading.Timer(4.0, lambda: machines.remove_node(lost, allow_graceful=False))
    timer.start()
    assert main(["predict", str(run), str(corpus), "--out", str(there), *at(machines)]) == 1
    timer.join()
    assert here.read_bytes() == there.read_bytes()


def test_a_killed_command_resumed_names_every_recording_once(
    machines: Any, corpus: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import sys\nfrom auricle.cli.main import main\n"
        "from auricle.audio import recordings\nfrom auricle.inference import job, writer\n"
        "recordings.CHUNK_FILES = job.CHUNK_FILES = 2\nwriter.JOURNAL_SECONDS = 0\nsys.exit(main(sys.argv[1:]))"
    )
    for module in ("auricle.audio.recordings", "auricle.inference.job"):
        monkeypatch.setattr(f"{module}.CHUNK_FILES", 2)
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    assert main(["predict", str(run), str(corpus), "--out", str(here)]) == 1
    command = [sys.executable, "-c", code, "predict", str(run), str(corpus), "--out", str(there), *at(machines)]
    journal, seconds = tmp_path / ".there.csv.journal", random.Random(0)
    begun = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while begun.poll() is None and not (journal.is_file() and json.loads(journal.read_text())["state"]["done"] > 0):
        time.sleep(0.02)
    time.sleep(seconds.random() * 0.2)
    begun.kill()
    begun.wait()
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert here.read_bytes() == there.read_bytes()


def test_only_the_main_thread_writes_answers(machines: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Ray reports lost machines from threads of its own."""
    with parallel.connected(machines.address):
        other = threading.Thread(target=print, args=("a machine is lost",))
        other.start()
        other.join()
        print("answer")
    said = capsys.readouterr()
    assert said.out == "answer\n" and said.err == "a machine is lost\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray-address", "127.0.0.1:9"], "Add --engine ray"),
        (["--engine", "ray", "--ray-address", "127.0.0.1:9"], "no cluster answers there"),
        (["--engine", "ray", "--ray-address", "nonsense"], "no cluster answers there"),
    ],
)
def test_what_cannot_be_reached_is_named_at_once(
    options: list[str], message: str, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.perf_counter()
    assert main(["inspect", str(corpus), *options]) == 2
    assert message in capsys.readouterr().err and time.perf_counter() - start < 15.0


def test_the_commands_of_the_page_run(
    machines: Any, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[1] / "docs" / "scale.md"
    commands = [
        line.split() for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("    auricle ")
    ]
    assert len(commands) == 5 and all(command[0] == "auricle" for command in commands)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-recordings").symlink_to(corpus)
    for _, *command in commands:
        if command[1].startswith("https://"):
            continue
        cluster_options = ["--ray-address", machines.address] if "ray" in command else []
        done = subprocess.run(
            [sys.executable, "-m", "auricle", *command, *cluster_options], capture_output=True, text=True
        )
        assert done.returncode == (1 if command[0] == "predict" else 0), done.stderr
    assert (tmp_path / "labels.csv").is_file() and (tmp_path / "runs/together/report.html").is_file()
