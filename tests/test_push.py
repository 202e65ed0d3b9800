"""Sharing a run: what arrives at the Hub, what never leaves the machine, and what is said when it cannot go."""

import base64
import getpass
import hashlib
import json
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import soundfile
import yaml
from huggingface_hub import EvalResult, ModelCard
from transformers import HubertConfig, HubertForSequenceClassification, Wav2Vec2FeatureExtractor, pipeline

import auricle
from auricle import recipes
from auricle.cli.main import main
from auricle.errors import AuricleError, RunError, UsageError
from auricle.evaluation.error_analysis import Slice
from auricle.evaluation.intervals import Interval
from auricle.evaluation.model_card import model_card
from auricle.evaluation.report import Report
from auricle.hub.push import PushOptions, prepare_upload, push
from auricle.hub.redact import LocalPaths, without_paths
from auricle.training.progress import ProgressReporter
from auricle.training.run import run
from tests.conftest import write_corpus

# huggingface_hub 2.4 hands its files to its own HTTP library in a way that the library calls outdated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TOKEN = "hf_secretsecretsecretsecretsecret"
SECRET = "a-value-of-the-environment"
MOST_REQUESTS = 40


@dataclass
class Hub:
    """What the stub was asked and what it holds; `refuse` maps the start of a path to a status and a message."""

    url: str = ""
    private: bool = False
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """The Hub's answers, as far as a push of huggingface_hub asks for them."""
        for start, (status, message) in self.refuse.items():
            if path.startswith(start):
                return status, {"error": message, "url": f"{self.url}/user/name"}
        if path.startswith("/blob/"):
            self.blobs[path.removeprefix("/blob/")] = body
            return 200, {}
        asked = json.loads(body) if body and "/commit/" not in path else {}
        if path == "/api/repos/create":
            self.private = asked.get("visibility") == "private"
            return 200, {"url": f"{self.url}/user/name"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            modes = [
                {
                    "path": row["path"],
                    "uploadMode": "lfs" if row["path"].endswith((".safetensors", ".parquet")) else "regular",
                    "shouldIgnore": False,
                }
                for row in asked["files"]
            ]
            return 200, {"files": modes}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**row, "actions": {"upload": {"href": f"{self.url}/blob/{row['oid']}"}}} for row in asked["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.files[value["path"]] = self.blobs[value["oid"]]
            return 200, {"commitUrl": f"{self.url}/user/name/commit/1", "commitOid": "1" * 40}
        if method == "GET" and path.startswith("/api/models/"):
            return 200, {"id": "user/name", "private": self.private}
        return (200, {}) if "/branch/" in path else (404, {"error": f"the stub knows no {method} {path}"})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on this machine that the real client talks to, with a token in the usual place."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self._body()
            state.requests.append(
                (self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            )
            bounded = len(state.requests) <= MOST_REQUESTS
            status, content = state.answer(self.command, self.path, body) if bounded else (400, {"error": "too many"})
            sent = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PUT = do_HEAD = _serve

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("AURICLE_TEST_SECRET", SECRET)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", state.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    yield state
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose report shows the sound of doubted clips, on a corpus whose groups have names."""
    folder = tmp_path_factory.mktemp("trained")
    corpus = write_corpus(folder / "corpus")
    for path in sorted(corpus.rglob("*.wav")):
        path.rename(path.with_name(path.name.replace("device", "Mary")))
    (corpus / "high" / "Mary1_001.wav").rename(corpus / "noise" / "Mary1_901.wav")
    (corpus / "low" / "Mary0_777.wav").write_bytes(b"not a sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AURICLE_CACHE", str(folder / "cache"))
        recipe = recipes.load("baseline", ["data.split=leave-one-group-out", "data.group=name:1"])
        run(corpus, recipe, folder / "run", ProgressReporter())
    _hide_paths(folder / "run", folder)
    return folder / "run"


def _hide_paths(run: Path, folder: Path) -> None:
    """Local paths where a run may hold them: the recipe, the report, the model's configuration."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"]["reader_options"] = {"table": f"{folder}/people of mine.csv"}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    report = json.loads((run / "report.json").read_text())
    report["recipe"] = recipe
    report["model"]["base_model"] = f"{Path.home()}/models/hubert base"
    report["cautions"].append(f"Read from {folder}/corpus/low, with '{Path.home()}/x/y.csv' next to it.")
    (run / "report.json").write_text(json.dumps(report))
    config = json.loads((run / "model" / "config.json").read_text())
    (run / "model" / "config.json").write_text(json.dumps({**config, "_name_or_path": f"{Path.home()}/models/hubert"}))


def _sent(state: Hub) -> bytes:
    """Every byte of every body, with what is packed as base64 in the commits laid open."""
    return b"\n".join([*(body for *_, body in state.requests), *state.files.values()])


def _unsaid(text: bytes, folder: Path) -> list[str]:
    """What of this machine and its user the bytes tell."""
    secrets = [TOKEN, SECRET, f"{Path.home()}/", str(folder), str(Path.cwd())]
    if len(getpass.getuser()) > 4:
        secrets.append(getpass.getuser())
    if len(socket.gethostname()) > 4:
        secrets.append(socket.gethostname())
    return [secret for secret in secrets if secret.encode() in text]


def test_the_files_arrive_whole_and_in_one_commit(hub: Hub, trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(trained), "user/name"]) == 0
    said = capfd.readouterr()
    commits = [path for _, path, _, _ in hub.requests if "/commit/" in path]
    assert commits == ["/api/models/user/name/commit/main"]
    assert f"{hub.url}/user/name" in said.out and TOKEN not in said.out + said.err
    assert set(hub.files) == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
        "report.json",
        "report.html",
        "recipe.yaml",
        "cost.json",
    }
    for name in ("model.safetensors", "preprocessor_config.json"):
        here = hashlib.sha256((trained / "model" / name).read_bytes()).digest()
        assert hashlib.sha256(hub.files[name]).digest() == here
    keys = {path: headers.get("authorization") for _, path, headers, _ in hub.requests}
    assert keys["/api/repos/create"] == keys[commits[0]] == f"Bearer {TOKEN}"
    assert all(key is None for path, key in keys.items() if path.startswith("/blob/"))
    assert sum(path.startswith("/blob/") for path in keys) == 1 and len(hub.requests) < MOST_REQUESTS


