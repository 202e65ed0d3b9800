"""Training in several processes gives the weights of one process with the same batches, and one run folder."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

import auricle
from auricle.errors import RunError
from auricle.models import ranks
from auricle.models.layers import masking
from auricle.preparation.batches import EpochBatches
from auricle.training.launch import launch
from tests.conftest import write_corpus
from tests.processes import start_python
from tests.test_encoders import folder

# Nothing random but the order of the clips: what ranks draw at random, they draw for their own clips.
STILL = ["augment.shift_fraction=0", "augment.gain_db=0", "augment.frequency_masks=0", "augment.time_masks=0"]
STILL += ["augment.mixup_alpha=0", "train.precision=float32", "train.epochs=3", "train.batch_size=8"]
STILL += ["data.validation_size=0.25", "evaluate.embed_audio=false"]
# Adam makes steps of noise with a bias whose gradient is zero, as that of a convolution before its batch norm is.
NOISE = re.compile(r"depthwise\.bias|convolution\.norm\.running_mean")
MODELS = {
    "cnn": ("sound", []),
    "pretrained": (
        "emotion",
        [
            "model.start=random",
            "model.freeze=all",
            "train.gradient_accumulation_steps=1",
            "train.learning_rate=0.001",
            f"model.checkpoint={folder('tiny-hubert')}",
        ],
    ),
    "conformer": ("speaker", ["train.class_balance=loss", "train.gradient_accumulation_steps=2"]),
}
BEFORE = """
import os, signal, sys, torch
from auricle.cli.main import main
from auricle.models.families.conformer import network
from auricle.models.layers import blocks
from auricle.training.loop import AudioTrainer

torch.set_num_threads(1)
for kind in (torch.nn.Dropout, blocks.Dropout):
    kind.forward = lambda module, values: values
network.SIZES["default"] = {"subsampling_channels": 8, "hidden_size": 16, "num_hidden_layers": 1}
network.SIZES["default"] |= {"num_attention_heads": 2, "head_dim": 8, "intermediate_size": 32}
"""
KILL = """
step = AudioTrainer.training_step

def killed(trainer, *given):
    if trainer.state.global_step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(trainer, *given)

AudioTrainer.training_step = killed
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def start(processes: int, arguments: list[str], cache: Path, *, killed: int | None = None) -> list[BaseProcess]:
    """Start an auricle command in so many processes as torchrun does; one of them may kill itself in its fifth step."""
    around = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    begun = []
    for rank in range(processes):
        own = {**around, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        output = f"sys.stdout = open({str(cache)!r} + '-rank{rank}.out', 'w')\nsys.stderr = sys.stdout\n"
        after = f"code = main({arguments})\nsys.stdout.flush()\nos._exit(code)"
        code = f"{BEFORE}{KILL if rank == killed else ''}{output}{after}"
        begun.append(start_python(code, {**os.environ, **own, "AURICLE_CACHE": str(cache)}))
    return begun


def finish(processes: list[BaseProcess]) -> list[int | None]:
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def command(corpus: Path, out: Path, model: str, *more: str) -> list[str]:
    recipe, settings = MODELS[model]
    sets = [word for setting in (*STILL, *settings) for word in ("--set", setting)]
    return ["train", str(corpus), "--recipe", recipe, "--out", str(out), *sets, *more]


def difference(one: Path, other: Path) -> float:
    """The greatest difference between the weights of two runs."""
    first, second = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    names = [name for name in first if not NOISE.search(name)]
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in names)


# They take half a minute, and who trains in several processes installs the extra.
several_processes = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the extra 'scale' is not installed"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, and a place for the runs on it."""
    folder = tmp_path_factory.mktemp("runs")
    write_corpus(folder / "corpus")
    return folder


@several_processes
@pytest.mark.parametrize("model", MODELS)
def test_two_processes_end_in_the_weights_of_one_and_write_one_folder(model: str, runs: Path) -> None:
    one, two = (runs / f"{model}{processes}" for processes in (1, 2))
    for processes, run in enumerate((one, two), start=1):
        # Each with a cache of its own: the first rank alone writes it.
        cache = runs / f"cache-{run.name}"
        codes = finish(start(processes, command(runs / "corpus", run, model), cache))
        assert codes == [0] * processes, Path(f"{cache}-rank0.out").read_text()
    assert Path(f"{cache}-rank1.out").read_text() == "", "only the first rank speaks"
    assert difference(one, two) < 1e-5
    found = [sorted(path.relative_to(run) for path in run.rglob("*")) for run in (one, two)]
    assert found[0] == found[1] and found[0]
    first, second = (auricle.Run(run).report for run in (one, two))
    assert first.confusion_matrix == second.confusion_matrix and first.split == second.split
    assert first.metrics["accuracy"] == second.metrics["accuracy"]
    histories = [[json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()] for run in (one, two)]
    for before, after in zip(*histories, strict=True):
        assert after["loss"] == pytest.approx(before["loss"], abs=1e-4)
        assert after["valid"]["log_loss"] == pytest.approx(before["valid"]["log_loss"], abs=5e-3)


