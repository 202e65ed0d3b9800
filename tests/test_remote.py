"""Corpora behind URLs: on a web server, by a table, and in a store that lists its folders."""

import csv
import functools
import http.server
import io
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest

from auricle.audio import inspect as inspection
from auricle.audio import store
from auricle.audio.settings import Settings
from auricle.cli.main import main
from auricle.corpus.clip import Index
from auricle.corpus.read import read_index
from auricle.errors import DataError
from tests.conftest import RATE, write_corpus

SETTINGS = Settings(RATE, 1, 0.05, 3600.0)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus with a table of its own paths; one of them leads nowhere."""
    write_corpus(tmp_path / "data" / "corpus")
    files = sorted((tmp_path / "data").rglob("*.wav"))
    rows = [[path.relative_to(tmp_path / "data").as_posix(), path.parent.name] for path in files]
    write_table(tmp_path / "data" / "metadata.csv", [*rows, ["corpus/low/gone.wav", "low"]])
    return tmp_path / "data"


def write_table(path: Path, rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["path", "label"], *rows])
    path.write_text(text.getvalue())


class Handler(http.server.SimpleHTTPRequestHandler):
    requests: ClassVar[Counter[str]] = Counter()

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.requests[self.path] += 1
        super().do_GET()


@pytest.fixture
def server(corpus: Path) -> Iterator[str]:
    """The corpus on a web server."""
    pytest.importorskip("aiohttp", reason="fsspec opens https:// with aiohttp, of the extra 'scale'")
    Handler.requests.clear()
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(corpus)))
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def is_the_local_one(remote: Index, corpus: Path, tmp_path: Path) -> None:
    """Whether a remote corpus is prepared as the local one is, with the missing clip as its only finding."""
    here = store.prepare(read_index(corpus / "corpus").clips, SETTINGS, cache=tmp_path / "here")
    there = store.prepare(remote.clips, SETTINGS, cache=tmp_path / "there")
    bad = [info.id for info in there.clip_info if not info.usable]
    assert len(bad) == 1 and bad[0].endswith("low/gone.wav")
    hashes = {info.id.rpartition("corpus/")[2]: info.audio_hash for info in there.clip_info if info.usable}
    assert hashes == {info.id.rpartition("corpus/")[2]: info.audio_hash for info in here.clip_info}
    assert sorted(len(there.samples(row)[0]) for row in range(len(there)))[1:] == sorted(
        len(here.samples(row)[0]) for row in range(len(here))
    )


@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
def test_a_table_on_a_web_server_names_its_recordings(
    absolute: bool, server: str, corpus: Path, tmp_path: Path
) -> None:
    table = corpus / "metadata.csv"
    if absolute:
        rows = list(csv.reader(table.read_text().splitlines()))[1:]
        write_table(table, [[f"{server}/{path}", label] for path, label in rows])
    is_the_local_one(read_index(f"{server}/metadata.csv"), corpus, tmp_path)
    fetched = {path: count for path, count in Handler.requests.items() if path.endswith("_001.wav")}
    assert fetched and max(fetched.values()) == 1, "each recording is fetched once"


def test_a_local_table_may_name_recordings_elsewhere(server: str, corpus: Path, tmp_path: Path) -> None:
    rows = list(csv.reader((corpus / "metadata.csv").read_text().splitlines()))[1:]
    (tmp_path / "tables").mkdir()
    write_table(tmp_path / "tables" / "metadata.csv", [[f"{server}/{path}", label] for path, label in rows])
    is_the_local_one(read_index(tmp_path / "tables" / "metadata.csv"), corpus, tmp_path)


def test_a_web_server_has_no_folders(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", f"{server}/corpus/"]) == 2
    assert f"Give the URL of a table of its recordings, such as {server}/corpus/metadata.csv" in capsys.readouterr().err


def test_a_store_that_lists_its_folders_is_read_as_a_folder(corpus: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in corpus.rglob("*.wav"):
        memory.pipe_file(f"/remote-{tmp_path.name}/{path.relative_to(corpus)}", path.read_bytes())
    remote = read_index(f"memory://remote-{tmp_path.name}/corpus")
    assert len(remote) == len(read_index(corpus / "corpus"))
    infos = inspection.inspect_clips(remote.clips, SETTINGS, lambda *_: None)
    assert all(info.usable for info in infos)
    memory.rm(f"/remote-{tmp_path.name}", recursive=True)


def test_few_recordings_are_fetched_ahead(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = read_index(corpus / "corpus").clips
    begun: list[str] = []
    monkeypatch.setattr(inspection, "AHEAD", 3)
    monkeypatch.setattr(inspection, "is_remote", lambda source: True)
    monkeypatch.setattr(inspection.tree, "read_bytes", lambda source: begun.append(source) or b"content")
    taken = 0
    for clip, content in inspection.read_ahead(clips):
        taken += 1
        assert content == b"content" and clip.source in begun
        assert len(begun) <= taken + 3
    assert taken == len(clips) and np.array_equal(sorted(begun), sorted(clip.source for clip in clips))


def test_a_scheme_that_nothing_opens_is_named() -> None:
    with pytest.raises(DataError, match=r"'nowhere://bucket/x.csv' cannot be opened: Protocol not known: nowhere"):
        read_index("nowhere://bucket/x.csv")
