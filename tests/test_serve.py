"""The service over HTTP: its answers are the classifier's, its limits hold, and it stops without losing anything."""

import base64
import contextlib
import hashlib
import io
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from prometheus_client.parser import text_string_to_metric_families

from auricle.cli.main import main
from auricle.evaluation.scoring import softmax
from auricle.inference.classifier import Classifier
from auricle.inference.events import EventRules, find_events
from auricle.inference.predictor import score_windows
from auricle.models.load import save_model
from auricle.preparation.windows import WindowSpec
from auricle.serving import serve as service_module
from auricle.serving.limits import Limits
from tests.browsing import Page, asked_for, chromium, wait_for
from tests.conftest import RATE, tone
from tests.processes import start_python
from tests.services import LABELS, Service, Slow, service, small_classifier

TOKEN = "a-token-of-some-length"


def sound(seconds: float = 0.5, label: str = "low", seed: int = 0, rate: int = RATE, channels: int = 1) -> bytes:
    """The content of a sound file."""
    buffer = io.BytesIO()
    wave = np.tile(tone(label, seconds, seed, rate)[:, None], channels)
    soundfile.write(buffer, wave, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def samples_of(content: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(content), dtype="int16", always_2d=True)[0].T


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return small_classifier()


@pytest.fixture(scope="module")
def served(classifier: Classifier) -> Iterator[Service]:
    limits = Limits(body_bytes=400_000, seconds=8.0, channels=2, sample_rate=48_000, body_seconds=0.5)
    with service(classifier, limits) as running:
        yield running


def kind_of(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert error["detail"]
    return answer.status_code, error["kind"]


def chances(answer: httpx.Response) -> dict[str, float]:
    assert answer.status_code == 200, answer.text
    return {one["label"]: one["probability"] for one in answer.json()["choices"]}


def test_answers_of_many_at_once_are_the_classifiers(served: Service, classifier: Classifier) -> None:
    contents = [sound(0.2 + 0.1 * (number % 9), LABELS[number % 3], number) for number in range(40)]

    def asked(number: int) -> httpx.Response:
        if number % 2:
            return served.client.post("/v1/classify", files={"file": ("any.wav", contents[number])})
        return served.client.post("/v1/classify", content=contents[number])

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(asked, range(len(contents))))
    for content, answer in zip(contents, answers, strict=True):
        expected = classifier.classify(samples_of(content), RATE)
        given = chances(answer)
        assert answer.json()["label"] == expected.label
        assert max(abs(given[one.label] - one.probability) for one in expected.choices) < 1e-4
    assert any(size > 1 for size in batch_sizes(served)), "nothing was scored together"


def batch_sizes(served: Service) -> list[float]:
    """The upper bounds of the histogram of batch sizes that hold something."""
    before, found = 0.0, []
    for family in text_string_to_metric_families(served.client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == "auricle_batch_clips_bucket":
                if sample.value > before:
                    found.append(float(sample.labels["le"]))
                before = sample.value
    return found


def test_windows_and_events_are_those_of_the_timeline(served: Service, classifier: Classifier) -> None:
    content = sound(3.3, "high", 4)
    query = {"windows": 1.0, "hop": 0.5, "events": True, "onset": 0.3, "offset": 0.2, "min_seconds": 0.1}
    answer = served.client.post("/v1/classify", params=query, content=content).json()
    direct = list(score_windows(classifier, iter([samples_of(content)]), WindowSpec(1.0, 0.5)))
    assert [(one["start"], one["end"]) for one in answer["windows"]] == [(one.start, one.end) for one in direct]
    for told, one in zip(answer["windows"], direct, strict=True):
        assert told["probability"] == pytest.approx(float(softmax(one.logits[None]).max()), abs=1e-4)
    merged = list(find_events(direct, classifier.labels, None, EventRules(0.3, 0.2, 0.1)))
    assert merged and [one["label"] for one in answer["events"]] == [one.label for one in merged]
    assert answer["events"][0]["probability"] == pytest.approx(merged[0].probability, abs=1e-4)


def test_vectors_are_the_classifiers(served: Service, classifier: Classifier) -> None:
    content = sound(0.7, "noise", 3)
    answer = served.client.post("/v1/embed", content=content).json()
    expected = classifier.vectors([samples_of(content)])[0]
    np.testing.assert_allclose(answer["embedding"], expected / np.linalg.norm(expected), atol=1e-5)


def test_raw_pcm_is_heard_as_the_file_that_holds_it(served: Service) -> None:
    content = sound(0.6)
    expected = chances(served.client.post("/v1/classify", content=content))
    pcm = samples_of(content)[0]
    big = {"content-type": f"audio/L16; rate={RATE}; channels=1"}
    encodings = {"s16le": pcm.astype("<i2"), "s16be": pcm.astype(">i2"), "f32le": (pcm / 32768).astype("<f4")}
    assert chances(served.client.post("/v1/classify", content=encodings["s16be"].tobytes(), headers=big)) == expected
    for encoding, values in encodings.items():
        query = {"sample_rate": RATE, "encoding": encoding}
        given = chances(served.client.post("/v1/classify", params=query, content=values.tobytes()))
        assert given == pytest.approx(expected, abs=1e-6)
    stereo = {"content-type": f"audio/L16;rate={RATE};channels=2"}
    both = np.repeat(pcm.astype(">i2")[:, None], 2, 1).tobytes()
    given = chances(served.client.post("/v1/classify", content=both, headers=stereo))
    assert given == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"no sound at all, only words", (422, "unreadable")),
        (b"", (422, "empty")),
        (sound()[:60], (422, "truncated")),
        (sound(8.5), (422, "long")),
        (sound(0.2, channels=3), (422, "channels")),
        (sound(0.2, rate=96_000), (422, "rate")),
        (b"x" * 400_001, (413, "large")),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(served: Service, content: bytes, expected: tuple[int, str]) -> None:
    assert kind_of(served.client.post("/v1/classify", content=content)) == expected
    assert kind_of(served.client.post("/v1/embed", files={"file": ("sound.wav", content)})) == expected
    assert served.inference.held_bytes == 0 and served.inference.in_progress == 0


def test_a_body_that_does_not_state_its_length_is_bounded_too(served: Service) -> None:
    pieces = (b"x" * 50_000 for _ in range(20))
    assert kind_of(served.client.post("/v1/classify", content=pieces)) == (413, "large")


@pytest.mark.parametrize(
    ("send", "expected"),
    [
        ({"json": {"a": 1}}, (415, "media")),
        ({"content": b"a", "headers": {"content-encoding": "gzip"}}, (415, "media")),
        ({"content": b"a", "headers": {"content-type": "audio/L16"}}, (415, "media")),
        ({"content": b"a", "headers": {"content-type": "multipart/form-data"}}, (400, "body")),
        ({"files": {"sound": b"a"}}, (400, "body")),
        ({"content": b"a", "params": {"top": 0}}, (400, "query")),
        ({"content": b"a", "params": {"onset": "nan"}}, (400, "query")),
        ({"content": sound(), "params": {"events": 1, "onset": 0.2, "offset": 0.4}}, (400, "query")),
        ({"content": sound(), "params": {"windows": 1, "hop": 2}}, (400, "query")),
        ({"content": sound(3), "params": {"windows": 0.001}}, (400, "query")),
        ({"content": b"ab", "params": {"sample_rate": 7}}, (400, "query")),
    ],
)
def test_wrong_questions_are_told_what_is_allowed(
    served: Service, send: dict[str, object], expected: tuple[int, str]
) -> None:
    assert kind_of(served.client.post("/v1/classify", **send)) == expected


def test_a_body_that_trickles_is_given_up(served: Service) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as line:
        line.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        start = time.monotonic()
        line.settimeout(5)
        head = b""
        while b"\r\n" not in head:
            with contextlib.suppress(OSError):
                line.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                line.settimeout(0.1)
                head += line.recv(100)
        assert head.startswith(b"HTTP/1.1 408") and 0.4 < time.monotonic() - start < 3


def test_a_head_that_trickles_is_given_up(served: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "HEAD_SECONDS", 0.4)
    with socket.create_connection(("127.0.0.1", served.port)) as line:
        start = time.monotonic()
        line.settimeout(0.1)
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        closed = False
        while not closed and time.monotonic() - start < 5:
            try:
                line.sendall(b"X-A: b\r\n")
                closed = line.recv(100) == b""
            except TimeoutError:
                pass
            except OSError:
                closed = True
        assert closed and 0.3 < time.monotonic() - start < 3


def test_without_an_answer_in_time_a_request_is_dropped_unscored() -> None:
    classifier = small_classifier(Slow)
    assert isinstance(classifier, Slow)
    with service(classifier, Limits(deadline=0.6, threads=1, batch_clips=1)) as running:
        classifier.seconds, classifier.given = 0.4, []
        start = time.monotonic()
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: running.client.post("/v1/classify", content=sound()), range(6)))
        assert time.monotonic() - start < 2
        statuses = [answer.status_code for answer in answers]
        assert statuses.count(504) >= 4 and statuses.count(200) >= 1
        time.sleep(0.5)
        assert len(classifier.given) <= 3, "what nobody waited for was scored"
        assert running.client.get("/healthz").elapsed.total_seconds() < 0.3