@several_processes
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_ends_the_training_and_resumed_it_ends_as_if_never_killed(killed: int, runs: Path) -> None:
    cache, run = runs / "cache-cnn2", runs / f"killed{killed}"
    codes = finish(start(2, command(runs / "corpus", run, "cnn"), cache, killed=killed))
    assert codes[killed] == -signal.SIGKILL and codes[1 - killed] == 2
    said = Path(f"{cache}-rank{1 - killed}.out").read_text()
    assert said.rstrip().endswith("again with --resume.") and "Traceback" not in said
    assert finish(start(2, command(runs / "corpus", run, "cnn", "--resume"), cache)) == [0, 0]
    assert difference(runs / "cnn2", run) == 0.0


@several_processes
def test_what_cannot_work_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert finish(start(2, command(tmp_path / "empty", tmp_path / "run", "cnn"), tmp_path / "cache")) == [2, 0]
    assert "auricle: " in (tmp_path / "cache-rank0.out").read_text()
    assert (tmp_path / "cache-rank1.out").read_text() == ""


@several_processes
def test_a_family_without_gradients_lets_the_others_go(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    arguments = ["train", str(corpus), "--recipe", "baseline", "--out", str(tmp_path / "run")]
    assert finish(start(2, arguments, tmp_path / "cache")) == [0, 0]
    assert (tmp_path / "run" / "report.html").is_file()


@several_processes
def test_nproc_starts_the_processes_and_ends_with_the_exit_code_of_the_first(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", per_class=1)
    begun = [sys.executable, "-m", "auricle", "train", str(tmp_path / "corpus"), "--recipe", "baseline", "--nproc", "2"]
    done = subprocess.run([*begun, "--out", str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("auricle: ") == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize("exit_code", [2, -9])
def test_a_failed_process_is_the_commands_exit_code_or_a_sentence(
    exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed(*_: str) -> None:
        failure = ProcessFailure(local_rank=1, pid=1, exitcode=exit_code, error_file="none")
        raise ChildFailedError("auricle", {1: failure})

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda *_: failed)
    if exit_code > 0:
        assert launch(2, ["train"]) == exit_code
    else:
        with pytest.raises(RunError, match=r"Process 1 of 2 was killed by signal 9.*--resume"):
            launch(2, ["train"])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_ranks_parts_are_the_batches(count: int) -> None:
    lengths, labels = np.arange(100, 150), np.arange(50) % 3
    whole = list(EpochBatches(lengths, labels, 8, 0, balanced=False))
    parts = [list(EpochBatches(lengths, labels, 8, 0, balanced=False, part=(rank, count))) for rank in range(count)]
    for number, batch in enumerate(whole):
        given = [part[number] for part in parts]
        if len(batch) < count:
            assert all(one == batch for one in given)
        else:
            assert sorted((sample for one in given for sample in one), key=batch.index) == batch
            assert max(map(len, given)) - min(map(len, given)) <= 1


def test_a_rank_without_a_gradient_adds_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks in turn: what each would give is summed here."""
    weights = [torch.nn.Parameter(torch.zeros(3)) for _ in range(3)]
    weights[0].grad, others = torch.ones(3), [torch.tensor([1.0, 1.0, 0.0]), torch.full((6,), 2.0)]
    monkeypatch.setattr(ranks, "all_reduce", lambda tensor: tensor.add_(others.pop(0)))
    ranks.sum_gradients(weights)
    assert weights[0].grad.tolist() == [3.0] * 3
    assert weights[1].grad is not None and weights[1].grad.tolist() == [2.0] * 3 and weights[2].grad is None


def test_statistics_of_a_batch_norm_cover_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank with half of a batch, which is told what the other half holds, gives its half of the whole."""
    values, lengths = torch.randn(4, 3, 20) * 2 + 1, torch.tensor([20, 11, 7, 16])
    whole, half = masking.BatchNorm(3), masking.BatchNorm(3)
    expected = whole(values, lengths)
    real = [clip[:, :length] for clip, length in zip(values[2:], lengths[2:], strict=True)]
    cells = torch.cat(real, 1).double()
    other = torch.cat([cells.sum(1), cells.square().sum(1), torch.tensor([float(cells.shape[1])])])
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "all_reduce", lambda tensor: tensor.add_(other.to(tensor.dtype)))
    torch.testing.assert_close(half(values[:2], lengths[:2]), expected[:2], atol=1e-5, rtol=1e-5)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(half, name), getattr(whole, name), atol=1e-5, rtol=1e-5)


def test_a_process_alone_exchanges_nothing() -> None:
    before = time.perf_counter()
    assert (ranks.started(), ranks.number(), ranks.count(), ranks.broadcast(7)) == (1, 0, 1, 7)
    assert torch.equal(ranks.all_reduce(torch.ones(2)), torch.ones(2)) and time.perf_counter() - before < 1.0
