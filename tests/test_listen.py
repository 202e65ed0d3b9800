"""The listening page: filters, notes, corrections; and the page itself, driven in a browser."""

import contextlib
import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from auricle import recipes
from auricle.audio.quality import Finding
from auricle.cli.main import main
from auricle.corpus import corrections
from auricle.corpus.clip import Clip, Index
from auricle.corpus.corrections import Correction
from auricle.errors import DataError, RunError, UsageError
from auricle.evaluation.error_analysis import ClipError
from auricle.labelling import clip_view, selection
from auricle.labelling.clip_view import load_preview, render_clip
from auricle.labelling.corrections_file import CorrectionsFile
from auricle.labelling.selection import ANY_FINDING, CORRECTED, Filter, Session, View
from auricle.preparation.inspection import Inspection
from auricle.run_folder import RunFolder
from auricle.serving import waveform
from auricle.training.grouping import inspect
from tests.browsing import WAIT, Page, asked_for, chromium, wait_for
from tests.conftest import RATE, tone, write_corpus
from tests.reports import small_report

HOSTILE = "<i>${1+1}{{value}}"


def write_faulty(folder: Path) -> Path:
    """The small corpus with a copy, a copy under another label, two broken files and a class with a hostile name."""
    write_corpus(folder)
    shutil.copy(folder / "low" / "device0_000.wav", folder / "low" / "device3_100.wav")
    shutil.copy(folder / "high" / "device0_000.wav", folder / "noise" / "device1_100.wav")
    whole = (folder / "high" / "device1_001.wav").read_bytes()
    (folder / "high" / "device2_100.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "high" / "device3_101.wav").write_bytes(b"no sound at all")
    (folder / HOSTILE).mkdir()
    for number in range(2):
        path = folder / HOSTILE / f"device{number}_00{number}.wav"
        soundfile.write(path, tone("low", 0.4, seed=77 + number), RATE, subtype="PCM_16")
    return folder


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    corpus = write_faulty(tmp_path_factory.mktemp("faulty") / "corpus")
    return inspect(corpus, recipes.load("baseline", ["data.group=name:1"]), lambda done, total: None)


def names(found: Inspection, filter: Filter, corrected: tuple[str, ...] = ()) -> list[str]:
    places = selection.select(found.index, selection.collect_notes(found.audit), filter, corrected)
    return [found.index.clips[place].id for place in places]


def pets() -> Index:
    clips = tuple(Clip(f"{label}{number}", "/nowhere", label) for label in ("cat", "dog") for number in range(5))
    return Index(clips, "folder", "corpus", "Class folders")


def rows_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_clips_are_selected_by_class_group_and_finding(found: Inspection) -> None:
    assert len(names(found, Filter())) == len(found.index) == 30
    assert all(name.startswith("low/") for name in names(found, Filter(label="low")))
    assert names(found, Filter(label="noise", group="device1")) == [
        "noise/device1_001.wav",
        "noise/device1_005.wav",
        "noise/device1_100.wav",
    ]
    assert names(found, Filter(finding="truncated")) == ["high/device2_100.wav"]
    assert names(found, Filter(finding="unreadable")) == ["high/device3_101.wav"]
    assert names(found, Filter(finding="duplicate")) == ["low/device0_000.wav", "low/device3_100.wav"]
    assert names(found, Filter(finding="conflict")) == ["high/device0_000.wav", "noise/device1_100.wav"]
    assert len(names(found, Filter(finding=ANY_FINDING))) == 6
    assert names(found, Filter(label="low", finding="conflict")) == []
    assert names(found, Filter(finding=CORRECTED), ("low/device0_000.wav",)) == ["low/device0_000.wav"]


def test_each_kind_of_finding_is_counted_in_clips(found: Inspection) -> None:
    kinds = selection.count_clips(selection.collect_notes(found.audit))
    assert kinds == {"conflict": 2, "duplicate": 2, "truncated": 1, "unreadable": 1}


@pytest.mark.parametrize(
    ("host", "only_here"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False)]
)
def test_a_page_that_others_can_reach_is_known_as_such(host: str, only_here: bool) -> None:
    server = pytest.importorskip("auricle.serving.local_server", exc_type=ImportError)
    assert server.is_loopback(host) is only_here


def test_suspect_labels_of_a_run_are_findings(found: Inspection, tmp_path: Path) -> None:
    row = ClipError("low/device1_001.wav", "low", "high", 0.97, 0.01, "test")
    small_report(suspect_labels=(row,)).save(RunFolder(tmp_path).report)
    notes = selection.collect_notes(found.audit, tmp_path)
    assert notes["low/device1_001.wav"] == [Finding("suspect label", "predicted 'high' with 97%")]
    with pytest.raises(RunError, match=r"has no report\.json"):
        selection.collect_notes(found.audit, tmp_path / "nowhere")


