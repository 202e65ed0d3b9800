"""A corpus is read where it lies, in any form and from any thread, and nothing unsafe is opened."""

import gzip
import io
import os
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from auricle.corpus import archive
from auricle.corpus.layout import audio_files, drop_copies
from auricle.corpus.seekable_gzip import SeekableGzip
from auricle.corpus.tree import Tree, identity, open_source, open_stream, open_tree, read_bytes
from auricle.errors import AudioError, DataError

FORMS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")


def _content(number: int) -> bytes:
    return random.Random(number).randbytes(5000 + 37 * number)


def _make(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def _pack(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of files in the given order, its kind told by the path's suffix."""
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in files.items():
                packed.writestr(name, content)
        return path
    mode = {"gz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}.get(path.suffix[1:], "w")
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return path


FILES = {f"corpus/deep/{'ab'[n % 2]}/{n}.wav": _content(n) for n in (5, 3, 9, 0, 7, 1, 8)}
JUNK = {"corpus/.DS_Store": b"x", "__MACOSX/corpus/._a.wav": b"x", "corpus/deep/a/Thumbs.db": b"x"}


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_and_its_archive_list_and_read_the_same(form: str, tmp_path: Path) -> None:
    folder = open_tree(_make(tmp_path / "f", FILES | JUNK))
    packed = open_tree(_pack(tmp_path / f"c.{form}", FILES | JUNK))
    assert folder.names == packed.names == tuple(sorted(name.removeprefix("corpus/deep/") for name in FILES))
    assert folder.sizes == packed.sizes == tuple(len(FILES[f"corpus/deep/{name}"]) for name in folder.names)
    assert packed.is_archive and packed.prefix == folder.prefix == "corpus/deep/"
    for name in folder.names:
        with folder.open(name) as file:
            assert read_bytes(packed.source(name)) == file.read() == FILES[f"corpus/deep/{name}"]


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_reads_from_many_threads_do_not_mix(form: str, tmp_path: Path) -> None:
    files = {f"{n}.wav": _content(n) for n in range(60)}
    tree = open_tree(_pack(tmp_path / f"c.{form}", files))
    names = [name for name in tree.names for _ in range(5)]
    random.Random(0).shuffle(names)
    with ThreadPoolExecutor(4) as pool:
        contents = list(pool.map(lambda name: read_bytes(tree.source(name)), names))
    assert contents == [files[name] for name in names]


def test_each_process_has_its_own_handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = open_tree(_pack(tmp_path / "c.tar", FILES))
    ours = archive.open_archive(tree.location)
    assert archive.open_archive(tree.location) is ours
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert archive.open_archive(tree.location) is not ours
    assert read_bytes(tree.source("a/0.wav")) == _content(0)


def test_the_directory_of_an_archive_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = open_tree(_pack(tmp_path / "c.zip", FILES))
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert [len(read_bytes(tree.source(name))) for name in tree.names] == list(tree.sizes)


def test_an_archive_written_anew_is_opened_anew(tmp_path: Path) -> None:
    path = _pack(tmp_path / "c.zip", {"a.wav": b"old"})
    source = open_tree(path).source("a.wav")
    _pack(path, {"a.wav": b"newer"})
    assert read_bytes(source) == b"newer"


@pytest.mark.parametrize("name", ["../out.wav", "/etc/out.wav", "a/../../out.wav", "C:\\out.wav", "..\\out.wav"])
@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_an_archive_with_an_unsafe_name_is_refused_as_a_whole(name: str, form: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unsafe name '.*out\.wav'"):
        open_tree(_pack(tmp_path / f"c.{form}", {"good.wav": b"x", name: b"x"}))


def _linked(path: Path, target: str, kind: bytes) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr("a/good.wav", b"sound")
            link = zipfile.ZipInfo("a/link.wav")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            packed.writestr(link, target)
        return path
    with tarfile.open(path, "w") as packed:
        good = tarfile.TarInfo("a/good.wav")
        good.size = 5
        packed.addfile(good, io.BytesIO(b"sound"))
        member = tarfile.TarInfo("a/link.wav")
        member.type, member.linkname = kind, target
        packed.addfile(member)
    return path


LINKS = [("zip", tarfile.SYMTYPE), ("tar", tarfile.SYMTYPE), ("tar", tarfile.LNKTYPE)]


@pytest.mark.parametrize(("form", "kind"), LINKS)
@pytest.mark.parametrize("target", ["../../etc/passwd", "/etc/passwd"])
def test_a_link_out_of_an_archive_is_refused(form: str, kind: bytes, target: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="link out of the archive"):
        open_tree(_linked(tmp_path / f"c.{form}", target, kind))


@pytest.mark.parametrize(("form", "kind"), LINKS)
def test_a_link_inside_an_archive_is_followed(form: str, kind: bytes, tmp_path: Path) -> None:
    target = "a/good.wav" if kind == tarfile.LNKTYPE else "good.wav"
    tree = open_tree(_linked(tmp_path / f"c.{form}", target, kind))
    assert tree.names == ("good.wav", "link.wav")
    assert read_bytes(tree.source("link.wav")) == b"sound"


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = _pack(tmp_path / "c.zip", {"a.wav": b"x"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        open_tree(path)


def test_absurd_expansion_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "EXPANSION_FREE_BYTES", 1 << 20)
    for form in FORMS:
        if form != "tar":
            with pytest.raises(DataError, match="200 times its size"):
                open_tree(_pack(tmp_path / f"c.{form}", {"a.wav": bytes(8 << 20)}))


@pytest.mark.parametrize("form", FORMS)
def test_a_cut_archive_is_refused(form: str, tmp_path: Path) -> None:
    path = _pack(tmp_path / f"c.{form}", FILES)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="not a readable archive"):
        open_tree(path)


@pytest.mark.parametrize("form", FORMS)
def test_any_damage_is_an_error_of_ours(form: str, tmp_path: Path) -> None:
    content = _pack(tmp_path / f"c.{form}", {"a.wav": b"abc" * 400, "b.wav": b"d" * 300}).read_bytes()
    rng = random.Random(1)
    outcomes = set()
    for number in range(40):
        broken = bytearray(content)
        for _ in range(3):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        path = tmp_path / f"{number}.{form}"
        path.write_bytes(broken)
        try:
            tree = open_tree(path)
            outcomes.add(tuple(len(read_bytes(tree.source(name))) for name in tree.names))
        except (DataError, AudioError) as error:
            outcomes.add(type(error))
    assert DataError in outcomes


def test_a_damaged_member_is_one_bad_recording(tmp_path: Path) -> None:
    path = _pack(tmp_path / "c.zip", FILES)
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)
    tree = open_tree(path)
    with pytest.raises(AudioError, match="unreadable"):
        read_bytes(tree.source("b/5.wav"))
    assert len(read_bytes(tree.source("a/0.wav"))) == 5000


def test_a_huge_member_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 100)
    monkeypatch.setattr(archive._check_member, "__defaults__", (100,))
    tree = open_tree(_pack(tmp_path / "c.zip", {"a.wav": bytes(101)}))
    with pytest.raises(AudioError, match="declares 101 bytes"):
        tree.open("a.wav")


@pytest.mark.parametrize("parts", [1, 3])
def test_seekable_gzip_reads_anywhere_like_gzip(parts: int) -> None:
    content = random.Random(2).choices(b"abcdefgh", k=900_000)
    plain = bytes(content)
    step = len(plain) // parts
    packed = b"".join(gzip.compress(plain[n : n + step]) for n in range(0, len(plain), step)) + bytes(512)
    stream = SeekableGzip(io.BytesIO(packed), spacing=1 << 16)
    rng = random.Random(3)
    for _ in range(200):
        offset, length = rng.randrange(len(plain) + 100), rng.randrange(5000)
        stream.seek(offset)
        assert stream.read(length) == plain[offset : offset + length]
    assert len(stream._checkpoints) > 5


def test_seekable_gzip_goes_back_to_the_nearest_checkpoint_only() -> None:
    plain = random.Random(2).randbytes(4 << 20)
    file = io.BytesIO(gzip.compress(plain))
    stream = SeekableGzip(file, spacing=1 << 18)
    stream.seek(len(plain) - 1)
    stream.read(1)
    taken: list[int] = []
    real = file.read
    file.read = lambda size=-1: (taken.append(size), real(size))[1]  # type: ignore[method-assign]
    stream.seek(2 << 20)
    stream.read(10)
    assert sum(taken) <= (1 << 18) + 2 * SeekableGzip._CHUNK_BYTES


def test_checkpoints_stay_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SeekableGzip, "_MAX_CHECKPOINTS", 8)
    plain = random.Random(4).randbytes(2 << 20)
    stream = SeekableGzip(io.BytesIO(gzip.compress(plain)), spacing=1 << 15)
    for offset in (len(plain) - 5, 5, 1_000_000):
        stream.seek(offset)
        assert stream.read(5) == plain[offset : offset + 5]
    assert 2 <= len(stream._checkpoints) <= 8


def test_identity_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    one, two = _make(tmp_path / "one", {"a.wav": b"same"}), _make(tmp_path / "two", {"a.wav": b"same"})
    os.utime(one / "a.wav", ns=(10**18, 10**18))
    os.utime(two / "a.wav", ns=(10**18, 10**18))
    assert identity(str(one / "a.wav")) == identity(str(two / "a.wav"))
    (two / "a.wav").write_bytes(b"else")
    os.utime(two / "a.wav", ns=(10**18, 10**18))
    assert identity(str(one / "a.wav")) != identity(str(two / "a.wav"))


def test_identity_in_a_zip_is_its_checksum(tmp_path: Path) -> None:
    one = open_tree(_pack(tmp_path / "one.zip", {"x/a.wav": b"same", "x/b.wav": b"else"}))
    two = open_tree(_pack(tmp_path / "two.zip", {"other.wav": b"same"}))
    assert identity(one.source("a.wav")) == identity(two.source("other.wav")) != identity(one.source("b.wav"))


@pytest.mark.parametrize("form", FORMS)
def test_identities_of_members_differ(form: str, tmp_path: Path) -> None:
    tree = open_tree(_pack(tmp_path / f"c.{form}", FILES))
    assert len({identity(tree.source(name)) for name in tree.names}) == len(FILES)


def test_patterns_and_single_files_are_trees(tmp_path: Path) -> None:
    root = _make(tmp_path, FILES)
    tree = open_tree(str(root / "corpus" / "*" / "a" / "*.wav"))
    assert tree.names == ("0.wav", "8.wav")
    assert read_bytes(tree.source("8.wav")) == _content(8)
    assert open_tree(root / "corpus/deep/a/0.wav").names == ("0.wav",)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "gone", "no file or folder"),
        (lambda root: root, "has no files"),
        (lambda root: root / "*.wav", "matches no file"),
        (lambda root: _make(root, {"c.zip": b"PK\x03\x04 and no more"}) / "c.zip", "not a readable archive"),
        (lambda root: _make(root, {"c.tar.gz": b"<html>not found</html>"}) / "c.tar.gz", "not a readable archive"),
        (lambda root: _make(root, {"c.zip": b""}) / "c.zip", "not a readable archive"),
    ],
)
def test_what_cannot_be_listed_says_so(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        open_tree(make(tmp_path))


def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    _make(tmp_path / "real", {"x.wav": b"x"})
    _make(tmp_path / "corpus", {"a/y.wav": b"y"})
    (tmp_path / "corpus/b").symlink_to(tmp_path / "real")
    (tmp_path / "corpus/a/up").symlink_to(tmp_path / "corpus")
    assert open_tree(tmp_path / "corpus").names == ("a/y.wav", "b/x.wav")


def test_a_missing_file_is_one_bad_recording(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="unreadable"):
        open_source(str(tmp_path / "gone.wav"))
    tree = open_tree(_pack(tmp_path / "c.zip", {"a.wav": b"x"}))
    with pytest.raises(AudioError, match="no longer, in"):
        read_bytes(tree.source("gone.wav"))


def test_text_drops_its_byte_order_mark_and_must_be_utf8(tmp_path: Path) -> None:
    tree = open_tree(_make(tmp_path, {"a.csv": "\ufeffpäth".encode(), "b.csv": b"\xff\xfe"}))
    assert tree.read_text("a.csv") == "päth"
    with pytest.raises(DataError, match="not UTF-8"):
        tree.read_text("b.csv")


def test_other_files_are_summed_up_by_kind() -> None:
    tree = Tree("/x", ("a.WAV", "b.txt", "c.txt", "d"), (0, 0, 0, 0))
    names, excluded = audio_files(tree)
    assert names == ["a.WAV"]
    assert [item.name for item in excluded] == ["d", "b.txt and 1 more '.txt'"]


def test_the_uncompressed_copy_is_kept() -> None:
    kept, excluded = drop_copies(["MP3/x.mp3", "WAV/x.wav", "more/x.wav", "y.flac"])
    assert kept == ["WAV/x.wav", "y.flac"]
    assert [item.name for item in excluded] == ["more/x.wav", "MP3/x.mp3"]


def test_remote_archives_and_folders_are_read_in_place(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    path = _pack(tmp_path / "c.zip", FILES)
    memory.pipe("/bucket/c.zip", path.read_bytes())
    memory.pipe("/bucket/plain/a/x.wav", b"x")
    memory.pipe("/bucket/plain/b/y.wav", b"yy")
    tree = open_tree("memory://bucket/c.zip")
    assert tree.names == open_tree(path).names
    assert read_bytes(tree.source("a/0.wav")) == _content(0)
    plain = open_tree("memory://bucket/plain")
    assert plain.names == ("a/x.wav", "b/y.wav") and plain.sizes == (1, 2)
    assert read_bytes(plain.source("b/y.wav")) == b"yy" and identity(plain.source("b/y.wav"))


class _Undeclared(zipfile.ZipInfo):
    """A member whose name is in another encoding, without the flag for UTF-8."""

    encoding = "utf-8"

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode(self.encoding), self.flag_bits & ~0x800


def _undeclared(path: Path, encoding: str, classes: tuple[str, ...]) -> Path:
    names = [f"{label}/{number}.wav" for label in classes for number in range(3)]
    if path.suffix == ".tar":
        with tarfile.open(path, "w", encoding=encoding, format=tarfile.GNU_FORMAT) as packed:
            for name in names:
                packed.addfile(tarfile.TarInfo(name))
        return path
    with zipfile.ZipFile(path, "w") as packed:
        for name in names:
            info = _Undeclared(name)
            info.encoding = encoding
            packed.writestr(info, name.encode())
    return path


ENCODED = [
    ("gbk", ("哭声", "笑声", "咳嗽")),
    ("big5", ("許", "功", "狗")),  # the second byte of the first two is a backslash
    ("cp932", ("ソ音", "表示", "犬")),
    ("cp437", ("Vögel", "Frösche")),
    ("cp850", ("São", "cão")),
    ("utf-8", ("哭声", "Vögel")),
]


@pytest.mark.parametrize("form", ["zip", "tar"])
@pytest.mark.parametrize(("encoding", "classes"), ENCODED)
def test_names_without_a_declared_encoding_are_decoded_and_that_is_noted(
    form: str, encoding: str, classes: tuple[str, ...], tmp_path: Path
) -> None:
    listed = open_tree(_undeclared(tmp_path / f"c.{form}", encoding, classes))
    assert {name.split("/")[0] for name in listed.names} == set(classes)
    assert (f"read as {encoding}" in listed.note) == (encoding != "utf-8")
    if form == "zip":
        name = listed.names[0]
        assert read_bytes(listed.source(name)) == name.encode()
        with open_stream(listed.source(name)) as stream:
            assert stream.read() == name.encode()


def test_names_in_doubt_are_asked_for_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"could be gbk \('绊剧捞/0.wav'\).*python -m zipfile --metadata-encoding"):
        open_tree(_undeclared(tmp_path / "c.zip", "cp949", ("고양이", "개", "개구리")))


def test_a_name_that_is_not_utf8_is_excluded_and_named(tmp_path: Path) -> None:
    _make(tmp_path / "c", {"a/1.wav": b"x"})
    (tmp_path / "c" / os.fsdecode(b"a/Caf\xe9.wav")).write_bytes(b"x")
    names, excluded = audio_files(open_tree(tmp_path / "c"))
    assert names == ["1.wav"]
    assert [(item.name, "convmv" in item.reason) for item in excluded] == [("Caf\\xe9.wav", True)]


def test_links_that_lead_nowhere_and_pipes_are_named_with_what_fetches_them(tmp_path: Path) -> None:
    folder = tmp_path / "corpus" / "cat"
    folder.mkdir(parents=True)
    (folder / "here.wav").write_bytes(b"x")
    (folder / "annex.wav").symlink_to("../.git/annex/objects/xx/1.wav")
    (folder / "dvc.wav").symlink_to("../.dvc/cache/1.wav")
    (folder / "gone.wav").symlink_to("/nowhere/1.wav")
    os.mkfifo(folder / "pipe.wav")
    tree = open_tree(tmp_path / "corpus")
    reasons = {item.name.rpartition("/")[2]: item.reason for item in audio_files(tree)[1]}
    assert "git annex get" in reasons["annex.wav"] and "dvc pull" in reasons["dvc.wav"]
    assert "not there" in reasons["gone.wav"] and "pipe" in reasons["pipe.wav"]
    (folder / "here.wav").unlink()
    with pytest.raises(DataError, match=r"has no files\. .*is a link to a file that is not there"):
        open_tree(tmp_path / "corpus")
