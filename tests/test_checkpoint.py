"""What a checkpoint may be, and what is said of one that cannot be used."""

import json
import shutil
import socket
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    HubertConfig,
    HubertForCTC,
    Speech2TextConfig,
    Speech2TextForConditionalGeneration,
)

from auricle.errors import UsageError
from auricle.models.checkpoint import open_checkpoint, read_config, read_extractor
from auricle.training.run import resolve
from tests.test_encoders import folder
from tests.test_finetuning import small

LABELS = ("a", "b", "c", "d")
TINY = HubertConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    conv_dim=(32,) * 7,
    vocab_size=12,
    num_conv_pos_embedding_groups=4,
)


def opened(path: Path | str, **options: object) -> object:
    return open_checkpoint(str(path), LABELS, preprocessor={}, **options)  # type: ignore[arg-type]


def refused(path: Path | str) -> str:
    with pytest.raises(UsageError) as error:
        opened(path)
    return str(error.value)


def copied(tmp_path: Path, name: str = "tiny-hubert") -> Path:
    return Path(shutil.copytree(folder(name), tmp_path / "copy"))


def test_a_head_of_another_size_is_made_anew_and_that_is_said() -> None:
    found = open_checkpoint(str(folder("tiny-hubert")), LABELS, preprocessor={})
    assert found.network.config.id2label == dict(enumerate(LABELS))
    assert found.network.config.label2id == {label: number for number, label in enumerate(LABELS)}
    assert found.network.classifier.out_features == 4
    assert found.notes == ("The checkpoint's head has 3 classes, not 4: the head is initialised randomly.",)
    same = open_checkpoint(str(folder("tiny-hubert")), LABELS[:3], preprocessor={})
    assert same.notes == ()
    bare = open_checkpoint(str(folder("tiny-hubert", head=False)), LABELS, preprocessor={})
    assert bare.notes == ("The checkpoint has no classification head: one for 4 classes is initialised randomly.",)


def test_the_same_seed_makes_the_same_head() -> None:
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        heads.append(open_checkpoint(str(folder("tiny-hubert")), LABELS, preprocessor={}).network.classifier.weight)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize("name", ["tiny-hubert", "tiny-wav2vec2", "tiny-wavlm", "tiny-whisper"])
def test_a_weighted_sum_starts_as_the_mean_over_layers(name: str) -> None:
    network = opened(folder(name), weighted_sum=True).network  # type: ignore[attr-defined]
    weights = network.layer_weights.softmax(-1)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / len(weights)))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    path = copied(tmp_path)
    (path / "model.safetensors").unlink()
    assert "no model.safetensors" in refused(path)
    (path / "config.json").unlink()
    assert "without config.json" in refused(path)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    path = copied(tmp_path)
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch /nowhere'\ntR.")
    said = refused(path)
    assert "pytorch_model.bin, a pickle" in said and "save_pretrained" in said


def test_a_checkpoint_that_cannot_hear_is_refused_by_its_kind(tmp_path: Path) -> None:
    BertModel(
        BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, vocab_size=20)
    ).save_pretrained(tmp_path / "text")
    said = refused(tmp_path / "text")
    assert "type 'bert'" in said and "hubert" in said and "whisper" in said
    Speech2TextForConditionalGeneration(
        Speech2TextConfig(
            vocab_size=20,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=1,
            decoder_attention_heads=1,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
        )
    ).save_pretrained(tmp_path / "asr")
    assert "type 'speech_to_text'" in refused(tmp_path / "asr")


