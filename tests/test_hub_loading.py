"""What of a model on the Hub is opened, what is refused and in which words, and what is never sent anywhere."""

import functools
import importlib
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

from auricle.errors import UsageError
from auricle.models import checkpoint, download, hub_files
from auricle.models.checkpoint import open_checkpoint, read_config, read_extractor
from auricle.training.run import resolve
from tests.hub_stub import Hub
from tests.test_encoders import folder
from tests.test_finetuning import small

NAME = "somebody/tiny-hubert"
LABELS = ("a", "b", "c", "d")


@functools.cache
def files() -> dict[str, bytes]:
    """A published encoder as safetensors."""
    return {path.name: path.read_bytes() for path in folder("tiny-hubert", head=False).iterdir()}


@functools.cache
def settings() -> dict[str, bytes]:
    return {name: content for name, content in files().items() if name.endswith(".json")}


@functools.cache
def pickled() -> bytes:
    """The same weights as a pickle."""
    path = folder("tiny-hubert", head=False).parent / "pytorch_model.bin"
    torch.save(load_file(folder("tiny-hubert", head=False) / "model.safetensors"), path)
    return path.read_bytes()


def safetensors() -> dict[str, bytes]:
    return {"model.safetensors": files()["model.safetensors"]}


@pytest.fixture(autouse=True)
def no_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service that transformers sends repositories without safetensors to must never be called."""

    def called(*_: object, **__: object) -> None:
        raise AssertionError("something was sent to the conversion service")

    # The package has its submodules as attributes only if nothing imported them before it was complete.
    for module, name in (("safetensors_conversion", "spawn_conversion"), ("modeling_utils", "auto_conversion")):
        monkeypatch.setattr(importlib.import_module(f"transformers.{module}"), name, called)


def opened(name: str = NAME, **options: Any) -> checkpoint.Checkpoint:
    return open_checkpoint(name, LABELS, preprocessor={}, **options)


def refused(name: str = NAME, **options: Any) -> str:
    with pytest.raises(UsageError) as error:
        opened(name, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_right_weights(result: checkpoint.Checkpoint) -> None:
    expected = load_file(folder("tiny-hubert", head=False) / "model.safetensors")
    state = result.network.hubert.state_dict()
    assert all(torch.equal(state[key], value) for key, value in expected.items())


def again() -> None:
    """As in another process: nothing is remembered but the cache on disk."""
    hub_files.hub_model.cache_clear()


def test_safetensors_on_main_open_and_their_folder_stays_out_of_the_model(model_hub: Hub, tmp_path: Path) -> None:
    model_hub.add(NAME, files())
    config = read_config(NAME)
    assert config.model_type == "hubert" and read_extractor(NAME, config, {}).sampling_rate == 16_000
    result = opened()
    assert_right_weights(result)
    assert result.notes == ("The checkpoint has no classification head: one for 4 classes is initialised randomly.",)
    assert len(model_hub.sent("/store/")) == 1
    result.network.save_pretrained(tmp_path / "saved")
    assert str(model_hub.cache) not in (tmp_path / "saved" / "config.json").read_text()
    assert all(method in ("GET", "HEAD") for method, _, _ in model_hub.requests)


def test_shards_open_as_one(model_hub: Hub) -> None:
    result = opened(str(folder("tiny-hubert", head=False)))
    result.network.hubert.save_pretrained(model_hub.cache / "sharded", max_shard_size="50KB")
    shards = {path.name: path.read_bytes() for path in (model_hub.cache / "sharded").iterdir()}
    assert len([name for name in shards if name.endswith(".safetensors")]) > 1
    model_hub.add(NAME, shards)
    assert_right_weights(opened())
    again()
    model_hub.status = 503
    assert_right_weights(opened())


def test_a_pickle_alone_is_refused_with_the_option_that_opens_it(model_hub: Hub) -> None:
    model_hub.add(NAME, {**settings(), "pytorch_model.bin": pickled()})
    message = refused()
    assert "only pytorch_model.bin, a pickle" in message and "--set model.allow_pickle=true" in message
    assert not model_hub.sent("/store/"), "nothing is downloaded that is not opened"
    result = opened(allow_pickle=True)
    assert_right_weights(result)
    assert "pytorch_model.bin, a pickle, opened as tensors alone" in result.notes[0]


def test_the_hubs_own_conversion_is_used_and_named(model_hub: Hub) -> None:
    repository = model_hub.add(NAME, {**settings(), "pytorch_model.bin": pickled()})
    repository.propose(3, safetensors())
    result = opened()
    assert_right_weights(result)
    assert "refs/pr/3" in result.notes[0] and len(model_hub.sent("/store/")) == 1
    again()
    assert_right_weights(opened(allow_pickle=True))
    assert len(model_hub.sent("/store/")) == 1, "a pickle is not downloaded where safetensors exist"
    again()
    model_hub.status = 503
    notes = opened().notes
    assert "refs/pr/3" in notes[0] and "cannot be reached (it answers with status 503)" in notes[1]


def test_another_conversion_than_the_hubs_or_of_another_pickle_is_ignored(model_hub: Hub) -> None:
    repository = model_hub.add(NAME, {**settings(), "pytorch_model.bin": pickled()})
    repository.propose(1, safetensors(), author="stranger")
    repository.propose(2, {**safetensors(), "pytorch_model.bin": b"other weights"})
    repository.propose(4, {"README.md": b"no weights"})
    repository.propose(5, safetensors())
    repository.pull_requests[-1]["status"] = "closed"
    assert "no conversion of it to safetensors" in refused()
    # A user may name any revision.
    assert_right_weights(opened(revision="refs/pr/1"))


@pytest.mark.parametrize(
    ("name", "revision", "expected"),
    [
        (
            "somebody/nothing",
            None,
            "neither a folder here nor a public model on the Hub. If it is private: hf auth login",
        ),
        (NAME, "v9", "has no revision 'v9'"),
        ("nosuchname", None, "neither a folder here nor a public model"),
        ("some body/x", None, "nor a Hub name, such as"),
        ("somebody/gated", None, "is gated. Accept its terms at http"),
        ("somebody/empty", None, "has no config.json in revision 'main'"),
        ("somebody/bare", None, "neither model.safetensors nor pytorch_model.bin in revision 'main'"),
    ],
)
def test_what_cannot_be_opened_is_refused_in_one_sentence(
    model_hub: Hub, name: str, revision: str | None, expected: str
) -> None:
    model_hub.add(NAME, files())
    model_hub.add("somebody/gated", files(), gated=True)
    model_hub.add("somebody/empty", {"README.md": b"x"})
    model_hub.add("somebody/bare", settings())
    assert expected in refused(name, revision=revision)


def test_an_interrupted_download_resumes_by_itself_and_in_the_next_command(model_hub: Hub) -> None:
    content = files()["model.safetensors"]
    model_hub.add(NAME, files())
    model_hub.cut_after = [1000, 5000]
    assert_right_weights(opened())
    ranges = [wanted for method, _, wanted in model_hub.sent("/store/") if method == "GET"]
    assert ranges == ["", "bytes=1000-", "bytes=6000-"]
    other = "somebody/other"
    model_hub.add(other, {**files(), "model.safetensors": content + b" "})
    model_hub.cut_after = [7000] + [0] * download.ATTEMPTS
    message = refused(other)
    assert "stopped at 7.0 kB of" in message and "it resumes there" in message
    again()
    model_hub.requests.clear()
    refused(other)
    assert model_hub.sent("/store/")[0][2] == "bytes=7000-"


def test_a_damaged_download_is_deleted_and_both_hashes_are_shown(model_hub: Hub) -> None:
    content = files()["model.safetensors"]
    model_hub.add(NAME, files())
    listed = {file.name: file.sha256 for file in hub_files.hub_model(NAME).files}
    sha256 = listed["model.safetensors"]
    assert sha256 is not None
    model_hub.stored[sha256] = content[:-1] + b"\x7f"
    message = refused()
    assert "was deleted" in message and sha256 in message
    assert not any(path.is_file() and path.stat().st_size == len(content) for path in model_hub.cache.rglob("*"))
    model_hub.stored[sha256] = content
    again()
    assert_right_weights(opened())


def test_a_truncated_copy_in_the_cache_is_downloaded_again_or_named_without_a_network(model_hub: Hub) -> None:
    model_hub.add(NAME, files())
    opened()
    cached = next(model_hub.cache.rglob("model.safetensors")).resolve()
    cached.write_bytes(files()["model.safetensors"][:5000])
    again()
    model_hub.status = 500
    message = refused()
    assert (
        "model.safetensors is damaged" in message and f"Delete '{next(model_hub.cache.rglob('snapshots'))}" in message
    )
    again()
    model_hub.status = 0
    assert_right_weights(opened())


def test_damaged_safetensors_and_pickles_in_a_folder_are_refused(tmp_path: Path) -> None:
    for name, content in files().items():
        (tmp_path / name).write_bytes(content)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(files()["model.safetensors"][:5000])
    assert "model.safetensors is damaged" in refused(str(tmp_path))
    weights.write_bytes(b"\xff" * 5000)
    assert "model.safetensors is damaged" in refused(str(tmp_path))
    weights.unlink()
    pickle_path = tmp_path / "pytorch_model.bin"
    pickle_path.write_bytes(pickled())
    assert "--set model.allow_pickle=true" in refused(str(tmp_path))
    assert_right_weights(opened(str(tmp_path), allow_pickle=True))
    pickle_path.write_bytes(pickled()[:5000])
    assert "is damaged" in refused(str(tmp_path), allow_pickle=True)


class Trap:
    """A pickle that would write a file when opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_never_runs_even_where_pickles_are_allowed(
    model_hub: Hub, tmp_path: Path, legacy: bool
) -> None:
    path, marker = tmp_path / "pytorch_model.bin", tmp_path / "ran"
    if legacy:
        path.write_bytes(pickle.dumps({"a": Trap(marker)}, protocol=2))
    else:
        torch.save({"a": Trap(marker)}, path)
    model_hub.add(NAME, {**settings(), "pytorch_model.bin": path.read_bytes()})
    assert "holds more than tensors" in refused(allow_pickle=True)
    assert not marker.exists()


