"""The page of a served model, driven in a browser; and its parts: upload guard, stream buffer, rendering."""

import asyncio
import base64
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from auricle.audio.decode import DecodedAudio, resample
from auricle.cli.main import main
from auricle.inference.classifier import ClassProbability, Prediction, load
from auricle.inference.events import Event
from auricle.inference.predictor import ScoredWindow
from auricle.serving import render
from auricle.serving.microphone import MicrophoneStream
from auricle.serving.service import Timeline
from auricle.serving.waveform import draw_waveform
from tests.browsing import WAIT, Page, asked_for, chromium, wait_for
from tests.conftest import RATE, tone, write_corpus

TOKEN = "a-token-of-some-length"
READY = "#labels summary"
# What is heard in the long recording, three seconds of each.
HEARD = ("low", "noise", "high", "low", "noise", "high")


@dataclass(frozen=True)
class AudioSource:
    """The files that the tests send."""

    short: Path
    long: Path
    cut: Path
    bad: Path
    endless: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model refuses the long recording as a whole, but none of its parts."""
    folder = tmp_path_factory.mktemp("page")
    corpus, out = write_corpus(folder / "corpus"), folder / "run"
    assert main(["train", str(corpus), "--recipe", "baseline", "--out", str(out)]) == 0
    config = out / "model" / "config.json"
    sure = load(out).classify(long_recording(), RATE).probability
    config.write_text(json.dumps({**json.loads(config.read_text()), "threshold": (1 + sure) / 2}), encoding="utf-8")
    return out


def long_recording() -> np.ndarray:
    pieces = [tone(label, 0.5, seed=500 + 6 * place + part) for place, label in enumerate(HEARD) for part in range(6)]
    return np.concatenate(pieces)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> AudioSource:
    folder = tmp_path_factory.mktemp("sounds")
    made = AudioSource(*(folder / f"{name}.wav" for name in ("short", "long", "cut", "bad", "endless")))
    soundfile.write(made.short, tone("low", 0.5, 99), RATE, subtype="PCM_16")
    soundfile.write(made.long, long_recording(), RATE, subtype="PCM_16")
    made.cut.write_bytes(made.short.read_bytes()[:4000])
    made.bad.write_bytes(b"no sound at all")
    soundfile.write(made.endless, np.tile(tone("low", 1.0, 0), 70), RATE, subtype="PCM_16")
    return made


@dataclass(frozen=True)
class Served:
    """A service in a process of its own: its address, and the folder that its temporary files lie in."""

    url: str
    temporary: Path
    process: "subprocess.Popen[bytes]"

    def files(self) -> list[Path]:
        """What is on disk of what was sent."""
        return [path for path in self.temporary.rglob("*") if path.is_file() and path.stat().st_size]


@pytest.fixture(scope="module")
def start(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    pytest.importorskip("gradio", reason="the extra 'demo' is not installed")
    started: list[Served] = []

    def begin(**environment: str) -> Served:
        folder = tmp_path_factory.mktemp("served")
        said, temporary = folder / "said.json", folder / "temporary"
        temporary.mkdir()
        command = [sys.executable, "-m", "auricle", "serve", str(run), "--port", "0", "--json"]
        with said.open("wb") as out:
            process = subprocess.Popen(
                [*command, "--max-seconds", "60", "--max-mb", "2"],
                stdout=out,
                env=os.environ | {"TMPDIR": str(temporary)} | environment,
            )
        wait_for(lambda: said.read_text(encoding="utf-8").endswith("}\n"), process, 3 * WAIT)
        url = json.loads(said.read_text(encoding="utf-8"))["url"]
        started.append(Served(url, temporary, process))
        wait_for(lambda: answered(f"{url}readyz")[0] == 200, process)
        return started[-1]

    try:
        yield begin
    finally:
        for served in started:
            served.process.kill()
            served.process.wait(WAIT)


@pytest.fixture(scope="module")
def served(start: Callable[..., Served]) -> Served:
    return start()


@pytest.fixture(scope="module")
def browser(sounds: AudioSource) -> Iterator[Any]:
    flags = ("use-fake-device-for-media-stream", "use-fake-ui-for-media-stream")
    with chromium(*flags, f"use-file-for-fake-audio-capture={sounds.long}") as window:
        yield window


def answered(url: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes, Any]:
    """Status, body and headers of an answer, whatever its status."""
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=WAIT) as found:
            return found.status, found.read(), found.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def send(page: Page, drop: str, *files: Path) -> None:
    page.type(f"{drop} input[type=file]", "\n".join(str(file) for file in files))


def tab(page: Page, name: str) -> None:
    tabs = page.browser.find_elements("css selector", "button[role=tab]")
    next(one for one in tabs if one.text == name).click()


def press(page: Page, control: str, name: str) -> None:
    def buttons() -> list[Any]:
        return [one for one in page.browser.find_elements("css selector", f"{control} button") if one.text == name]

    wait_for(buttons)[0].click()


def name_of(page: Page) -> str:
    return page.text("#result .name").split(" ")[0]


def test_an_uploaded_file_is_classified_shown_and_playable(served: Served, sounds: AudioSource, browser: Any) -> None:
    page = Page(browser, served.url, READY)
    assert page.texts("#labels li") == ["high", "low", "noise"]
    send(page, "#file", sounds.short)
    wait_for(lambda: page.text("#result .label") == "low")
    assert page.text("#result header .name") == "short.wav · 0.50 s"
    assert page.texts("#result .class-name")[0] == "low" and len(page.texts("#result .probabilities li")) == 3
    shares = [float(text.removesuffix(" %")) for text in page.texts("#result .probabilities .percent")]
    assert sum(shares) == pytest.approx(100, abs=0.2) and shares == sorted(shares, reverse=True)
    seen = "const one = document.querySelector('#result .spectrogram img'); return one.complete && one.naturalWidth"
    assert wait_for(lambda: browser.execute_script(seen)) > 20
    long = "return document.querySelector('#result audio').duration"
    assert wait_for(lambda: browser.execute_script(long)) == pytest.approx(0.5, abs=0.15)
    assert not page.texts("#result .track") and not page.texts("#result .events")
    assert served.files() == []


def test_a_long_recording_has_a_timeline_and_the_whole_of_it_is_unknown(
    served: Served, sounds: AudioSource, browser: Any
) -> None:
    page = Page(browser, served.url, READY)
    send(page, "#file", sounds.long)
    wait_for(lambda: page.text("#result .label") == "Unknown")
    assert "No class reaches the threshold" in page.text("#result .note")
    assert sorted(page.texts("#result .track span")) == sorted(set(HEARD))
    rows = page.texts("#result .events tbody tr")
    found = [(row.split()[-3], float(row.split()[1])) for row in rows if row.split()[-3] in HEARD]
    for place, label in enumerate(HEARD):
        assert any(one == label and abs(at - 3 * place) <= 1 for one, at in found), (label, found)
    assert len(page.texts("#result .track i")) == len(rows)
    page.click("#result .events tbody tr:nth-child(3) button")
    at = float(rows[2].split()[1])
    playing = "const sound = document.querySelector('#result audio'); return !sound.paused && sound.currentTime"
    assert at <= wait_for(lambda: browser.execute_script(playing)) < at + 3


def test_what_is_wrong_with_a_file_is_one_sentence(served: Served, sounds: AudioSource, browser: Any) -> None:
    page = Page(browser, served.url, READY)
    send(page, "#file", sounds.bad)
    wait_for(lambda: name_of(page) == "bad.wav")
    assert page.text("#result .label") == "No prediction"
    assert page.text("#result .failure").startswith("unreadable a text file, not audio; it begins 'no sound")
    send(page, "#file", sounds.endless)
    wait_for(lambda: name_of(page) == "endless.wav")
    assert page.text("#result .failure") == "long it lasts more than the 60 s that are allowed"
    send(page, "#file", sounds.cut)
    wait_for(lambda: name_of(page) == "cut.wav")
    assert page.text("#result .label") == "low" and page.text("#result .note").startswith("truncated")
    assert "Traceback" not in browser.page_source and served.files() == []


def test_many_files_give_a_table_that_can_be_saved(served: Served, sounds: AudioSource, browser: Any) -> None:
    page = Page(browser, served.url, READY)
    tab(page, "Batch")
    send(page, "#batch-files", sounds.short, sounds.long, sounds.bad, sounds.cut)
    wait_for(lambda: page.texts("#batch-result .save"))
    assert page.text("#batch-result .counts").startswith("4 of 4 done, 1 failed")
    link = browser.find_element("css selector", "#batch-result .save")
    content = base64.b64decode(link.get_attribute("href").partition("base64,")[2]).decode()
    rows = list(csv.DictReader(io.StringIO(content)))
    assert link.get_attribute("download") == "predictions.csv"
    assert [(row["file"], row["label"]) for row in rows] == [
        ("short.wav", "low"),
        ("long.wav", "unknown"),
        ("bad.wav", ""),
        ("cut.wav", "low"),
    ]
    assert float(rows[1]["seconds"]) == 18.0 and 0 < float(rows[1]["probability"]) < 1
    assert rows[2]["probability"] == "" and rows[2]["note"].startswith("unreadable")
    assert rows[3]["note"].startswith("truncated") and served.files() == []


def test_the_microphone_is_classified_while_it_records(served: Served, browser: Any) -> None:
    page = Page(browser, served.url, READY)
    tab(page, "Live")
    press(page, "#microphone", "Record")
    wait_for(lambda: page.text("#live-result .label") == "low")
    said = page.text("#live-result .status")
    assert "follows every 0.5 s" in said and 0.5 <= float(said.split("Latency: ")[1].split(" s")[0]) < 3
    wait_for(lambda: page.text("#live-result .label") == "noise")
    wait_for(lambda: any("noise" in row for row in page.texts("#live-result tbody tr")))
    press(page, "#microphone", "Stop")
    wait_for(lambda: page.text("#live-result .soft").startswith("Stopped after"))
    heard = [row.split()[-3] for row in reversed(page.texts("#live-result tbody tr"))]
    assert heard[:2] == ["low", "noise"]


def test_a_recording_of_the_microphone_is_answered(served: Served, browser: Any) -> None:
    page, before = Page(browser, served.url, READY), set(served.files())
    press(page, "#recording", "Record")
    wait_for(lambda: "Stop" in page.texts("#recording button"))
    time.sleep(1.5)
    press(page, "#recording", "Stop")
    wait_for(lambda: page.text("#result .label") == "low")
    wait_for(lambda: not set(served.files()) - before)


def test_keys_reach_every_control_and_each_has_a_name(served: Served, sounds: AudioSource, browser: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    page = Page(browser, served.url, READY)
    send(page, "#file", sounds.long)
    wait_for(lambda: page.texts("#result .events button"))
    browser.execute_script("document.querySelector('button[role=tab]').focus()")
    name = (
        "const one = document.activeElement, style = getComputedStyle(one);"
        "return [one.getAttribute('aria-label') || one.innerText.trim(), style.outlineStyle != 'none']"
    )
    reached = []
    for _ in range(30):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(browser.execute_script(name))
        if reached[-1][0].startswith("Play from"):
            break
    names = [one for one, _ in reached]
    assert browser.execute_script("return document.querySelector('#result[aria-live], #result [aria-live]') !== null")
    wanted = ["Batch", "Live", "About", "Click to upload or drop files", "Record", "3 labels"]
    assert [name for name in names if name in wanted] == wanted and names[-1].startswith("Play from 0 s: low")
    assert all(name and is_shown for name, is_shown in reached if name != "Audio as the model receives it")
    browser.execute_script("document.querySelectorAll('button[role=tab]')[1].focus()")
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    wait_for(lambda: browser.find_element("css selector", "#batch-files").is_displayed())


def test_the_page_fits_a_phone(served: Served, sounds: AudioSource, browser: Any) -> None:
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        page = Page(browser, served.url, READY)
        width = "return document.documentElement.scrollWidth"
        send(page, "#file", sounds.long)
        wait_for(lambda: page.texts("#result .track"))
        assert browser.execute_script(width) <= 360
        small = "return [...document.querySelectorAll('#result .class-name')].map(one => one.scrollWidth)"
        assert min(browser.execute_script(small)) > 60
        tab(page, "Batch")
        send(page, "#batch-files", sounds.short, sounds.bad)
        wait_for(lambda: page.texts("#batch-result .save"))
        assert browser.execute_script(width) <= 360
        for name in ("Live", "About", "Report"):
            tab(page, name)
            assert browser.execute_script(width) <= 360
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_card_and_the_report_are_there_to_read(served: Served, browser: Any) -> None:
    page = Page(browser, served.url, READY)
    tab(page, "About")
    wait_for(lambda: "Training data" in page.text("#model-card"))
    assert "license:" not in page.text("#model-card")  # the header is for programs
    tab(page, "Report")
    frame = wait_for(lambda: browser.find_elements("css selector", "#report iframe"))[0]
    browser.switch_to.frame(frame)
    wait_for(lambda: "Confusion matrix" in page.text("body"))
    browser.switch_to.default_content()


def test_nothing_is_fetched_from_elsewhere(served: Served, sounds: AudioSource, browser: Any) -> None:
    asked_for(browser)
    page = Page(browser, served.url, READY)
    send(page, "#file", sounds.short)
    wait_for(lambda: page.text("#result .label") == "low")
    asked = asked_for(browser)
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((served.url, "data:", "blob:"))] == []


def test_the_service_answers_beside_its_page(served: Served, sounds: AudioSource) -> None:
    status, body, _ = answered(f"{served.url}v1/classify", sounds.short.read_bytes())
    assert status == 200 and json.loads(body)["label"] == "low"
    assert answered(f"{served.url}healthz")[0] == 200


@pytest.mark.parametrize(
    "path", ["file=/etc/hostname", "file/etc/hostname", "proxy=http://localhost", "info/../vibe-code", "monitoring"]
)
def test_the_page_has_no_route_to_files_or_addresses(served: Served, path: str) -> None:
    assert answered(f"{served.url}gradio_api/{path}")[0] == 404


def question(served: Served, file: Any) -> tuple[int, str]:
    """Ask as the page does, about a file of one's own choosing; status and what the page would hear."""
    config = json.loads(answered(f"{served.url}config")[1])
    drop = next(one["id"] for one in config["components"] if one["props"].get("elem_id") == "file")
    number = next(one["id"] for one in config["dependencies"] if [drop, "upload"] in [list(t) for t in one["targets"]])
    file_data = {"path": file, "meta": {"_type": "gradio.FileData"}}
    asked = {"data": [file_data], "fn_index": number, "session_hash": "stranger"}
    headers = {"content-type": "application/json"}
    status, said, _ = answered(f"{served.url}gradio_api/queue/join", json.dumps(asked).encode(), **headers)
    if status != 200:
        return status, said.decode()
    return status, answered(f"{served.url}gradio_api/queue/data?session_hash=stranger")[1].decode()


