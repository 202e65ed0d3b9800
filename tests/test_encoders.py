"""The nine kinds of speech encoder, run in parts: equal to the stock model alone, whatever stands beside a clip."""

import warnings
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from auricle.models.encoders import ARCHITECTURES, depth_of, max_samples
from auricle.models.families.pretrained.network import EncoderState, Model
from auricle.training import freezing
from tests import checkpoints

RATE = 16_000
NAMES = checkpoints.TINY
# No length is a whole number of strides; the shortest has one frame in most of these models.
LENGTHS = (9_000, 16_001, 30_000, 5_003, 720, 12_345)


@cache
def folder(name: str, labels: int = 3, head: bool = True) -> Path:
    """One tiny checkpoint, made once for all tests."""
    return checkpoints.make(name, Path(mkdtemp()) / name, labels=labels, head=head)


@cache
def model(name: str) -> Model:
    return Model.from_pretrained(folder(name)).eval()


def clips(name: str) -> list[torch.Tensor]:
    """Noises that rise and fall at a clip's own place, as long as the model takes them."""
    generator = torch.Generator().manual_seed(1)
    longest = max_samples(model(name).config.model_type, model(name).extractor)
    found = []
    for number, length in enumerate(LENGTHS):
        length = min(length, longest or length)
        swell = torch.sin(torch.linspace(0, 3 + number, length))
        found.append(0.1 * swell * torch.randn(length, generator=generator))
    return found


def together(pieces: list[torch.Tensor], beyond: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    size = max(map(len, pieces)) + beyond
    values = torch.stack([F.pad(piece, (0, size - len(piece))) for piece in pieces])
    return values, (torch.arange(size)[None] < torch.tensor([len(piece) for piece in pieces])[:, None]).long()


def stock(name: str, pieces: list[torch.Tensor]) -> torch.Tensor:
    """What transformers gives for each clip alone, from its own extractor and model."""
    network = AutoModelForAudioClassification.from_pretrained(folder(name)).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder(name))
    rows = []
    for piece in pieces:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows.append(network(**extractor(piece.numpy(), sampling_rate=RATE, return_tensors="pt")).logits[0])
    return torch.stack(rows)


def test_all_nine_kinds_are_swept() -> None:
    swept = {model(name).config.model_type for name in NAMES}
    assert swept == set(ARCHITECTURES) - {"unispeech"} and len(NAMES) >= 9


@pytest.mark.parametrize("name", NAMES)
def test_alone_it_answers_as_the_stock_model(name: str) -> None:
    pieces = clips(name)
    with torch.inference_mode():
        ours = torch.stack([model(name)(piece[None]).logits[0] for piece in pieces])
    expected = stock(name, pieces)
    assert expected.std(0).max() > 0.1, "answers that do not differ prove nothing"
    assert (ours - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_in_a_padded_batch_it_answers_as_alone(name: str) -> None:
    pieces = clips(name)
    values, mask = together(pieces)
    dirty = torch.where(mask.bool(), values, torch.full_like(values, 0.7))
    with torch.inference_mode():
        alone = torch.stack([model(name)(piece[None]).logits[0] for piece in pieces])
        batch = model(name)(dirty, attention_mask=mask).logits
    assert (batch - alone).abs().max() < 1e-4


@pytest.mark.parametrize("name", [name for name in NAMES if "hubert" in name or name == "tiny-wav2vec2"])
def test_the_stock_model_itself_fails_where_ours_does_not(name: str) -> None:
    """What the folded group norm is for: padded with a mask, the stock model gives another answer."""
    pieces = clips(name)
    extractor = AutoFeatureExtractor.from_pretrained(folder(name))
    network = AutoModelForAudioClassification.from_pretrained(folder(name)).eval()
    padded = extractor(
        [piece.numpy() for piece in pieces],
        sampling_rate=RATE,
        padding=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        off = (network(**padded).logits - stock(name, pieces)).abs().max()
    assert off > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_longer_padding_changes_nothing(name: str) -> None:
    pieces = clips(name)
    values, mask = together(pieces, beyond=7_777)
    if max_samples(model(name).config.model_type, model(name).extractor) is not None:
        pytest.skip("every clip has the same length in this model")
    with torch.inference_mode():
        near, far = model(name)(*together(pieces)).logits, model(name)(values, attention_mask=mask).logits
    assert (near - far).abs().max() < 1e-4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weighted", [False, True])
def test_resumed_at_any_depth_it_gives_the_same_logits(name: str, weighted: bool) -> None:
    """Prefix equality: what is frozen, packed into rows, padded and taken up again, is the full model in float32."""
    current = _weighted(name) if weighted else model(name)
    if weighted and not current.uses_weighted_sum:
        pytest.skip("the Audio Spectrogram Transformer has no weighted sum")
    pieces = clips(name)
    with torch.inference_mode():
        whole = current(*together(pieces)).logits
        for depth in range(current.final_depth + 1):
            rows, frames = [], []
            for piece in pieces:
                state = current.run_layers(current.extract_features(piece[None], None), depth)
                rows.append(freezing.pack_state(current, state)[0])
                frames.append(int(state.frames))
            padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            state = freezing.unpack_state(current, padded, torch.tensor(frames), depth)
            resumed = current.logits(current.run_layers(state, current.final_depth))
            assert (resumed - whole).abs().max() < 1e-3, depth


def _weighted(name: str) -> Model:
    from auricle.models.checkpoint import open_checkpoint

    if name == "tiny-ast":
        return model(name)
    torch.manual_seed(3)
    opened = open_checkpoint(str(folder(name)), ["a", "b", "c"], preprocessor={}, weighted_sum=True)
    with torch.no_grad():
        opened.network.layer_weights.copy_(torch.randn_like(opened.network.layer_weights))
    return Model(opened.network, opened.extractor).eval()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "tiny-ast"])