def test_a_full_service_says_so_at_once_and_answers_those_inside() -> None:
    classifier = small_classifier(Slow)
    assert isinstance(classifier, Slow)
    with service(classifier, Limits(requests=3)) as running:
        classifier.seconds = 0.5
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda _: running.client.post("/v1/classify", content=sound()), range(10)))
            full = [answer for answer in answers if answer.status_code == 429]
            assert sum(answer.status_code == 200 for answer in answers) >= 3 and len(full) >= 4
        assert all(kind_of(answer)[1] == "full" and answer.headers["retry-after"] for answer in full)
        assert max(answer.elapsed.total_seconds() for answer in full) < 0.4
        assert 'auricle_rejected_total{reason="full"}' in running.client.get("/metrics").text


def test_all_bodies_together_are_bounded(classifier: Classifier) -> None:
    with service(classifier, Limits(held_bytes=5_000)) as running:
        assert kind_of(running.client.post("/v1/classify", content=b"x" * 6_000)) == (429, "memory")
        assert running.inference.held_bytes == 0


def test_the_token_opens_the_model_and_nothing_else_does(classifier: Classifier) -> None:
    with service(classifier, token=TOKEN) as running:
        for path in ("/v1/labels", "/metrics"):
            assert kind_of(running.client.get(path)) == (401, "token")
            assert running.client.get(path, headers={"authorization": f"Bearer {TOKEN}x"}).status_code == 401
            assert running.client.get(path, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert running.client.post("/v1/classify", content=sound()).status_code == 401
        assert running.client.get("/healthz").status_code == 200
        paths = running.client.get("/openapi.json").json()["paths"]
        assert {path for path, told in paths.items() if "security" in next(iter(told.values()))} == {
            "/v1/classify",
            "/v1/embed",
            "/v1/labels",
            "/metrics",
        }


def test_pages_elsewhere_cannot_reach_it_under_a_name_of_theirs(served: Service) -> None:
    assert served.client.get("/v1/labels", headers={"host": "elsewhere.example"}).status_code == 400


def test_it_counts_what_it_does(served: Service) -> None:
    def counted() -> dict[str, float]:
        families = text_string_to_metric_families(served.client.get("/metrics").text)
        return {f"{one.name} {sorted(one.labels.items())}": one.value for family in families for one in family.samples}

    before = counted()
    served.client.post("/v1/classify", content=sound(0.5))
    served.client.post("/v1/classify", content=b"nothing")
    grown = {name: value - before.get(name, 0.0) for name, value in counted().items()}
    assert grown["auricle_requests_total [('route', '/v1/classify'), ('status', '200')]"] == 1
    assert grown["auricle_requests_total [('route', '/v1/classify'), ('status', '422')]"] == 1
    assert grown["auricle_rejected_total [('reason', 'unreadable')]"] == 1
    assert grown["auricle_audio_seconds_total []"] == pytest.approx(0.5)
    assert grown["auricle_request_seconds_count [('route', '/v1/classify')]"] == 2
    assert counted()["auricle_queue_depth []"] == 0


def test_nothing_that_is_sent_reaches_a_disk(served: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rolled(*_: object) -> None:
        raise AssertionError("an upload was written to a disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rolled)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    name = "../../../../tmp/evil.wav"
    answer = served.client.post("/v1/classify", files={"file": (name, sound(2.0) + b"\0" * 300_000)})
    assert answer.status_code == 200 and "/tmp" not in answer.text
    assert not list(tmp_path.iterdir()) and not Path("/tmp/evil.wav").exists()


PATHS = {"/v1/classify", "/v1/embed", "/v1/labels", "/healthz", "/readyz", "/metrics"}


def test_the_documentation_loads_only_its_own_files(served: Service) -> None:
    assert set(served.client.get("/openapi.json").json()["paths"]) == PATHS
    answer = served.client.get("/docs")
    assert "//" not in answer.text, "it names another host"
    linked = re.findall(r"(?:href|src)=\"([^\"]*)\"|url: '([^']*)'", answer.text)
    files = ["".join(pair) for pair in linked]
    assert len(files) == 4 and {"openapi.json", "docs/swagger-ui-bundle.js", "docs/swagger-ui.css"} < set(files)
    for file in files:
        found = served.client.get(f"/{file}")
        assert found.status_code == 200 and len(found.content) > 1000, file
    assert served.client.get("/docs/redoc.standalone.js").status_code == 404


def test_the_documentation_runs_no_script_but_its_own(served: Service) -> None:
    answer = served.client.get("/docs")
    policies = answer.headers.get_list("content-security-policy")
    assert len(policies) == 2 and "script-src 'self' 'unsafe-inline'" in policies[1]  # the server's own holds as well
    scripts = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1 and f"script-src 'self' 'sha256-{digest}';" in policies[0]
    assert "default-src 'none'" in policies[0] and "unsafe-eval" not in policies[0] and "http" not in policies[0]
    assert len(served.client.get("/openapi.json").headers.get_list("content-security-policy")) == 1


def test_the_documentation_shows_the_operations(served: Service) -> None:
    with chromium() as browser:
        page = Page(browser, f"http://127.0.0.1:{served.port}/docs", ".opblock")
        assert {path.replace("\u200b", "") for path in page.texts(".opblock-summary-path")} == PATHS
        requests = asked_for(browser)
        assert len(requests) > 3
        assert all(url.startswith((f"http://127.0.0.1:{served.port}/", "data:")) for url in requests)
        assert [entry["message"] for entry in browser.get_log("browser")] == []
        page.click("#operations-Monitoring-readyz .opblock-summary-control")
        wait_for(lambda: page.texts("#operations-Monitoring-readyz .try-out__btn"))
        page.click("#operations-Monitoring-readyz .try-out__btn")
        page.click("#operations-Monitoring-readyz .execute")
        wait_for(lambda: '"ready"' in page.text("#operations-Monitoring-readyz .live-responses-table"))


@pytest.mark.parametrize(
    ("options", "environment", "said"),
    [
        (["--host", "0.0.0.0", "--port", "0", "--no-page"], None, "AURICLE_TOKEN"),
        (["--token-file", "nothing.txt"], None, "nothing.txt"),
        ([], "short", "8 or more"),
        (["--deadline", "0"], None, "deadline"),
    ],
)
def test_an_open_door_is_refused(
    options: list[str],
    environment: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("AURICLE_TOKEN", raising=False)
    if environment is not None:
        monkeypatch.setenv("AURICLE_TOKEN", environment)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert main(["serve", str(tmp_path), *options]) == 2
    assert said in capsys.readouterr().err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, classifier: Classifier) -> Path:
    folder = tmp_path_factory.mktemp("served")
    save_model(classifier.model, folder / "model")
    return folder


@contextlib.contextmanager
def process(folder: Path, *options: str) -> Iterator[tuple[BaseProcess, str]]:
    """`auricle serve` in a process of its own, ready."""
    command, out = ["serve", str(folder), "--port", "0", "--no-page", *options], folder / "printed.txt"
    out.write_bytes(b"")
    running = start_python(
        f"import os, sys\nos.dup2(os.open({str(out)!r}, os.O_WRONLY), 1)\n"
        f"from auricle.cli.main import main\nsys.exit(main({command}))"
    )
    try:
        while "\n" not in (line := out.read_text()):
            assert running.is_alive()
            time.sleep(0.05)
        url = line.partition(" at ")[2].partition(" ")[0]
        while httpx.get(f"{url}readyz", trust_env=False).status_code != 200:
            time.sleep(0.05)
        yield running, url
    finally:
        running.kill()
        running.join()


def ended(running: BaseProcess, seconds: float) -> int | None:
    """The exit code of a process, once it has ended; None where it still runs after so many seconds."""
    running.join(seconds)
    return running.exitcode


def until_closed(ask: Callable[[], None]) -> None:
    with contextlib.suppress(httpx.ConnectError):
        while True:
            ask()


def test_told_to_stop_it_answers_what_it_accepted_and_ends_with_0(folder: Path) -> None:
    statuses, lost = [], []
    content = sound(0.5)

    def ask(client: httpx.Client) -> None:
        try:
            statuses.append(client.post("/v1/classify", content=content).status_code)
        except httpx.ConnectError:
            raise
        except httpx.HTTPError as error:
            lost.append(error)

    with process(folder) as (running, url):
        clients = [httpx.Client(base_url=url, timeout=20, trust_env=False) for _ in range(8)]
        threads = [threading.Thread(target=until_closed, args=(lambda client=one: ask(client),)) for one in clients]
        for thread in threads:
            thread.start()
        time.sleep(1.0)
        os.kill(running.pid, signal.SIGTERM)
        assert ended(running, 20) == 0
        for thread in threads:
            thread.join()
        for client in clients:
            client.close()
    assert len(statuses) > 8 and set(statuses) == {200} and not lost


def test_a_second_signal_ends_it_at_once(folder: Path) -> None:
    with process(folder, "--body-seconds", "20") as (running, url):
        port = int(url.rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as line:
            line.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
            time.sleep(0.3)
            os.kill(running.pid, signal.SIGTERM)
            assert ended(running, 0.5) is None
            start = time.monotonic()
            os.kill(running.pid, signal.SIGTERM)
            assert ended(running, 5) == 128 + signal.SIGTERM and time.monotonic() - start < 1


def test_sound_counts_as_what_it_takes_and_not_as_what_it_was_packed_into() -> None:
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(60 * RATE, np.int16), RATE, format="FLAC")
    assert len(silence.getvalue()) < 60 * RATE / 10
    with service(small_classifier(), Limits(held_bytes=60 * RATE)) as running:
        assert kind_of(running.client.post("/v1/classify", content=silence.getvalue())) == (429, "memory")
        assert running.client.post("/v1/classify", content=sound()).status_code == 200
        assert running.inference.held_bytes == 0


def test_the_answer_for_a_long_sound_does_not_depend_on_the_windows_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("auricle.audio.recordings.WHOLE_SECONDS", 2.0)
    classifier = small_classifier()
    classifier.model.config.window_seconds, classifier.model.config.overlap = 1.0, 0.25
    content = np.concatenate([samples_of(sound(3.0, label, 3)) for label in ("high", "noise")], 1)
    file = io.BytesIO()
    soundfile.write(file, content.T, RATE, format="WAV", subtype="PCM_16")
    expected = softmax(
        np.mean([one.logits for one in score_windows(classifier, iter([content]), classifier.window_spec)], 0)[None]
    )[0]
    with service(classifier) as running:
        for query in ("", "?windows=0.4", "?events=true&windows=3"):
            found = chances(running.client.post(f"/v1/classify{query}", content=file.getvalue()))
            assert all(abs(found[label] - expected[place]) < 1e-4 for place, label in enumerate(LABELS)), query


@pytest.mark.parametrize("charset", ["undefined", "idna", "no-such"])
def test_a_form_in_a_charset_that_nothing_is_written_in_is_no_fault_of_ours(served: Service, charset: str) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\xff\r\n--x--\r\n'
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    answer = served.client.post("/v1/classify", content=body, headers={"content-type": kind})
    assert kind_of(answer) == (400, "body")