def test_a_slow_hub_is_given_up_and_the_cache_used(model_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    model_hub.add(NAME, files())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    model_hub.delay = 0.5
    assert "no answer within 0.1 s), and its local cache has no such model" in refused()
    model_hub.delay = 0.0
    again()
    opened()
    model_hub.delay = 0.5
    again()
    result = opened()
    assert_right_weights(result)
    assert "cannot be reached (no answer within 0.1 s): the cached copy is used" in result.notes[0]


def test_offline_with_a_warm_cache_nothing_is_asked(model_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    model_hub.add(NAME, files())
    model_hub.add("somebody/pickled", {**settings(), "pytorch_model.bin": pickled()})
    opened(), opened("somebody/pickled", allow_pickle=True)
    model_hub.requests.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    again()
    result = opened()
    assert_right_weights(result)
    assert not any("cannot be reached" in note for note in result.notes), "the user set it"
    message = refused("somebody/pickled")
    assert "only pytorch_model.bin" in message and "--set model.allow_pickle=true" in message
    assert_right_weights(opened("somebody/pickled", allow_pickle=True))
    assert "HF_HUB_OFFLINE is set" in refused("somebody/else")
    assert not model_hub.requests


def test_another_commit_downloads_only_what_changed(model_hub: Hub) -> None:
    repository = model_hub.add(NAME, files())
    opened()
    repository.revisions["main"] = {**files(), "README.md": b"better"}
    again()
    model_hub.requests.clear()
    assert_right_weights(opened())
    assert not [row for row in model_hub.sent("/store/") if row[0] == "GET"]


def test_the_recipe_option_reaches_the_loader_and_large_downloads_are_announced(
    model_hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    from auricle.models.families.pretrained import Options, network
    from auricle.models.options import ModelSpec

    model_hub.add(NAME, {**settings(), "pytorch_model.bin": pickled()})
    recipe = resolve(small(Path("x"), f"model.checkpoint={NAME}", "model.allow_pickle=true", "model.stages=[]"))
    assert recipe.audio.sample_rate == 16_000
    options = Options.model_validate(recipe.model.options)
    with caplog.at_level(logging.WARNING):
        model = network.build(options, ModelSpec(labels=LABELS, sample_rate=16_000, channels=1))
    assert model.config.base_model == NAME
    announced = [row.message.partition(":")[0] for row in caplog.records if row.name == hub_files.__name__]
    assert announced == [f"Downloading pytorch_model.bin of {NAME}"]
    assert json.loads(model.config.to_json_string())["base_model"] == NAME
