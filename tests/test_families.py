"""Contract: what every model family must hold, swept over the folder of families."""

import ast
import itertools
import json
import os
import subprocess
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from auricle.errors import RunError, UsageError
from auricle.evaluation import scoring
from auricle.models import families, registration, torch_runtime
from auricle.models.encoders import ARCHITECTURES, custom_head, efficientat
from auricle.models.families import pretrained
from auricle.models.load import build_model, load_model, save_model
from auricle.preparation.windows import from_arrays
from auricle.recipe import parse
from tests.conftest import PITCHES, tone
from tests.test_encoders import NAMES, folder

RATE = 16000
LABELS = ("b <&>", "ä", "c d")
# One checkpoint of each class that runs an encoder.
PROBED = ("tiny-wavlm", "tiny-w2v-bert", "tiny-whisper", "tiny-ast", "mn01")
VARIANTS = [
    ("baseline", {}),
    ("cnn", {"size": "default"}),
    ("cnn", {"size": "default", "ensemble_baseline": False}),
    ("cnn", {"size": "tutorial"}),
    ("conformer", {"size": "default"}),
    ("conformer", {"size": "tutorial"}),
    *(("pretrained", {"checkpoint": kind}) for kind in NAMES),
    *(("probe", {"checkpoint": kind}) for kind in PROBED),
]


def build(name: str, options: dict[str, object], channels: int = 1) -> PreTrainedModel:
    """A model as training would leave it: normalised or fitted on a few sounds. It is the caller's own."""
    given = json.dumps(options)
    model = built_once(name, given, channels)
    # An export removes parametrizations from the class, which copies share.
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        return built_once.__wrapped__(name, given, channels)
    return deepcopy(model)


@cache
def built_once(name: str, given: str, channels: int = 1) -> PreTrainedModel:
    options: dict[str, object] = json.loads(given)
    rate = 32_000 if options.get("checkpoint") == "mn01" else RATE
    if "checkpoint" in options:
        kind = str(options["checkpoint"])
        options = {**options, "checkpoint": str(small_efficientat() if kind == "mn01" else folder(kind))}
    settings = parse({"audio": {"sample_rate": rate, "channels": channels}, "model": {"family": name, **options}}, "t")
    model = build_model(settings, LABELS)
    clips = arrays()
    closed_form = registration.family(name).TRAINING == "closed_form"
    fitted = model if closed_form else getattr(model, "ensemble_member", None)
    if registration.family(name).TRAINING == "gradient":
        model.fit_normalization([(torch.from_numpy(clip.astype(np.float32) / 32768), None) for clip in clips])
    if fitted is not None:
        embedded = scoring.embed(fitted, from_arrays(clips), batch_seconds=10)
        fit = model.fit if closed_form else model.fit_ensemble_member
        fit(embedded, np.arange(len(clips)) % 3, groups=None, class_weighted=False, seed=0)
    return model.eval()


@cache
def small_efficientat() -> Path:
    """A network of a tenth of the width with random weights, as its tensors are published."""
    torch.manual_seed(0)
    config = efficientat.Config(width=0.1, num_labels=7)
    path = Path(mkdtemp()) / "mn01_as.safetensors"
    save_file(efficientat.Model(config).state_dict(), path)
    return path


@cache
def arrays() -> list[np.ndarray]:
    lengths = (0.4, 1.1, 0.05, 2.3, 0.7, 1.6, 0.9, 3.1, 0.25, 4.6, 1.3, 0.6)
    return [
        (tone(list(PITCHES)[number % 3], seconds, number, RATE) * 30000).astype(np.int16)[None]
        for number, seconds in enumerate(lengths)
    ]


def test_every_family_is_swept() -> None:
    assert {name for name, _ in VARIANTS} == set(registration.names())


def test_checking_a_recipe_imports_no_torch() -> None:
    code = (
        "import sys, time\nstart = time.process_time()\n"
        "from auricle.models import registration\nfrom auricle.recipe import parse\n"
        "for name in registration.names():\n"
        "    options = {'checkpoint': 'x'} if name in ('pretrained', 'probe') else {}\n"
        "    registration.parse_options(parse({'model': {'family': name, **options}}, 'test'))\n"
        "    assert registration.family(name).TRAINING in ('gradient', 'closed_form', 'fine_tuning')\n"
        "print((time.process_time() - start, sorted(sys.modules)))"
    )
    times = []
    for _ in range(3):
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        seconds, loaded = ast.literal_eval(out)
        assert not {"torch", "transformers", "sklearn", "numpy"} & set(loaded)
        times.append(seconds)
    assert min(times) < 0.5