def test_no_secret_path_clip_or_person_is_in_any_byte(hub: Hub, trained: Path) -> None:
    html = (trained / "report.html").read_text()
    assert "data:audio" in html and str(trained) in html and "Mary1" in html
    push(prepare_upload(trained, "user/name", PushOptions()))
    sent = _sent(hub)
    assert _unsaid(sent, trained.parent) == []
    assert b"Mary" not in sent and b"data:audio" not in sent and b"data:image" not in sent
    report = json.loads(hub.files["report.json"])
    assert report["metrics"] == json.loads((trained / "report.json").read_text())["metrics"]
    assert report["recipe"]["data"]["reader_options"] == {"table": "people of mine.csv"}
    assert report["model"]["base_model"] == "hubert base"
    assert json.loads(hub.files["config.json"])["_name_or_path"] == "hubert"
    assert report["audit"]["quarantined"][0]["id"].startswith("clip ")
    assert sorted(row["name"] for row in report["folds"]) == [f"group {number}" for number in range(1, 5)]


def test_scores_and_sound_go_only_when_asked_for(hub: Hub, trained: Path) -> None:
    upload = prepare_upload(trained, "user/name", PushOptions(with_scores=True, with_audio=True))
    assert any("can play them" in note for note in upload.notes)
    push(upload)
    assert hub.files["scores.parquet"] == (trained / "scores.parquet").read_bytes()
    assert b"data:audio" in hub.files["report.html"] and b"Mary1" in hub.files["report.json"]
    assert _unsaid(_sent(hub), trained.parent) == []
    numbered = prepare_upload(trained, "user/name", PushOptions(with_audio=True))
    page = next(file.content for file in numbered.files if file.name == "report.html")
    assert isinstance(page, bytes) and b"data:audio" in page and b"Mary" not in page