def test_a_visitor_can_name_neither_a_server_file_nor_an_address(served: Served, sounds: AudioSource) -> None:
    folder = next(served.temporary.iterdir())
    around = str(folder / ".." / ".." / "said.json")
    for path in (str(sounds.short), "/etc/hostname", "https://127.0.0.1/sound.wav", around, "said.json", 7, {}):
        assert question(served, path) == (400, "A request may name only uploaded files.")
    status, said = question(served, str(folder / "gone.wav"))
    assert status == 200 and "has expired" in said


def test_an_upload_over_the_limit_is_rejected(served: Served) -> None:
    before = set(served.files())
    upload = f"{served.url}gradio_api/upload"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
    assert answered(upload, head + bytes(3_000_000) + b"\r\n--x--\r\n", **headers)[0] == 413
    assert set(served.files()) == before


def test_unread_uploads_are_removed(tmp_path: Path) -> None:
    from auricle.serving.upload_guard import postpone_expiry, remove_expired

    for name in ("old", "kept"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.wav").write_bytes(b"sound")
    time.sleep(0.3)
    postpone_expiry([str(tmp_path / "kept" / "a.wav"), str(tmp_path / "gone.wav")])
    remove_expired(tmp_path, 0.2)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    remove_expired(tmp_path, 0.0)
    assert list(tmp_path.rglob("*.wav")) == []


def test_uploads_are_bounded_though_nobody_says_their_size(tmp_path: Path) -> None:
    from auricle.serving.upload_guard import UploadGuard

    said: list[int] = []

    async def reading(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def endless() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(100), "more_body": True}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            said.append(message["status"])

    guard = UploadGuard(reading, tmp_path, 1000, lambda: False)
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": []}
    asyncio.run(guard(scope, endless, send))

    async def together() -> None:
        await asyncio.gather(*(guard(scope, endless, send) for _ in range(5)))

    # Of a size that nobody says the most is promised, four bodies; twelve may be on their way.
    asyncio.run(together())
    assert sorted(said) == [413, 413, 413, 413, 429, 429]
    said.clear()
    (tmp_path / "unread").write_bytes(bytes(8001))
    asyncio.run(guard(scope, endless, send))
    asyncio.run(guard({**scope, "path": "/gradio_api/queue/join"}, endless, send))
    assert said == [429, 413] and guard.uploads == guard.reserved_bytes == 0


def window(start: float, probabilities: list[float]) -> ScoredWindow:
    """A window of one second."""
    return ScoredWindow(start, start + 1, np.log(probabilities), 1.0, int(start), np.zeros(1))


def test_names_are_escaped_in_every_template() -> None:
    hostile = "<b onclick=x>'\"&"
    choices = (ClassProbability(hostile, 0.9), ClassProbability("dog", 0.1))
    prediction = Prediction(hostile, choices, 3.0, (f"clipped: {hostile}",))
    windows = tuple(window(at, [0.9, 0.1]) for at in (0.0, 1.0, 2.0))
    events = (Event(hostile, 0.0, 3.0, 0.9),)
    timeline = Timeline(prediction, windows, events, np.full((1, 3 * RATE), 1000, np.int16), RATE)
    rows = [prediction, Prediction(hostile, (), 0.0, error=hostile)]
    pieces = [
        render.render_prediction(timeline, (hostile, "dog"), None),
        render.fill("error.html", name=hostile, detail=hostile, kind=hostile),
        render.render_batch(rows, 2),
        render.render_live(prediction, events, hostile),
        render.fill("labels.html", labels=[hostile], limit=hostile),
    ]
    for piece in pieces:
        assert "<b onclick" not in piece and "&lt;b onclick" in piece


@pytest.mark.parametrize(("rate", "played"), [(8000, 10.0), (44100, 5.0)])
def test_the_start_of_a_very_long_recording_is_playable(rate: int, played: float) -> None:
    sound = np.tile(tone("low", 1.0, 3, rate), 12).astype(np.float32)
    found = draw_waveform(sound, rate, 80_000)
    content = base64.b64decode(found.audio.partition("base64,")[2])
    assert found.seconds == 12 and found.playable_seconds == pytest.approx(played, abs=0.01)
    assert soundfile.info(io.BytesIO(content)).duration == pytest.approx(played, abs=0.1)


def test_a_track_of_many_windows_shows_the_highest_of_each_few() -> None:
    windows = [window(at, [1e-30, 1.0] if at == 777 else [1.0, 1e-30]) for at in range(2000)]
    dog = next(line for line in render.tracks(windows, (), ("cat", "dog"), 2000.0) if line.label == "dog")
    points = [tuple(map(float, point.split(","))) for point in dog.points.split(" ")]
    assert len(points) < 500 and dog.events == ()
    assert [x for x, y in points if y == 0] == [pytest.approx(1000 * 777.5 / 2000, abs=2)]


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_a_microphone_stream_gives_the_windows_of_the_whole_recording(run: Path, rate: int) -> None:
    classifier = load(run)
    sound = np.concatenate([tone(label, 1.5, seed, rate) for seed, label in enumerate(("low", "noise", "high"))])
    samples = (sound * 32767).astype(np.int16)
    stream = MicrophoneStream(classifier, 0.5)
    size, hop = stream.spec.samples(RATE)
    windows = []
    for first in range(0, len(samples), 3001):
        stream.add(as_file(samples[first : first + 3001], rate), first / rate)
        for batch in stream.windows():
            windows.append((batch.number, batch.pieces[0].copy()))
            stream.add_logits(batch, classifier.logits([batch.pieces[0]])[0])
    assert [number for number, _ in windows] == list(range(len(windows))) and len(windows) >= 7
    whole = resample(DecodedAudio(samples[None], rate, "wav"), RATE, 1)[0]
    for number, piece in windows:
        assert np.abs(piece[0] - whole[number * hop :][:size].astype(int)).max() <= 40
    stream.finish()
    assert [event.label for event in stream.events] == ["low", "noise", "high"]
    for number, event in enumerate(stream.events):
        assert event.start == pytest.approx(1.5 * number, abs=0.51)


def test_missing_audio_is_noticed(run: Path) -> None:
    stream = MicrophoneStream(load(run), 0.5)
    piece = as_file(np.zeros(RATE // 2, np.int16), RATE)
    for seconds in (10.0, 10.5, 11.0):
        stream.add(piece, seconds)
    assert stream.missed == 0.0
    stream.add(piece, 16.5)  # five seconds late
    assert stream.missed == pytest.approx(5.0)


def test_only_the_latest_windows_of_a_late_stream_are_scored(run: Path) -> None:
    stream = MicrophoneStream(load(run), 0.5)
    size, hop = stream.spec.samples(RATE)
    for _ in range(20):
        stream.add(as_file(np.zeros(RATE, np.int16), RATE), 0.0)
    numbers = [batch.number for batch in stream.windows()]
    assert len(numbers) == 4 and numbers[-1] == (20 * RATE - size) // hop
    assert stream.seconds == 20 and stream.newest().samples.shape[-1] == size


def as_file(samples: np.ndarray, sample_rate: int) -> bytes:
    """Samples int16 (frames,) as the content of a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def test_with_a_token_the_page_requires_login_and_an_open_page_does_not_block_the_shutdown(
    start: Callable[..., Served], sounds: AudioSource, browser: Any
) -> None:
    served = start(AURICLE_TOKEN=TOKEN)
    assert answered(f"{served.url}config")[0] == 401
    assert answered(f"{served.url}gradio_api/upload", b"x")[0] == 401
    assert answered(f"{served.url}login", urllib.parse.urlencode({"username": "x", "password": "x"}).encode())[0] == 400
    page = Page(browser, served.url, "input[type=password]")
    assert not page.texts(READY)
    page.type("input:not([type=password]), textarea", "anybody")
    page.type("input[type=password]", TOKEN + "\n")
    wait_for(lambda: page.texts(READY))
    send(page, "#file", sounds.short)
    wait_for(lambda: page.text("#result .label") == "low")
    served.process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    assert served.process.wait(WAIT) == 0 and time.monotonic() - begun < 15  # not the 35 s of a deadline
    assert not any(served.temporary.iterdir()), "something is left in the temporary folder"
    browser.delete_all_cookies()