def test_every_selected_clip_is_shown_once_before_any_repeats() -> None:
    order, chosen = selection.shuffle(40, seed=3), [3, 5, 8, 13, 21, 34]
    drawn, turn = [], 0
    for _ in range(2 * len(chosen)):
        at, turn = selection.next_random(chosen, order, turn)
        drawn.append(at)
    assert sorted(drawn[:6]) == chosen and drawn[6:] == drawn[:6]
    assert drawn[:6] != chosen
    assert selection.shuffle(40, seed=3) == order != selection.shuffle(40, seed=4)


def test_steps_go_through_the_selection_and_wrap_around() -> None:
    assert [selection.neighbour([2, 4, 9], at, 1) for at in (2, 4, 5, 9)] == [4, 9, 9, 2]
    assert [selection.neighbour([2, 4, 9], at, -1) for at in (2, 4, 5, 9)] == [9, 2, 4, 4]


def test_a_new_filter_keeps_the_clip_that_it_allows(tmp_path: Path) -> None:
    session = Session(pets(), {}, CorrectionsFile(tmp_path / "corrections.csv", pets()), selection.shuffle(10, 0))
    view = View(position=7)
    assert session.apply_filter(view, Filter(label="dog")).position == 7
    other = session.apply_filter(view, Filter(label="cat"))
    assert other.position in range(5) and session.step(other, 1).position in range(5)
    assert session.apply_filter(view, Filter(finding=CORRECTED)).position is None
    assert session.go_to(other, "dog3").position == 8


def test_a_correction_is_in_the_file_at_once_and_a_second_start_continues(tmp_path: Path) -> None:
    path, index = tmp_path / "corrections.csv", pets()
    file = CorrectionsFile(path, index)
    assert file.read() == {} and not path.exists()
    file.save(index.clips[0], " dog ", "barks, loudly")
    file.save(index.clips[6], "")
    assert rows_of(path) == [
        ["id", "label", "was", "comment"],
        ["cat0", "dog", "cat", "barks, loudly"],
        ["dog1", "", "dog", ""],
    ]
    again = CorrectionsFile(path, index)
    again.save(index.clips[0], "wolf")
    assert list(again.read().values()) == [Correction("cat0", "wolf", "cat"), Correction("dog1", "", "dog")]
    assert again.undo("dog1") and not again.undo("dog1")
    assert rows_of(path)[1:] == [["cat0", "wolf", "cat", ""]]


def test_what_is_edited_by_hand_meanwhile_is_kept(tmp_path: Path) -> None:
    path, index = tmp_path / "corrections.csv", pets()
    file = CorrectionsFile(path, index)
    file.save(index.clips[0], "dog")
    path.write_text(path.read_text(encoding="utf-8") + "cat3,dog,cat,by hand\n", encoding="utf-8")
    file.save(index.clips[1], "dog")
    assert list(file.read()) == ["cat0", "cat3", "cat1"]


def test_corrections_of_another_corpus_and_unwritable_paths_are_errors(tmp_path: Path) -> None:
    corrections.write(tmp_path / "corrections.csv", [Correction("fox", "dog", "cat")])
    with pytest.raises(DataError, match="no such clip"):
        CorrectionsFile(tmp_path / "corrections.csv", pets())
    with pytest.raises(UsageError, match="cannot be written"):
        CorrectionsFile(tmp_path / "nowhere" / "corrections.csv", pets())


def test_the_label_that_a_clip_has_is_no_correction(tmp_path: Path) -> None:
    file = CorrectionsFile(tmp_path / "corrections.csv", pets())
    with pytest.raises(UsageError, match="This clip already has the label 'cat'"):
        file.save(pets().clips[0], "cat ")
    assert file.read() == {}