def test_the_pushed_folder_opens_in_auricle_and_in_the_pipeline(
    hub: Hub, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(prepare_upload(trained, "user/name", PushOptions()))
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    sound = trained.parent / "corpus" / "low" / "Mary0_000.wav"
    assert auricle.load(tmp_path)(sound).label == "low"
    classify = pipeline("audio-classification", model=str(tmp_path))
    assert classify(soundfile.read(sound)[0])[0]["label"] == "low"


def test_a_stock_model_opens_in_the_pipeline_without_auricle(
    hub: Hub, copied: Callable[[], Path], tmp_path: Path
) -> None:
    here = copied()
    report = json.loads((here / "report.json").read_text())
    report["model"]["type"] = "hubert"
    (here / "report.json").write_text(json.dumps(report))
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    front = {"conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_conv_pos_embeddings": 8}
    names = dict(enumerate(report["labels"]))
    config = HubertConfig(**small, **front, num_conv_pos_embedding_groups=2, id2label=names)
    shutil.rmtree(here / "model")
    HubertForSequenceClassification(config).save_pretrained(here / "model")
    Wav2Vec2FeatureExtractor().save_pretrained(here / "model")
    push(prepare_upload(here, "user/name", PushOptions()))
    (tmp_path / "got").mkdir()
    for name, content in hub.files.items():
        (tmp_path / "got" / name).write_bytes(content)
    sound = np.random.default_rng(0).normal(0, 0.1, 8000)
    classify = [pipeline("audio-classification", model=str(folder)) for folder in (here / "model", tmp_path / "got")]
    assert type(classify[1].model) is HubertForSequenceClassification
    assert classify[0](sound) == classify[1](sound)
    assert {row["label"] for row in classify[1](sound)} == set(report["labels"])
    assert "import auricle  # registers" not in hub.files["README.md"].decode()


def test_labels_that_look_like_paths_stay_labels() -> None:
    found = without_paths(
        {"/m/0k4j": ["/m/0k4j", "/home/me/a b.csv", "see https://a-b.org/c/d and /home/me/x.wav", "C:\\me\\x.csv"]},
        LocalPaths(("/home/me",), frozenset({"/m/0k4j"})),
    )
    assert found == {"/m/0k4j": ["/m/0k4j", "a b.csv", "see https://a-b.org/c/d and x.wav", "x.csv"]}


def test_the_card_is_read_by_the_hubs_own_parser(hub: Hub, trained: Path) -> None:
    push(prepare_upload(trained, "user/name", PushOptions(license="cc-by-4.0")))
    text = hub.files["README.md"].decode()
    read = ModelCard(text)
    report = json.loads((trained / "report.json").read_text())
    results = {result.metric_name: result for result in read.data.eval_results or []}
    assert all(isinstance(result, EvalResult) for result in results.values())
    for name, key in (("accuracy", "accuracy"), ("balanced accuracy", "balanced_accuracy"), ("macro F1", "macro_f1")):
        value = results[name].metric_value
        assert type(value) is float and value == pytest.approx(report["metrics"][key]["value"], abs=5e-5)
    assert read.data.license == "cc-by-4.0" and read.data.library_name == "transformers"
    assert read.data.pipeline_tag == "audio-classification" and read.data.base_model is None
    again = ModelCard(f"---\n{read.data.to_yaml()}\n---\n{read.text}")
    assert again.data.to_dict() == read.data.to_dict()
    for figure in report["metrics"].values():
        assert f"{figure['low']:.3f} to {figure['high']:.3f}" in read.text
    assert "1 clips are unusable" in read.text and 'model="user/name"' in read.text


def test_the_card_claims_no_licence_base_or_data_set_that_is_not_known(trained: Path) -> None:
    report = Report.load(trained / "report.json")
    data = ModelCard(str(model_card(report))).data.to_dict()
    assert data["license"] == "other" and data["license_name"] and data["license_link"]
    assert not {"datasets", "base_model", "language"} & set(data)
    known = replace(report, model=replace(report.model, base_model="some/encoder", type="hubert"))
    text = str(model_card(known, dataset="user/sounds", repo="user/name"))
    data = ModelCard(text).data.to_dict()
    assert data["base_model"] == "some/encoder" and data["datasets"] == ["user/sounds"]
    assert "import auricle  # registers" not in text and "import auricle  # registers" in str(model_card(report))


def test_the_card_warns_of_emotions_and_voices_only_where_there_are_some(trained: Path) -> None:
    report = Report.load(trained / "report.json")
    text = str(model_card(report))
    assert "feels" not in text and "consent" not in text
    corpus = replace(report.corpus, group_name="speaker")
    text = str(model_card(replace(report, labels=("anger", "happiness", "sadness"), corpus=corpus)))
    assert "feels" in text and "consent" in text


def test_the_card_names_slices_that_are_significantly_lower(trained: Path) -> None:
    report = Report.load(trained / "report.json")
    report.metrics["accuracy"] = replace(report.metrics["accuracy"], value=0.9)
    row = Slice("ma|le", 50, 20, Interval(0.6, 0.5, 0.7))
    few = replace(row, name="few", groups=2, accuracy=replace(row.accuracy, reliable=False))
    fine = replace(row, name="fine", accuracy=Interval(0.6, 0.5, 0.95))
    text = str(model_card(replace(report, slices={"sex": (row, few, fine)})))
    lower = re.findall(r"Significantly lower where sex is (\S+):", text)
    assert lower == ["ma\\|le"]


def test_a_dry_run_needs_neither_network_nor_token(
    hub: Hub, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert main(["push", str(trained), "user/name", "--dry-run", "--private", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["visibility"] == "private" and told["url"] is None
    sizes = {row["name"]: row["bytes"] for row in told["files"]}
    assert sizes["model.safetensors"] == (trained / "model" / "model.safetensors").stat().st_size
    assert told["card"]["pipeline_tag"] == "audio-classification"
    assert main(["push", str(trained), "user/name", "--dry-run"]) == 0
    assert "model.safetensors" in capsys.readouterr().out
    assert hub.requests == []


def test_private_branches_and_messages_are_what_was_asked_for(hub: Hub, trained: Path) -> None:
    push(prepare_upload(trained, "user/name", PushOptions(private=True, revision="trial", message="Third try")))
    bodies = {path: body for _, path, _, body in hub.requests}
    assert json.loads(bodies["/api/repos/create"])["visibility"] == "private"
    assert "/api/models/user/name/branch/trial" in bodies
    assert b"Third try" in bodies["/api/models/user/name/commit/trial"]


def test_a_public_repository_is_not_taken_for_a_private_one(hub: Hub, trained: Path) -> None:
    hub.refuse["/api/repos/create"] = (409, "You already created this model repo")
    with pytest.raises(UsageError, match="exists and is public"):
        push(prepare_upload(trained, "user/name", PushOptions(private=True)))
    assert not hub.files


REFUSALS = [
    ("/api/repos/create", 401, UsageError, "hf auth login"),
    ("/api/models/user/name/preupload", 403, UsageError, "write access"),
    ("/api/models/user/name/commit", 404, UsageError, "revision"),
    ("/api/models/user/name/commit", 409, RunError, "Push again"),
    ("/api/models/user/name/commit", 500, RunError, "answered 500"),
]


@pytest.mark.parametrize(("path", "status", "kind", "words"), REFUSALS)
def test_a_refusal_is_one_sentence_without_the_token(
    path: str, status: int, kind: type[AuricleError], words: str, hub: Hub, trained: Path
) -> None:
    hub.refuse[path] = (status, f"Your token {TOKEN} is refused")
    if status == 401:
        hub.refuse["/api/models/"] = (status, f"Your token {TOKEN} is refused")
    with pytest.raises(kind) as caught:
        push(prepare_upload(trained, "user/name", PushOptions()))
    assert words in str(caught.value) and TOKEN not in str(caught.value) and not hub.files
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_without_a_hub_the_push_says_so(
    hub: Hub, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", nowhere)
        assert main(["push", str(trained), "user/name"]) == 2
    said = capsys.readouterr().err
    assert "cannot be reached" in said and TOKEN not in said and "Traceback" not in said


def test_without_a_token_the_login_is_named(hub: Hub, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UsageError, match="hf auth login"):
        push(prepare_upload(trained, "user/name", PushOptions()))
    assert hub.requests == []


def test_a_token_inside_a_file_stops_the_push(hub: Hub, trained: Path, copied: Callable[[], Path]) -> None:
    run = copied()
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"]["reader_options"] = {"token": TOKEN}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(RunError, match="contains your Hugging Face token") as caught:
        push(prepare_upload(run, "user/name", PushOptions()))
    assert TOKEN not in str(caught.value) and hub.requests == []


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Callable[[], Path]:
    return lambda: Path(shutil.copytree(trained, tmp_path / "copy"))


def test_only_finished_runs_go_and_nothing_from_outside_them(copied: Callable[[], Path], tmp_path: Path) -> None:
    run = copied()
    (tmp_path / "elsewhere.json").write_text("{}")
    (run / "model" / "linked.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(RunError, match="link to a file outside the run folder"):
        prepare_upload(run, "user/name", PushOptions())
    (run / "model" / "linked.json").unlink()
    (run / "report.html").unlink()
    with pytest.raises(RunError, match=r"unfinished: it has no report\.html.*--resume"):
        prepare_upload(run, "user/name", PushOptions())
    with pytest.raises(RunError, match="no run folder"):
        prepare_upload(tmp_path / "nothing", "user/name", PushOptions())


@pytest.mark.parametrize("name", ["name", "user/na me", "user/name/more", "../name", "user/.."])
def test_a_wrong_name_is_refused_before_anything_is_read(name: str, trained: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(name)):
        prepare_upload(trained, name, PushOptions())