def test_a_weighted_sum_is_the_stock_models(name: str) -> None:
    current = _weighted(name)
    pieces = clips(name)[:3]
    extractor = current.extractor
    for piece in pieces:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inputs = extractor(piece.numpy(), sampling_rate=RATE, return_tensors="pt")
            expected = current.network(**inputs).logits
            assert (current(piece[None]).logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_in_bfloat16_probabilities_stay_near(name: str) -> None:
    values, mask = together(clips(name))
    with torch.inference_mode():
        exact = model(name)(values, attention_mask=mask).logits.softmax(-1)
        light = model(name).bf16_copy()(values, attention_mask=mask).logits.softmax(-1)
    assert (light - exact).abs().max() < 0.06
    assert next(model(name).parameters()).dtype == torch.float32, "the model that was copied stays as it is"


@pytest.mark.parametrize("name", NAMES)
def test_every_trained_weight_gets_a_gradient_and_no_other(name: str) -> None:
    current = Model.from_pretrained(folder(name))
    layers = len(current.encoder.layers)
    learner = freezing.PartiallyFrozenModel(current, freezing.Plan((freezing.Stage(1, layers, 1e-3),), 1.0)).train()
    current.encoder.layerdrop = 0.0
    places = {key: depth_of(current.encoder, key) for key, _ in current.network.named_parameters()}
    assert set(places.values()) >= {0, *range(1, layers + 2)}
    values, mask = together(clips(name))
    learner(values, mask, torch.tensor([0, 1, 2, 0, 1, 2])).loss.backward()
    for key, weight in current.network.named_parameters():
        reached = weight.grad is not None and bool(weight.grad.abs().sum() > 0)
        assert reached == (places[key] >= layers), key


@pytest.mark.parametrize("name", NAMES)
def test_trained_whole_every_weight_gets_a_gradient(name: str) -> None:
    current = Model.from_pretrained(folder(name))
    learner = freezing.PartiallyFrozenModel(current, freezing.Plan((freezing.Stage(1, -1, 1e-3),), 1.0)).train()
    current.encoder.layerdrop = 0.0
    values, mask = together(clips(name) * 2)
    torch.manual_seed(0)
    learner(values, mask, torch.tensor([0, 1, 2, 0, 1, 2] * 2)).loss.backward()
    for key, weight in current.network.named_parameters():
        if weight.requires_grad and not (name == "tiny-distilhubert" and key.endswith("masked_spec_embed")):
            assert weight.grad is not None and torch.isfinite(weight.grad).all(), key
            assert weight.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", ["tiny-w2v-bert", "tiny-whisper", "tiny-ast"])
def test_log_mel_equals_the_extractors_own(name: str) -> None:
    current, piece = model(name), clips(name)[0]
    given = current.extractor(piece.numpy(), sampling_rate=RATE, return_tensors="pt")
    expected = next(given[key] for key in ("input_features", "input_values") if key in given)
    expected = expected.transpose(1, 2) if name == "tiny-whisper" else expected
    ours, _ = current.encoder.features(piece[None], torch.tensor([len(piece)]))
    assert (ours - expected[:, : ours.shape[1]]).abs().max() < 2e-3


def test_layers_are_left_out_in_training_only() -> None:
    current = Model.from_pretrained(folder("tiny-hubert"))
    current.encoder.layerdrop = 0.5
    values = clips("tiny-hubert")[0][None]
    drawn = set()
    current.train()
    for module in current.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    current.config.mask_time_prob = 0.0
    for seed in range(12):
        torch.manual_seed(seed)
        with torch.no_grad():
            drawn.add(round(float(current(values).logits[0, 0]), 4))
    current.eval()
    with torch.no_grad():
        assert len(drawn) > 2 and torch.equal(current(values).logits, current(values).logits)


def test_masked_spans_cover_the_share_that_the_config_asks_and_no_padding() -> None:
    from auricle.models.encoders.wav2vec2 import mask_spans

    current = Model.from_pretrained(folder("tiny-hubert"))
    base: Any = current.encoder.base
    base.config.mask_time_prob, base.config.mask_time_length, base.config.mask_feature_prob = 0.2, 5, 0.0
    torch.manual_seed(0)
    hidden = torch.ones(8, 500, 32)
    real = torch.arange(500)[None].expand(8, -1) < 400
    with torch.no_grad():
        changed = (mask_spans(hidden, real, base) != 1).any(-1)
    assert not changed[:, 400:].any()
    assert 0.14 < float(changed[:, :400].float().mean()) < 0.24


def test_a_state_says_how_far_it_is() -> None:
    current, piece = model("tiny-hubert"), clips("tiny-hubert")[0]
    with torch.inference_mode():
        state = current.extract_features(piece[None], None)
        assert isinstance(state, EncoderState) and state.depth == 0
        done = current.run_layers(state, current.final_depth)
    assert done.hidden is None and len(done.pooled) == 1 and done.pooled[0].shape == (1, 32)
    assert np.isfinite(done.pooled[0].numpy()).all()


def test_ast_needs_no_filters_of_its_extractor(tmp_path: Path) -> None:
    """With torchaudio installed, AST's extractor computes by it and keeps no window and no filters."""
    from auricle.models.encoders import spectra

    extractor = AutoFeatureExtractor.from_pretrained(checkpoints.make("tiny-ast", tmp_path / "ast"))
    window, filters = spectra.ast_filters(extractor)
    np.testing.assert_array_equal(window, extractor.window)
    np.testing.assert_array_equal(filters, extractor.mel_filters)
    del extractor.window, extractor.mel_filters
    np.testing.assert_array_equal(spectra.ast_filters(extractor)[1], filters)