def test_a_kill_while_saving_leaves_a_complete_file(tmp_path: Path) -> None:
    path = tmp_path / "corrections.csv"
    code = (
        "import sys\nfrom pathlib import Path\nfrom auricle.corpus.clip import Clip, Index\n"
        "from auricle.labelling.corrections_file import CorrectionsFile\n"
        "clips = tuple(Clip(f'{label}{number}', '', label) for label in ('cat', 'dog') for number in range(5))\n"
        "file, number = CorrectionsFile(Path(sys.argv[1]), Index(clips, '', '', '')), 0\n"
        "while True:\n    file.save(clips[number % 10], f'wolf{number}', 'x' * 5000)\n    number += 1\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)])
    try:
        wait_for(lambda: path.exists() and len(CorrectionsFile(path, pets()).read()) == 10, process)
    finally:
        process.kill()
        process.wait(WAIT)
    saved = CorrectionsFile(path, pets()).read()
    assert len(saved) == 10 and all(len(fix.comment) == 5000 for fix in saved.values())


def test_untrusted_text_of_a_clip_is_escaped(found: Inspection) -> None:
    clip = next(clip for clip in found.index if clip.label == HOSTILE)
    shown = render_clip(clip, [Finding("odd", "<script>")], "<u>")
    assert "<i>$" not in shown and "&lt;i&gt;" in shown and "<script>" not in shown and "<u>" not in shown
    assert shown.count("data:image/png;base64,") == shown.count("data:audio/") == 1


def test_a_clip_that_cannot_be_played_is_shown_with_the_reason(found: Inspection, tmp_path: Path) -> None:
    clip = next(clip for clip in found.index if clip.id == "high/device3_101.wav")
    shown = render_clip(clip, [], "device")
    assert "This clip cannot be played." in shown and "unreadable" in shown and "<audio" not in shown
    assert "cannot be played" in render_clip(Clip("gone", str(tmp_path / "gone.wav"), "dog"), [], "device")


def test_the_first_minute_of_a_long_clip_is_played(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.tile(tone("low", 1.0, 0), 90), RATE, subtype="PCM_16")
    clip = Clip("long", str(tmp_path / "long.wav"), "low")
    shown = load_preview(clip)
    assert shown.waveform.seconds == clip_view.PREVIEW_SECONDS and not shown.complete
    part = load_preview(Clip("part", clip.source, "low", start=80.0, end=82.5))
    assert part.waveform.seconds == 2.5 and part.complete
    late = load_preview(Clip("late", clip.source, "low", start=70.0))
    assert late.waveform.seconds == 20.0 and late.complete


def test_the_outline_of_a_wave_follows_its_loudness() -> None:
    ramp = np.linspace(0, 1, 8000, dtype=np.float32) * np.where(np.arange(8000) % 2, -1, 1)
    heights = [float(point.split(",")[1]) for point in waveform._outline(ramp).split(" ")]
    upper, lower = heights[: len(heights) // 2], heights[len(heights) // 2 :]
    assert upper == sorted(upper, reverse=True) and min(upper) == -100
    assert lower == sorted(lower, reverse=True) and max(lower) == 100


def test_listening_is_refused_where_it_cannot_begin(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gradio")
    command = ["listen", str(corpus), "--no-browser", "--corrections", str(tmp_path / "corrections.csv")]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main([*command, "--port", str(taken.getsockname()[1])]) == 2
    assert "is unavailable" in capsys.readouterr().err
    assert main([*command, "--set", "data.corrections=other.csv"]) == 2
    assert "this page corrects the corpus' own labels" in capsys.readouterr().err
    (corpus / "low" / "broken.wav").write_bytes(b"no sound")
    assert main([*command, "--port", "0", "--strict"]) == 2
    assert "'low/broken.wav': unreadable" in capsys.readouterr().err
    corrections.write(tmp_path / "corrections.csv", [Correction("fox", "dog", "cat")])
    assert main([*command, "--port", "0"]) == 2
    assert "lists 'fox'" in capsys.readouterr().err


def test_without_gradio_the_command_that_installs_it_is_named(corpus: Path) -> None:
    code = (
        "import sys\nfor name in ('gradio', 'fastapi', 'starlette', 'uvicorn'): sys.modules[name] = None\n"
        f"from auricle.cli.main import main\nsys.exit(main(['listen', {str(corpus)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "pip install 'auricle[demo]'" in done.stderr


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """`auricle listen` on the faulty corpus, in a process of its own: its address and the file of marks."""
    pytest.importorskip("gradio", reason="the extra 'demo' is not installed")
    folder = tmp_path_factory.mktemp("served")
    corpus, marks, said = write_faulty(folder / "corpus"), folder / "corrections.csv", folder / "said.json"
    command = [sys.executable, "-m", "auricle", "listen", str(corpus), "--corrections", str(marks)]
    (folder / "temporary").mkdir()
    environment = os.environ | {"TMPDIR": str(folder / "temporary")}
    with said.open("wb") as out:
        process = subprocess.Popen([*command, "--port", "0", "--no-browser", "--json"], stdout=out, env=environment)
    try:
        wait_for(lambda: said.read_text(encoding="utf-8").endswith("}\n"), process, 3 * WAIT)
        yield json.loads(said.read_text(encoding="utf-8"))["url"], marks
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT) == 0
        assert not any((folder / "temporary").iterdir()), "something is left in the temporary folder"
    finally:
        process.kill()
        process.wait(WAIT)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as window:
        yield window


def test_a_clip_plays_and_a_corrected_label_is_in_the_csv(served: tuple[str, Path], browser: Any) -> None:
    address, marks = served
    page = Page(browser, address, ".clip .label")
    page.choose("#filter-class", "low (9)")
    wait_for(lambda: page.text(".clip .label") == "low")
    played = "const sound = document.querySelector('.clip audio'); return sound.played.length && sound.currentTime"
    assert wait_for(lambda: browser.execute_script(played)) > 0
    id = page.text(".clip .name")
    page.choose("#correct-label", "noise")
    page.type("#comment textarea, #comment input", "a fan")
    page.click("#save")
    wait_for(marks.exists)
    assert rows_of(marks) == [["id", "label", "was", "comment"], [id, "noise", "low", "a fan"]]
    wait_for(lambda: page.text("#status") == "Corrected: low → noise")
    assert page.text("#corrections-heading h3").startswith("1 correction in")

    page.click("#next")
    wait_for(lambda: page.text(".clip .name") != id)
    other = page.text(".clip .name")
    page.type("#correct-label input", "hum of my own")
    page.click("#save")
    wait_for(lambda: rows_of(marks)[2:] == [[other, "hum of my own", "low", ""]])
    wait_for(lambda: page.text("#corrections [role=gridcell]").count("hum of my own") == 1)
    page.click("#undo")
    wait_for(lambda: len(rows_of(marks)) == 2)
    page.click("#exclude")
    wait_for(lambda: rows_of(marks)[2:] == [[other, "", "low", ""]])
    page.click("#previous")
    wait_for(lambda: page.text("#status") == "Corrected: low → noise")


def test_findings_are_shown_with_their_clips(served: tuple[str, Path], browser: Any) -> None:
    page = Page(browser, served[0], ".clip .label")
    page.choose("#filter-finding", "unreadable (1)")
    wait_for(lambda: page.text(".clip .name") == "high/device3_101.wav")
    assert "This clip cannot be played." in page.text(".clip .failure")
    assert page.text(".clip .note").startswith("unreadable")
    assert page.text("#position") == "1 of 1 in corpus order"
    page.click("#save")
    wait_for(lambda: "Choose or type the correct label first" in page.text("#status"))


def test_names_are_escaped_and_nothing_is_fetched_from_elsewhere(served: tuple[str, Path], browser: Any) -> None:
    page = Page(browser, served[0], ".clip .label")
    page.choose("#filter-class", f"{HOSTILE} (2)")
    wait_for(lambda: page.text(".clip .label") == HOSTILE)
    asked = asked_for(browser)
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((served[0], "data:", "blob:"))] == []


def answer(url: str, **headers: str) -> tuple[int, Any]:
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(
                urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=WAIT)
            )
        except urllib.error.HTTPError as error:
            found = stack.enter_context(error)
        return found.status, found.headers


def test_the_page_serves_no_file_and_answers_to_no_other_name(served: tuple[str, Path]) -> None:
    address, marks = served
    status, headers = answer(address)
    assert status == 200 and "default-src 'self'" in headers["content-security-policy"]
    assert answer(address, Host="other.example")[0] == 400
    marks.touch()
    for path in (marks, marks.parent / "corpus" / "low" / "device0_000.wav", Path("/etc/hostname"), Path(os.__file__)):
        assert answer(f"{address}gradio_api/file={path}")[0] in (403, 404)


def test_a_visitor_cannot_have_a_file_copied_to_where_it_can_be_had(served: tuple[str, Path]) -> None:
    address, marks = served
    marks.touch()
    asked = {"data": [{"path": str(marks), "meta": {"_type": "gradio.FileData"}}], "fn_index": 0, "session_hash": "x"}
    request = urllib.request.Request(
        f"{address}gradio_api/run/predict", json.dumps(asked).encode(), {"content-type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=WAIT)
    copied = (marks.parent / "temporary").rglob(marks.name)
    assert list(copied) == []


def test_two_pages_on_one_file_lose_no_correction(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom auricle.labelling.corrections_file import CorrectionsFile\n"
        "from tests.test_listen import pets\nindex = pets()\nfile = CorrectionsFile(Path(sys.argv[1]), index)\n"
        "for clip in index.clips[int(sys.argv[2]) :: 2]:\n    file.save(clip, 'fish', 'x')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "corrections.csv")]
    pages = [subprocess.Popen([*command, str(number)]) for number in range(2)]
    assert [page.wait(60) for page in pages] == [0, 0]
    assert len(CorrectionsFile(tmp_path / "corrections.csv", pets()).read()) == len(pets().clips)


def test_threads_on_one_file_lose_no_correction(tmp_path: Path) -> None:
    index = pets()
    file = CorrectionsFile(tmp_path / "corrections.csv", index)
    with ThreadPoolExecutor(len(index)) as pool:
        list(pool.map(lambda clip: file.save(clip, "fish"), index.clips))
    assert len(file.read()) == len(index)