def test_a_transcriber_lends_its_encoder_and_that_is_said(tmp_path: Path) -> None:
    HubertForCTC(TINY).save_pretrained(tmp_path / "ctc")
    found = open_checkpoint(str(tmp_path / "ctc"), LABELS, preprocessor={})
    assert any("made for transcription" in note for note in found.notes)
    whisper = open_checkpoint(str(folder("tiny-whisper", head=False)), LABELS, preprocessor={})
    assert any("made for transcription" in note for note in whisper.notes)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = copied(tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    assert "do not match its config" in refused(path)


def test_a_path_that_is_no_folder_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nowhere"), "./nowhere", "a/b/c"):
        assert "which is no folder" in refused(name)


def test_a_damaged_config_is_told(tmp_path: Path) -> None:
    path = copied(tmp_path)
    (path / "config.json").write_text("{ not json")
    assert "cannot be opened" in refused(path)


def test_the_checkpoints_own_preprocessor_is_used_or_changed_or_its_kinds_default(tmp_path: Path) -> None:
    path = copied(tmp_path)
    config = read_config(str(path))
    assert read_extractor(str(path), config, {}).do_normalize is True
    assert read_extractor(str(path), config, {"do_normalize": False}).do_normalize is False
    settings = json.loads((path / "preprocessor_config.json").read_text())
    (path / "preprocessor_config.json").write_text(json.dumps({**settings, "do_normalize": False}))
    assert read_extractor(str(path), config, {}).do_normalize is False
    (path / "preprocessor_config.json").unlink()
    assert read_extractor(str(path), config, {}).sampling_rate == 16_000
    with pytest.raises(UsageError, match=r"No preprocessor setting named 'do_normalise'. Did you mean 'do_normalize'"):
        read_extractor(str(path), config, {"do_normalise": True})


@pytest.mark.parametrize("name", ["tiny-whisper", "tiny-ast", "tiny-w2v-bert"])
def test_default_preprocessors_fit_the_model(name: str, tmp_path: Path) -> None:
    path = copied(tmp_path, name)
    (path / "preprocessor_config.json").unlink()
    extractor = read_extractor(str(path), read_config(str(path)), {})
    original = read_extractor(str(folder(name)), read_config(str(path)), {})
    kept = ("feature_size", "num_mel_bins", "max_length", "chunk_length", "stride")
    assert {key: getattr(extractor, key, None) for key in kept} == {key: getattr(original, key, None) for key in kept}


def test_changed_mel_settings_change_the_tables_too(tmp_path: Path) -> None:
    path = copied(tmp_path, "tiny-ast")
    changed = read_extractor(str(path), read_config(str(path)), {"num_mel_bins": 20})
    assert changed.mel_filters.shape == (257, 20)


def test_freezing_that_cannot_be_is_refused_before_any_work() -> None:
    checkpoint = folder("tiny-hubert")
    with pytest.raises(UsageError, match=r"received top: 9. The checkpoint .* has 3 layers"):
        resolve(small(checkpoint, "model.stages=[]", "model.freeze={top: 9}"))
    with pytest.raises(UsageError, match=r"a stage that starts at epoch 5, and train.epochs is 2"):
        resolve(small(checkpoint, "model.stages=[{from_epoch: 1, freeze: all}, {from_epoch: 5}]"))
    with pytest.raises(UsageError, match="they must start at 1 and increase"):
        resolve(small(checkpoint, "model.stages=[{from_epoch: 2, freeze: all}]"))
    with pytest.raises(UsageError, match="freeze"):
        resolve(small(checkpoint, "model.stages=[]", "model.freeze=some"))
    with pytest.raises(UsageError, match=r"No .*'layer_decays'. Did you mean 'layer_decay'"):
        resolve(small(checkpoint, "model.layer_decays=0.5"))


def test_a_weighted_sum_needs_a_model_that_has_one() -> None:
    with pytest.raises(UsageError, match="Transformer does not support it"):
        opened(folder("tiny-ast"), weighted_sum=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["model.stages=[]", "model.freeze=al"], "'all', 'features' or 'none' or a mapping"),
        (["model.stages=[{form_epoch: 1}]"], "Did you mean 'from_epoch'"),
        (["model.lora={rnk: 4}"], "Did you mean 'rank'"),
        (["model.stages.0.learning_rate=1"], "is a list. Give the whole list"),
        (["model.freeze={top: 1}"], r"set model\.stages=\[\] or"),
        (["model.stages=[]", "model.freeze=all", "model.lora.rank=2"], "all layers are frozen"),
        (["model.preprocessor.do_normalize=maybe"], "received 'maybe'"),
        (["model.preprocessor.sampling_rate=8000"], "takes 16000 Hz"),
        (["evaluate.window_seconds=0.0001"], "greater than or equal to 0.05"),
    ],
)
def test_every_wrong_option_gets_a_sentence(settings: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        resolve(small(folder("tiny-hubert"), *settings))


def test_a_word_gives_way_to_the_mapping_that_is_meant() -> None:
    settled = resolve(small(folder("tiny-hubert"), "model.stages=[]", "model.freeze.top=2", "model.lora.rank=4"))
    assert settled.model.options["freeze"] == {"top": 2} and settled.model.options["lora"] == {"rank": 4}


def test_a_name_on_the_hub_without_a_network_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    assert "Hub cannot be reached (" in refused("somebody/something-that-is-not-cached")
