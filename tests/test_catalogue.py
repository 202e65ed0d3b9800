"""The table of encoders: its facts, its short names, its downloads."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers

from auricle.cli.main import main
from auricle.errors import UsageError
from auricle.models import catalogue, download
from auricle.models.catalogue import ENCODERS, cached_path, fetch, find, hub_name, weights_file
from auricle.models.checkpoint import read_config
from auricle.models.encoders import ARCHITECTURES
from tests.conftest import usage_error
from tests.hub_stub import Hub
from tests.test_hub_loading import files, pickled, settings

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
LARGE |= {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
# Width and layers of Whisper's encoders, from table 1 of its publication.
WHISPER = {"tiny": (384, 4), "base": (512, 6), "small": (768, 12), "medium": (1024, 24), "large-v3": (1280, 32)}


def published(name: str) -> Any:
    """The configuration of an encoder as it was published."""
    if name.startswith("whisper-"):
        width, layers = WHISPER[name.removeprefix("whisper-").removesuffix(".en")]
        mels = 128 if name.endswith("v3") else 80
        heads = {"encoder_attention_heads": width // 64, "decoder_attention_heads": width // 64}
        sizes = {"encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width, "decoder_layers": layers}
        return transformers.WhisperConfig(d_model=width, encoder_layers=layers, num_mel_bins=mels, **heads, **sizes)
    return {
        "distilhubert": lambda: transformers.HubertConfig(num_hidden_layers=2, feat_proj_layer_norm=False),
        "hubert-base": transformers.HubertConfig,
        "hubert-large": lambda: transformers.HubertConfig(**LARGE, conv_bias=True),
        "wavlm-base-plus": transformers.WavLMConfig,
        "wavlm-large": lambda: transformers.WavLMConfig(**LARGE),
        "xls-r-300m": lambda: transformers.Wav2Vec2Config(**LARGE, conv_bias=True),
        "w2v-bert-2": transformers.Wav2Vec2BertConfig,
        "ast": transformers.ASTConfig,
    }[name]()


@pytest.mark.parametrize(
    "encoder", [row for row in ENCODERS if row.is_supported and row.is_on_hub], ids=lambda row: row.name
)
def test_parameters_are_those_of_the_published_configuration(encoder: catalogue.Encoder) -> None:
    config = published(encoder.name)
    assert config.model_type in ARCHITECTURES
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    model = model.encoder if config.model_type == "whisper" else model
    assert sum(weight.numel() for weight in model.parameters()) == encoder.parameters
    # In half precision at least, and Whisper's decoder is at most as large again, plus its embeddings.
    assert 2 * encoder.parameters < encoder.download < 20 * encoder.parameters


def test_every_entry_is_complete_and_unique() -> None:
    names = [encoder.name for encoder in ENCODERS]
    assert len(set(names)) == len(names) == len({encoder.source for encoder in ENCODERS})
    topics = {"speech", "emotion", "speakers", "music", "everyday sounds", "animals"}
    for encoder in ENCODERS:
        assert "/" not in encoder.name and encoder.license and encoder.description and encoder.parameters > 0
        assert set(encoder.good_for) <= topics and encoder.good_for
        assert encoder.sha256 is None or len(encoder.sha256) == 64
        assert encoder.is_on_hub or encoder.sha256, "what no Hub lists a hash for needs one of its own"
        assert encoder.source.count("/") == 1 or not encoder.is_on_hub


def test_the_page_is_what_the_catalogue_says() -> None:
    from docs.make_encoders import MARK, PAGE, table

    assert PAGE.read_text(encoding="utf-8").split(MARK)[1].strip() == table().strip()


def test_listing_needs_neither_torch_nor_a_network() -> None:
    code = (
        "import sys\nfor name in ('torch', 'transformers', 'huggingface_hub'): sys.modules[name] = None\n"
        "from auricle.cli.main import main\nsys.exit(main(['encoders']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "openai/whisper-tiny" in done.stdout, done.stderr


def test_names_are_found_and_misspelt_ones_get_the_nearest() -> None:
    assert (
        find("whisper-tiny.en").source == "openai/whisper-tiny.en"
        and find("openai/whisper-tiny").name == "whisper-tiny"
    )
    with pytest.raises(UsageError, match=r"No encoder named 'wavlm-larg'. Did you mean 'wavlm-large'\?"):
        find("wavlm-larg")
    assert hub_name("hubert-base") == "facebook/hubert-base-ls960" and hub_name("a/b") == "a/b"
    for name in ("mn04", "clap"):
        with pytest.raises(UsageError, match="cannot be opened here"):
            hub_name(name)


def test_a_folder_with_an_encoders_name_is_neither_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "whisper-tiny").mkdir()
    with pytest.raises(UsageError, match=r"Write \./whisper-tiny for the folder, or openai/whisper-tiny for the other"):
        read_config("whisper-tiny")
    with pytest.raises(UsageError, match=r"folder without config\.json"):
        read_config("./whisper-tiny")


def test_a_short_name_opens_what_it_stands_for(model_hub: Hub) -> None:
    model_hub.add("facebook/hubert-base-ls960", files())
    assert read_config("hubert-base").model_type == "hubert"


def test_fetch_downloads_verifies_and_says_what_changed(
    model_hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model_hub.add("openai/whisper-tiny.en", files(), license="mit")
    sha256 = hashlib.sha256(files()["model.safetensors"]).hexdigest()
    assert cached_path("whisper-tiny.en") is None
    assert main(["encoders", "--fetch", "whisper-tiny.en"]) == 0
    output = capsys.readouterr().out
    assert "licence apache-2.0, about 151.0 MB, no pinned hash: the Hub's own is verified" in output
    assert f"sha256 {sha256} (equals the Hub's)" in output and "Its page states the licence mit" in output
    cached = cached_path("whisper-tiny.en")
    assert cached is not None and (cached / "model.safetensors").is_file()
    model_hub.requests.clear()
    assert main(["encoders", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["whisper-tiny.en"]["cached"] == str(cached) and rows["whisper-tiny"]["cached"] is None
    assert len(rows) == len(ENCODERS) and not model_hub.requests
    assert main(["encoders"]) == 0
    assert "yes" in next(line for line in capsys.readouterr().out.splitlines() if "whisper-tiny.en" in line)
    # A damaged copy is noticed when it is verified again, with and without a network.
    for status in (0, 503):
        path = (cached / "model.safetensors").resolve()
        path.write_bytes(files()["model.safetensors"][:-1] + b"\x7f")
        from auricle.models import hub_files

        hub_files.hub_model.cache_clear()
        model_hub.status = status
        assert "was deleted" in usage_error(capsys, "encoders", "--fetch", "whisper-tiny.en")
        assert not path.exists() and cached_path("whisper-tiny.en") is None
        model_hub.status = 0
        hub_files.hub_model.cache_clear()
        assert main(["encoders", "--fetch", "whisper-tiny.en"]) == 0
        capsys.readouterr()


def test_a_pinned_hash_is_what_counts(model_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    model_hub.add("openai/whisper-tiny", files())
    pinned = dataclasses.replace(find("whisper-tiny"), sha256="0" * 64)
    monkeypatch.setattr(catalogue, "ENCODERS", (pinned,))
    with pytest.raises(UsageError, match=f"was deleted: .* states .* bytes and {'0' * 64}"):
        fetch("whisper-tiny")
    assert cached_path("whisper-tiny") is None


def test_a_pickle_is_fetched_only_where_allowed(model_hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    model_hub.add("ntu-spml/distilhubert", {**settings(), "pytorch_model.bin": pickled()})
    assert "--allow-pickle" in usage_error(capsys, "encoders", "--fetch", "distilhubert")
    assert main(["encoders", "--fetch", "distilhubert", "--allow-pickle"]) == 0
    assert "pytorch_model.bin, a pickle" in capsys.readouterr().out
    assert "--fetch names none" in usage_error(capsys, "encoders", "--allow-pickle")
    assert "cannot run it yet" in usage_error(capsys, "encoders", "--fetch", "clap")
    assert "Did you mean 'hubert-base'" in usage_error(capsys, "encoders", "--fetch", "hubert-bas")


def test_a_released_file_resumes_and_is_verified(model_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 8
    model_hub.stored["mn04_as.pt"] = content
    source = f"{model_hub.url.replace('127.0.0.1', 'localhost')}/store/mn04_as.pt"
    entry = dataclasses.replace(find("mn04"), source=source, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(catalogue, "ENCODERS", (entry,))
    monkeypatch.setattr(catalogue.Encoder, "is_on_hub", property(lambda _: False))
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    model_hub.cut_after = [100, 0]
    with pytest.raises(UsageError, match="stopped at 100 B"):
        fetch("mn04")
    path = weights_file("mn04")
    assert [wanted for _, _, wanted in model_hub.requests] == ["", "bytes=100-", "bytes=100-"]
    assert cached_path("mn04") == path.parent and path.read_bytes() == content
    model_hub.requests.clear()
    assert fetch("mn04").files[0].verified_by == "the catalogue's" and weights_file("mn04") == path
    assert not model_hub.requests
    path.unlink()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"stopped at 0 B \(HF_HUB_OFFLINE is set\)"):
        fetch("mn04")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    model_hub.stored.clear()
    with pytest.raises(UsageError, match="answers with status 404"):
        fetch("mn04")
    path.write_bytes(content[:-1] + b"\0\0")
    with pytest.raises(UsageError, match="was deleted"):
        fetch("mn04")
