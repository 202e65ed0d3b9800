"""The made-up checkpoints are what they stand for: the originals' shapes, open to stock transformers, never bland."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForAudioClassification, pipeline

from tests import checkpoints
from tests.checkpoints import SAMPLE_RATE, TINY, config_of, made_up_sounds, make

# transformers' WavLM gives torch a boolean mask beside a float one.
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")


@pytest.mark.parametrize(("name", "layers", "millions"), [("hubert-base", 12, 94.4), ("distilhubert", 2, 23.5)])
def test_the_large_checkpoints_have_the_originals_sizes(name: str, layers: int, millions: float) -> None:
    config = config_of(name)
    assert (config.num_hidden_layers, config.hidden_size, config.feat_extract_norm) == (layers, 768, "group")
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    assert round(sum(weight.numel() for weight in model.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("name", TINY)
def test_every_tiny_checkpoint_opens_in_the_stock_pipeline_and_tells_clips_apart(name: str, tmp_path: Path) -> None:
    classify = pipeline("audio-classification", model=str(make(name, tmp_path, labels=3)), device="cpu", top_k=None)
    rows = []
    for sound in made_up_sounds(7)[:6]:
        answer = {choice["label"]: choice["score"] for choice in classify(sound)}
        assert set(answer) == {"LABEL_0", "LABEL_1", "LABEL_2"}
        rows.append(np.log([answer[label] for label in sorted(answer)]))
    for place, row in enumerate(rows):
        assert all(np.abs(row - other).max() > 0.1 for other in rows[:place])


@pytest.mark.parametrize("name", TINY)
def test_without_a_head_only_the_head_is_missing(name: str, tmp_path: Path) -> None:
    make(name, tmp_path, head=False)
    model, found = AutoModelForAudioClassification.from_pretrained(
        tmp_path, num_labels=5, output_loading_info=True, ignore_mismatched_sizes=True
    )
    assert found["missing_keys"] and all(key.startswith(("projector.", "classifier.")) for key in found["missing_keys"])
    assert model.classifier is not None and model.config.num_labels == 5


def test_the_seed_decides_the_weights_and_nothing_else_does(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    first = load_file(make("tiny-hubert", tmp_path / "a") / "model.safetensors")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    again = load_file(make("tiny-hubert", tmp_path / "b") / "model.safetensors")
    other = load_file(make("tiny-hubert", tmp_path / "c", seed=1) / "model.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_norms_have_weights_that_a_wrong_mask_would_show_in(tmp_path: Path) -> None:
    weights = load_file(make("tiny-hubert", tmp_path) / "model.safetensors")
    norms = [value for name, value in weights.items() if "norm" in name]
    assert norms and all(float(value.std()) > 0.05 for value in norms)


def test_the_command_line_writes_a_checkpoint_with_its_preprocessor(tmp_path: Path) -> None:
    checkpoints.main(["tiny-distilhubert", str(tmp_path), "--labels", "4"])
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert len(json.loads((tmp_path / "config.json").read_text())["id2label"]) == 4
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert settings["sampling_rate"] == SAMPLE_RATE
    assert settings["do_normalize"] is False and settings["return_attention_mask"] is False