ONE_FILE = '''
"""A family in one file: the mean and the maximum of a clip's samples."""
import pydantic
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from auricle.models.layers.front_end import passthrough_extractor

TRAINING = "gradient"
TAKES_FEATURES = False
MODEL_TYPES = ("test-one-file",)


class Options(pydantic.BaseModel):
    scale: float = 1.0


class Config(PreTrainedConfig):
    model_type = MODEL_TYPES[0]
    sample_rate: int = 8000
    channels: int = 1
    scale: float = 1.0


class Model(PreTrainedModel):
    config_class = Config
    batch_seconds = None

    def __init__(self, config):
        super().__init__(config)
        self.linear = torch.nn.Linear(2, config.num_labels)
        self.post_init()

    @property
    def extractor(self):
        return passthrough_extractor(self.config.sample_rate)

    def forward(self, input_values, attention_mask=None, labels=None):
        pooled = torch.stack([input_values.mean(-1), input_values.amax(-1)], -1) * self.config.scale
        return SequenceClassifierOutput(logits=self.linear(pooled))


AUTO_MODELS = (Model,)


def build(options, spec):
    return Model(Config(sample_rate=spec.sample_rate, scale=options.scale, num_labels=len(spec.labels)))
'''


FRESH = """
import os, sys
from pathlib import Path
from auricle.models.load import load_model
for folder in sys.argv[1:]:
    if not os.fork():
        load_model(Path(folder))
        print("opened", flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, so that each model is the first of its process")
def test_every_kind_of_model_opens_where_nothing_was_imported_before(tmp_path: Path) -> None:
    kinds: list[tuple[str, dict[str, object]]] = [
        ("baseline", {}),
        ("cnn", {"size": "tutorial"}),
        ("conformer", {"size": "tutorial"}),
        ("pretrained", {"checkpoint": "tiny-hubert"}),
        ("pretrained", {"checkpoint": "tiny-hubert", "pooling": "attention"}),
        ("probe", {"checkpoint": "tiny-wavlm"}),
        ("probe", {"checkpoint": "mn01"}),
    ]
    for number, (name, options) in enumerate(kinds):
        save_model(build(name, options), tmp_path / str(number))
    folders = [str(tmp_path / str(number)) for number in range(len(kinds))]
    done = subprocess.run([sys.executable, "-c", FRESH, *folders], capture_output=True, text=True)
    assert done.stdout.split() == ["opened"] * len(kinds), done.stderr


def test_one_new_file_is_a_new_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onefile.py").write_text(ONE_FILE)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    settings = parse({"audio": {"sample_rate": RATE}, "model": {"family": "onefile", "scale": 3.0}}, "t")
    model = build_model(settings, LABELS)
    save_model(model, tmp_path / "model")
    back = load_model(tmp_path / "model")
    assert back.config.scale == 3.0
    clips = from_arrays(arrays())
    assert (scoring.score(model, clips, batch_seconds=0.1) == scoring.score(back, clips, batch_seconds=0.1)).all()
    with pytest.raises(UsageError, match="family 'onefile': 'scale' is 'wide'"):
        build_model(
            parse({"model": {"family": "onefile", "scale": "wide"}, "audio": {"sample_rate": RATE}}, "t"), LABELS
        )


def test_the_pretrained_family_opens_every_encoder() -> None:
    assert set(pretrained.MODEL_TYPES) == {*ARCHITECTURES, custom_head.Config.model_type}
    for name in registration.names():
        for model in registration.network(name).AUTO_MODELS:
            assert registration.family_of(model.config_class.model_type) == name
    assert registration.family_of("bert") is None


def test_every_key_of_a_saved_config_is_documented() -> None:
    for model in (model for name in registration.names() for model in registration.network(name).AUTO_MODELS):
        classes = [one for one in model.config_class.__mro__ if one.__module__.startswith("auricle.")]
        documented = " ".join(one.__doc__ or "" for one in classes)
        keys = {key for one in classes for key in one.__annotations__ if key != "model_type"}
        assert keys and not [key for key in keys if key not in documented]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("channels", [1, 2])
def test_alone_and_in_a_padded_batch_are_the_same(name: str, options: dict[str, object], channels: int) -> None:
    model = build(name, options, channels)
    clips = arrays()
    if channels == 2:
        clips = [np.concatenate([clip, clip[:, ::-1]]) for clip in clips]
    together = scoring.score(model, from_arrays(clips), batch_seconds=1000)
    alone = np.concatenate([scoring.score(model, from_arrays([clip]), batch_seconds=1000) for clip in clips])
    assert np.abs(together - alone).max() < 1e-4
    with torch.inference_mode():
        padded = torch.nn.functional.pad(torch.from_numpy(clips[0].astype(np.float32) / 32768), (0, 70_000))[None]
        mask = (torch.arange(padded.shape[-1]) < clips[0].shape[-1]).long()[None]
        masked = model(padded if channels == 2 else padded[:, 0], attention_mask=mask).logits.numpy()
    assert np.abs(masked - alone[:1]).max() < 1e-4


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_what_lies_under_the_mask_changes_nothing(name: str, options: dict[str, object]) -> None:
    model = build(name, options)
    values = torch.randn(2, RATE) * 0.1
    mask = torch.ones(2, RATE, dtype=torch.int64)
    mask[1, RATE // 2 :] = 0
    dirty = values.clone()
    dirty[1, RATE // 2 :] = 0.7
    clean = values * mask
    with torch.inference_mode():
        assert torch.equal(model(clean, attention_mask=mask).logits, model(dirty, attention_mask=mask).logits)


@pytest.mark.parametrize(
    ("kind", "pooling", "head"),
    [
        (kind, *pair)
        for kind, pair in zip(
            NAMES,
            itertools.cycle([("attention", "am-softmax"), ("statistics", "aam-softmax"), ("mean-max", "softmax")]),
            strict=False,
        )
    ],
)
def test_encoders_with_another_pooling_or_head_are_saved_whole_under_a_type_of_their_own(
    kind: str, pooling: str, head: str, tmp_path: Path
) -> None:
    from transformers import pipeline

    model = build("pretrained", {"checkpoint": kind, "pooling": pooling, "head": {"kind": head}})
    model.apply_temperature(1.7)
    before = scoring.score(model, from_arrays(arrays()), batch_seconds=1000)
    save_model(model, tmp_path / "model")
    back = load_model(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "auricle-encoder"
    clips = arrays()
    together = scoring.score(model, from_arrays(clips), batch_seconds=1000)
    assert np.abs(before - together).max() < 1e-5, "saving leaves the head as it is"
    assert np.abs(scoring.score(back, from_arrays(clips), batch_seconds=1000) - together).max() < 1e-5
    alone = np.concatenate([scoring.score(back, from_arrays([clip]), batch_seconds=1000) for clip in clips])
    assert np.abs(together - alone).max() < 1e-4
    answers = pipeline("audio-classification", model=str(tmp_path / "model"))(
        clips[1][0].astype(np.float32) / 32768, top_k=3
    )
    found = {row["label"]: row["score"] for row in answers}
    assert [found[label] for label in LABELS] == pytest.approx(list(scoring.softmax(together)[1]), abs=1e-4)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("samples", [1, 16, 80, 500])
def test_the_shortest_clip_gets_a_finite_answer(name: str, options: dict[str, object], samples: int) -> None:
    model = build(name, options)
    with torch.inference_mode():
        logits = model(torch.rand(1, samples) - 0.5).logits
    assert logits.shape == (1, 3) and torch.isfinite(logits).all()


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_silence_and_full_scale_get_finite_answers(name: str, options: dict[str, object]) -> None:
    model = build(name, options)
    with torch.inference_mode():
        for values in (torch.zeros(1, RATE), torch.ones(1, RATE), torch.sign(torch.randn(1, RATE))):
            assert torch.isfinite(model(values).logits).all()


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_save_and_load_is_exact(name: str, options: dict[str, object], tmp_path: Path) -> None:
    # Not a copy: weights that lie elsewhere in memory may be multiplied in another order.
    model = built_once(name, json.dumps(options))
    save_model(model, tmp_path / "model")
    back = type(model).from_pretrained(tmp_path / "model").eval()
    ours, theirs = model.state_dict(), back.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert [back.config.id2label[number] for number in range(3)] == list(LABELS)
    assert back.config.sample_rate == model.config.sample_rate
    clips = from_arrays(arrays())
    assert (scoring.score(model, clips, batch_seconds=20) == scoring.score(back, clips, batch_seconds=20)).all()
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.rglob("*.pkl"))


@pytest.mark.parametrize(
    ("name", "options"), [("baseline", {}), ("cnn", {"size": "default"}), ("pretrained", {"checkpoint": "tiny-hubert"})]
)
def test_weights_that_are_not_the_configs_are_refused(name: str, options: dict[str, object], tmp_path: Path) -> None:
    saved = tmp_path / "model"
    save_model(build(name, options), saved)
    weights = load_file(saved / "model.safetensors")
    first, *rest = sorted(weights)
    older = {"older.name": weights[first], **{key: weights[key] for key in rest}}
    save_file(older, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=rf"'{saved}'.*lacks {first} \(1 in all\); it has unexpected older\.name"):
        load_model(saved)
    save_file({**weights, first: torch.zeros(2, 7)}, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=f"has in another size {first}"):
        load_model(saved)


@pytest.mark.parametrize(("name", "options"), [row for row in VARIANTS if row[0] == "cnn"])
def test_gradients_reach_every_trainable_weight(name: str, options: dict[str, object]) -> None:
    model = build(name, options).train()
    model(torch.randn(4, RATE) * 0.1, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    for key, weight in model.named_parameters():
        if weight.requires_grad:
            assert weight.grad is not None and torch.isfinite(weight.grad).all() and weight.grad.abs().sum() > 0, key


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_the_embedding_is_a_pooled_vector(name: str, options: dict[str, object]) -> None:
    model = build(name, options)
    with torch.inference_mode():
        embedding = model.embed(torch.randn(3, RATE) * 0.1)
    assert embedding.ndim == 2 and embedding.shape[0] == 3


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")  # of WavLM's stock attention
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_the_model_folder_opens_in_a_stock_pipeline(name: str, options: dict[str, object], tmp_path: Path) -> None:
    from transformers import pipeline

    model = build(name, options)
    save_model(model, tmp_path / "model")
    samples = arrays()[1]
    expected = scoring.softmax(scoring.score(model, from_arrays([samples]), batch_seconds=10))[0]
    answers = pipeline("audio-classification", model=str(tmp_path / "model"))(
        samples[0].astype(np.float32) / 32768, top_k=3
    )
    found = {row["label"]: row["score"] for row in answers}
    assert [found[label] for label in LABELS] == pytest.approx(list(expected), abs=1e-4)


def test_network_and_ensemble_member_are_averaged() -> None:
    model = build("cnn", {})
    clips = from_arrays(arrays())
    together = scoring.softmax(scoring.score(model, clips, batch_seconds=10))
    theirs = scoring.softmax(scoring.score(model.ensemble_member, clips, batch_seconds=10))
    model.ensemble_member = None
    ours = scoring.softmax(scoring.score(model, clips, batch_seconds=10))
    product = np.sqrt(ours * theirs)
    assert np.abs(together - product / product.sum(1, keepdims=True)).max() < 1e-5


def test_windows_are_averaged() -> None:
    model = build("cnn", {})
    clip = arrays()[9]
    model.config.window_seconds, model.config.overlap = 1.0, 0.5
    averaged = scoring.score(model, from_arrays([clip]), batch_seconds=10)
    model.config.window_seconds = None
    size, hop = RATE, RATE // 2
    starts = [*range(0, clip.shape[-1] - size, hop), clip.shape[-1] - size]
    parts = [clip[:, start : start + size] for start in starts]
    expected = scoring.score(model, from_arrays(parts), batch_seconds=10).mean(0)
    assert np.abs(averaged[0] - expected).max() < 1e-4


def test_what_embeds_once_scores_the_same() -> None:
    model = build("baseline", {})
    clips = from_arrays(arrays())
    embedded = scoring.embed(model, clips, batch_seconds=10)
    expected = scoring.score(model, clips, batch_seconds=10)
    assert np.abs(torch_runtime.score_embeddings(model, embedded) - expected).max() < 1e-5
