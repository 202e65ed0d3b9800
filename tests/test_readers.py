"""Every reader in the folder keeps the contract: deterministic, no audio opened, folder and archive the same."""

import dataclasses
import io
import json
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from auricle import recipes
from auricle.corpus import tree
from auricle.corpus.clip import Clip, Index
from auricle.corpus.read import load_reader, rare_labels, read_index, reader_names, similar_labels
from auricle.corpus.tree import read_bytes
from auricle.errors import DataError, UsageError
from auricle.recipe import exclude_option


def _touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def _write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")


def _folder(root: Path) -> None:
    _touch(root, *(f"{word}/{word}{n}.wav" for word in ("bark", "meow") for n in range(3)), "README.md")


def _table(root: Path) -> None:
    _touch(root, "audio/a.wav", "audio/b.wav", "audio/c.wav")
    _write(root, "metadata.csv", "file_name,label,room\naudio/a.wav,cat,hall\naudio/b.wav,dog,hall\naudio/c.wav,dog,\n")


def _pattern(root: Path) -> None:
    _touch(root, "ann_1_happy.wav", "ann_2_sad.wav", "bob_1_sad.wav", "odd.wav")


def _hub(root: Path) -> None:
    datasets = pytest.importorskip("datasets")
    # Audio is put in as Arrow, for the feature's own encoder would need a decoder package.
    names = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features({"audio": datasets.Audio(), "label": names})
    splits = {}
    for split, sounds in (("train", [b"one", b"two"]), ("validation", [b"three", b"four"])):
        audio = [{"bytes": sound, "path": None} for sound in sounds]
        table = pa.table({"audio": audio, "label": [0, 1]}).cast(features.arrow_schema)
        splits[split] = datasets.Dataset(table, info=datasets.DatasetInfo(features=features))
    datasets.DatasetDict(splits).save_to_disk(str(root))


def _webdataset(root: Path) -> None:
    root.mkdir(parents=True)
    for shard, labels in (("train-000000", ("cat", "dog")), ("test-000000", ("cat", "dog"))):
        with tarfile.open(root / f"{shard}.tar", "w") as packed:
            for key, label in enumerate(labels):
                for suffix, content in (
                    ("wav", ""),
                    ("json", json.dumps({"label": label, "room": "hall"})),
                    ("cls", str(key)),
                ):
                    member = tarfile.TarInfo(f"{key:06d}.{suffix}")
                    member.size = len(content)
                    packed.addfile(member, io.BytesIO(content.encode()))


def _esc50(root: Path) -> None:
    _touch(root, *(f"audio/{fold}-10{fold}-A-{target}.wav" for fold in range(1, 6) for target in (0, 14)))
    rows = [
        f"{fold}-10{fold}-A-{target}.wav,{fold},{target},{word},{esc10},10{fold},A"
        for fold in range(1, 6)
        for target, word, esc10 in ((0, "dog", True), (14, "chirping_birds", False))
    ]
    _write(root, "meta/esc50.csv", "filename,fold,target,category,esc10,src_file,take\n" + "\n".join(rows))


def _urbansound8k(root: Path) -> None:
    _touch(root, "audio/fold1/101415-3-0-2.wav", "audio/fold2/102305-6-0-0.wav", "audio/fold2/999-1-0-0.wav")
    _write(
        root,
        "metadata/UrbanSound8K.csv",
        "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
        "101415-3-0-2.wav,101415,1.0,5.0,2,1,3,dog_bark\n102305-6-0-0.wav,102305,0.0,2.6,1,2,6,gun_shot\n",
    )


def _crema_d(root: Path) -> None:
    _touch(root, "AudioWAV/1001_DFA_ANG_XX.wav", "AudioWAV/1002_IEO_SAD_HI.wav", "AudioMP3/1002_IEO_SAD_HI.mp3")
    _write(root, "VideoDemographics.csv", "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,Not Hispanic\n")


def _speech_commands(root: Path) -> None:
    _touch(root, "yes/0a7c2a8d_nohash_0.wav", "no/0a7c2a8d_nohash_0.wav", "no/1b8d3b9e_nohash_1.wav")
    _touch(root, "_background_noise_/pink_noise.wav")
    _write(root, "validation_list.txt", "no/1b8d3b9e_nohash_1.wav\n")
    _write(root, "testing_list.txt", "yes/0a7c2a8d_nohash_0.wav\n")


def _hw4(root: Path) -> None:
    paths = {name: [f"uttr-{name}{n}.pt" for n in range(3)] for name in ("id10001", "id10002")}
    _touch(root, *(path for rows in paths.values() for path in rows), "uttr-asked.pt", "uttr-stray.pt")
    _write(root, "answers.csv", "Id,Category\nuttr-asked.pt,id10001\n")
    _write(root, "mapping.json", json.dumps({"speaker2id": {name: n for n, name in enumerate(paths)}}))
    rows = {name: [{"feature_path": path, "mel_len": 128} for path in listed] for name, listed in paths.items()}
    _write(root, "metadata.json", json.dumps({"n_mels": 40, "speakers": rows}))
    asked = [{"feature_path": "uttr-asked.pt", "mel_len": 300}]
    _write(root, "testdata.json", json.dumps({"n_mels": 40, "utterances": asked}))


def _librispeech(root: Path) -> None:
    _touch(
        root,
        *(
            f"test-other/{s}/{c}/{s}-{c}-{n:04}.flac"
            for s, c in (("84", "1"), ("84", "2"), ("174", "9"))
            for n in (0, 1)
        ),
        "test-other/84/1/84-1.trans.txt",
    )
    _write(root, "SPEAKERS.TXT", ";ID |SEX| SUBSET\n84   | F | dev-clean | 8.02 | Christie\n174 | M | x | 8 | A | B\n")


def _voxceleb(root: Path) -> None:
    _touch(
        root,
        *(
            f"wav/id1000{s}/{v}/0000{n}.wav"
            for s, v in ((1, "1zc_-IwhmdE"), (1, "7gWzIy6yIIk"), (2, "xT"))
            for n in (1, 2)
        ),
    )
    header = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"
    _write(root, "vox1_meta.csv", f"{header}\nid10001\tA.J._Buckley\tm\tIreland\tdev\nid10002\tX\tf\tUSA\tdev\n")


BUILDERS: dict[str, Callable[[Path], None]] = {
    "folder": _folder,
    "table": _table,
    "pattern": _pattern,
    "hub": _hub,
    "webdataset": _webdataset,
    "esc50": _esc50,
    "urbansound8k": _urbansound8k,
    "crema_d": _crema_d,
    "speech_commands": _speech_commands,
    "hw4": _hw4,
    "librispeech": _librispeech,
    "voxceleb": _voxceleb,
    "emodb": lambda root: _touch(root, "wav/03a01Fa.wav", "wav/08b10Wb.wav", "wav/16a02Ta.wav"),
    "fsdd": lambda root: _touch(root, "recordings/0_george_0.wav", "recordings/7_jackson_32.wav"),
    "ravdess": lambda root: _touch(
        root,
        "Actor_01/03-01-05-02-01-01-01.wav",
        "Actor_12/03-02-06-01-02-01-12.wav",
        "Actor_12/02-01-06-01-02-01-12.mp4",
    ),
    "gtzan": lambda root: _touch(root, "genres/blues/blues.00000.wav", "genres/jazz/jazz.00054.wav"),
}
OPTIONS = {"pattern": {"pattern": "{group}_{take}_{label}.wav"}}
# Rows of Arrow files are mapped from disk, and shards are archives themselves: these read folders only.
ARCHIVED = [name for name in reader_names() if name not in ("hub", "webdataset")]


def _built(name: str, folder: Path) -> Path:
    root = folder / "corpus"
    BUILDERS[name](root)
    return root


def _read(name: str, data: Path) -> Index:
    return read_index(data, name, OPTIONS.get(name, {}))


def _bare(index: Index) -> tuple[Any, ...]:
    clips = tuple(dataclasses.replace(clip, source="") for clip in index)
    return clips, index.excluded, index.description, index.license, index.citation, index.group_name


@pytest.fixture(params=reader_names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_reader_exports_the_fixed_names(name: str) -> None:
    reader = load_reader(name)
    for export in ("TITLE", "DESCRIBES", "LICENSE", "CITATION", "LABEL_NAME"):
        assert isinstance(getattr(reader, export), str)
    assert reader.DESCRIBES and "\n" not in reader.DESCRIBES
    assert reader.__doc__


def test_a_reader_recognises_its_own_corpus(name: str, tmp_path: Path) -> None:
    data = _built(name, tmp_path)
    if name == "pattern":
        with pytest.raises(DataError, match="neither folders nor file names that look like classes"):
            read_index(data)
    else:
        assert read_index(data).reader == name


def test_a_reader_is_deterministic_and_names_are_unique(name: str, tmp_path: Path) -> None:
    data = _built(name, tmp_path)
    first, second = _read(name, data), _read(name, data)
    assert first == second and len(first) >= 2
    assert len({clip.id for clip in first}) == len(first)
    assert not any(str(tmp_path) in clip.id for clip in first)


def test_a_reader_opens_no_audio(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _built(name, tmp_path)
    opened: list[str] = []
    monkeypatch.setattr("soundfile.SoundFile.__init__", lambda *a, **k: opened.append("soundfile"))
    monkeypatch.setattr("av.open", lambda *a, **k: opened.append("av"))
    assert len(_read(name, data)) >= 2
    assert opened == []


def test_no_reader_asks_for_the_bytes_of_a_recording(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _built(name, tmp_path)
    asked: list[str] = []
    real = tree.read_bytes
    monkeypatch.setattr(tree, "read_bytes", lambda source: asked.append(source) or real(source))
    _read(name, data)
    assert not [source for source in asked if tree.is_audio(source) or source.startswith("arrow://")]


@pytest.mark.parametrize("name", ARCHIVED)
@pytest.mark.parametrize("form", ["zip", "gztar", "tar", "bztar"])
def test_a_folder_and_an_archive_of_it_are_the_same_corpus(name: str, form: str, tmp_path: Path) -> None:
    data = _built(name, tmp_path)
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), form, tmp_path, "corpus"))
    packed = _read(name, archive)
    assert _bare(packed) == _bare(_read(name, data))
    assert [read_bytes(clip.source) for clip in packed] == [b""] * len(packed)


@pytest.mark.parametrize("name", ARCHIVED)
def test_an_index_survives_saving(name: str, tmp_path: Path) -> None:
    index = _read(name, _built(name, tmp_path))
    index.save(tmp_path / "index.parquet")
    assert Index.load(tmp_path / "index.parquet") == index


def _only(index: Index, ending: str) -> Clip:
    return next(clip for clip in index if clip.id.endswith(ending))


def test_emodb_names_are_understood(tmp_path: Path) -> None:
    index = read_index(_built("emodb", tmp_path))
    clip = _only(index, "08b10Wb.wav")
    assert (clip.label, clip.group, clip.meta["sex"], clip.meta["age"]) == ("anger", "08", "female", "34")
    assert index.description == "EmoDB: 3 clips, 3 emotions, 3 speakers"


def test_crema_d_takes_the_actor_from_the_table_and_one_of_two_copies(tmp_path: Path) -> None:
    index = read_index(_built("crema_d", tmp_path))
    clip = _only(index, "1001_DFA_ANG_XX.wav")
    assert (clip.label, clip.group, clip.meta["race"]) == ("anger", "1001", "caucasian")
    assert len(index) == 2
    assert any("AudioMP3" in item.name and "same clip" in item.reason for item in index.excluded)


def test_esc50_keeps_its_folds_and_its_part_esc10(tmp_path: Path) -> None:
    data = _built("esc50", tmp_path)
    index = read_index(data)
    assert {clip.fold for clip in index} == set("12345")
    assert _only(index, "3-103-A-0.wav").group == "103"
    with pytest.raises(DataError, match="one class only: 'dog'"):
        read_index(data, options={"subset": "esc10"})


def test_the_older_esc_folders_are_read(tmp_path: Path) -> None:
    _touch(tmp_path / "x", "001 - Dog bark/1-100032-A.ogg", "002 - Rain/5-17367-B.ogg", "101 - Cat/1-7-A.ogg")
    index = read_index(tmp_path / "x", options={"subset": "esc10"})
    assert [(c.label, c.fold, c.group) for c in index] == [("Dog bark", "1", "100032"), ("Rain", "5", "17367")]


def test_urbansound8k_leaves_out_what_its_table_does_not_list(tmp_path: Path) -> None:
    index = read_index(_built("urbansound8k", tmp_path))
    clip = _only(index, "101415-3-0-2.wav")
    assert (clip.label, clip.group, clip.fold, clip.start) == ("dog_bark", "101415", "1", None)
    assert clip.meta["salience"] == "background"
    assert [item.name for item in index.excluded if "not listed" in item.reason] == ["audio/fold2/999-1-0-0.wav"]


def test_speech_commands_has_its_own_folds_and_no_noise(tmp_path: Path) -> None:
    index = read_index(_built("speech_commands", tmp_path))
    assert [(c.id[:2], c.fold) for c in index] == [("no", "train"), ("no", "valid"), ("ye", "test")]
    assert any("pink_noise" in item.name for item in index.excluded)


def test_a_digit_corpus_becomes_a_speaker_corpus_by_one_argument(tmp_path: Path) -> None:
    index = read_index(_built("fsdd", tmp_path), label="speaker")
    assert index.labels == ("george", "jackson")
    assert not index.has_groups and index.clips[0].meta["digit"] == "0"
    assert index.clips[0].meta["official_split"] == "test" and index.clips[0].fold is None
    with pytest.raises(UsageError, match="Did you mean 'speaker'"):
        read_index(tmp_path / "corpus", label="speeker")


@pytest.mark.parametrize("layout", ["{fold}/{word}/{n}.wav", "{word}/{fold}/{n}.wav"])
def test_split_folders_above_or_below_the_classes_are_folds(layout: str, tmp_path: Path) -> None:
    words = [(fold, word, n) for fold in ("Training", "val", "test") for word in ("a", "b") for n in range(2)]
    _touch(tmp_path, *(layout.format(fold=fold, word=word, n=n) for fold, word, n in words))
    index = read_index(tmp_path)
    assert index.labels == ("a", "b")
    assert {clip.fold for clip in index} == {"train", "valid", "test"}
    assert index.description.endswith("split into train, valid, test")


def test_every_folder_is_a_class_and_doubtful_names_are_reported(tmp_path: Path) -> None:
    names = [f"{word}/{n}.wav" for word in ("a", "b", "_trash", "background_noise") for n in range(20)]
    _touch(tmp_path, *names, "stray.wav")
    index = read_index(tmp_path)
    assert index.labels == ("_trash", "a", "b", "background_noise") and len(index) == 80
    assert {item.name for item in index.excluded} == {"stray.wav"}
    assert "'_trash', 'background_noise' counted as classes" in index.description
    assert "--set 'data.excluded_classes=[_trash,background_noise]'" in index.description
    fewer = read_index(tmp_path, excluded_classes=["_trash", "background_noise"])
    assert fewer.labels == ("a", "b") and len(fewer) + len(fewer.excluded) == 81
    with pytest.raises(UsageError, match=r"data\.excluded_classes.*Did you mean '_trash'"):
        read_index(tmp_path, excluded_classes=["_trsh"])


def _layout_of(form: Callable[[int, str, int], str]) -> list[str]:
    return [form(number, word, take) for number, word in enumerate(("cat", "dog", "frog")) for take in range(12)]


ACTORS = ("anna", "bob", "cleo")
CLEAR = {
    "session/class": lambda n, word, take: f"Session{take % 3 + 1}/{word}/x{take}.wav",
    "speaker/class": lambda n, word, take: f"{ACTORS[take % 3]}/{word}/x{take}.wav",
    "corpus/class": lambda n, word, take: f"{('crema', 'tess')[take % 2]}/{word}/x{take}.wav",
    "archive/archive/class": lambda n, word, take: f"archive/archive/{word}/x{take}.wav",
    "class/speaker": lambda n, word, take: f"{word}/spk{take % 4}/x{take}.wav",
    "class/wav": lambda n, word, take: f"{word}/wav/{take:02d}.wav",
    "a batch of each class": lambda n, word, take: f"batch{n}/{word}/{take:02d}.wav",
    "train beside testnew": lambda n, word, take: f"{'train' if take % 4 else 'testnew'}/{word}/x{take}.wav",
    "one stray file": lambda n, word, take: f"audio/{word}/x{take}.wav" if (n, take) != (0, 0) else "misc/foo.wav",
    "flat": lambda n, word, take: f"{word}_{take:03d}.wav",
}


@pytest.mark.parametrize("layout", CLEAR)
def test_the_classes_are_the_field_that_repeats(layout: str, tmp_path: Path) -> None:
    _touch(tmp_path, *_layout_of(CLEAR[layout]))
    index = read_index(tmp_path)
    assert index.labels == ("cat", "dog", "frog")
    assert len(index) == 36 - (layout == "one stray file")
    assert len(index) + len(index.excluded) == 36
    assert {clip.fold for clip in index} == ({"train", "test"} if layout == "train beside testnew" else {None})


def test_numbered_class_folders_are_classes_and_their_files_a_counter(tmp_path: Path) -> None:
    _touch(tmp_path, *_layout_of(lambda n, word, take: f"{n}/{take:02d}.wav"))
    assert read_index(tmp_path).labels == ("0", "1", "2")


UNCLEAR = {
    "two words in each name": (
        lambda n, word, take: f"{word}_{ACTORS[take % 3]}_{take:03d}.wav",
        ("name:1", "name:2"),
    ),
    "numbered folders, words in names": (
        lambda n, word, take: f"Actor_{take % 4:02d}/03-{word}-{take:02d}.wav",
        ("folder:1", "name:2"),
    ),
    "numbers as folders, words in names": (
        lambda n, word, take: f"{take % 4:02d}/{word}_{take:02d}.wav",
        ("folder:1", "name:1"),
    ),
    "codes as folders, words in names": (
        lambda n, word, take: f"s{take % 4}/rig{take % 2}_{word}_{take:02d}.wav",
        ("folder:1", "name:2"),
    ),
}


@pytest.mark.parametrize("layout", UNCLEAR)
def test_two_plausible_readings_are_listed_with_the_option_of_each(layout: str, tmp_path: Path) -> None:
    form, keys = UNCLEAR[layout]
    _touch(tmp_path, *_layout_of(form))
    with pytest.raises(DataError, match="not clear what the classes") as caught:
        read_index(tmp_path)
    for key in keys:
        assert f"--label {key} " in str(caught.value)
        assert len(read_index(tmp_path, label=key)) == 36
    pattern = str(caught.value).rpartition("--pattern '")[2].rstrip("'")
    index = read_index(tmp_path, "pattern", {"pattern": pattern})  # it is made of the corpus' own file names
    assert len(index) == 36 and len(index.labels) < 36


def test_recordings_half_in_folders_are_asked_about(tmp_path: Path) -> None:
    _touch(tmp_path, *_layout_of(lambda n, word, take: f"{'' if take % 3 else f'rig{n % 2}/'}{word}_{take:03d}.wav"))
    assert read_index(tmp_path).labels == ("cat", "dog", "frog")  # too few are in folders
    _touch(tmp_path, *(f"rig{n % 2}/cow_{n:03d}.wav" for n in range(20)))
    with pytest.raises(DataError, match=r"(?s)--label folder:1 .*--label name:1 "):
        read_index(tmp_path)


def test_a_test_part_without_labels_does_not_hide_the_classes(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"train/audio/{word}/{n}.wav" for word in ("yes", "no") for n in range(8)))
    _touch(tmp_path, *(f"test/audio/clip_{n}.wav" for n in range(5)))
    index = read_index(tmp_path)
    assert index.labels == ("no", "yes") and {clip.fold for clip in index} == {"train"}
    assert [item.reason for item in index.excluded] == ["no class: it has no folder:3 in the part 'test'"] * 5


def test_label_and_group_take_columns_folders_and_parts_of_names(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"{word}/rig{n % 2}_day{n % 3}_{n}.wav" for word in ("a", "b") for n in range(12)))
    index = read_index(tmp_path, label="name:1", group="name:2")
    assert index.labels == ("rig0", "rig1") and {clip.group for clip in index} == {"day0", "day1", "day2"}
    assert {clip.group for clip in read_index(tmp_path, group="name:1-2")} == {
        f"rig{n % 2}_day{n % 3}" for n in range(6)
    }
    assert {clip.group for clip in read_index(tmp_path, group="name:2.2")} == {"0", "1", "2"}
    assert not read_index(tmp_path, group="none").has_groups
    with pytest.raises(UsageError, match=r"'name:0' is no field.*folder:1"):
        read_index(tmp_path, group="name:0")
    with pytest.raises(UsageError, match=r"No file has 'folder:4'.*Fields of this corpus: folder:1, name:1"):
        read_index(tmp_path, group="folder:4")


def test_hundreds_of_class_folders_are_classes_whatever_their_names_hold(tmp_path: Path) -> None:
    _touch(
        tmp_path, *(f"bird {n:04d}/{('day', 'night')[take]}_{n}_{take}.wav" for n in range(600) for take in range(2))
    )
    assert len(read_index(tmp_path).labels) == 600


def test_names_alone_give_no_group(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"{word}/speaker{n % 3}_{n}.wav" for word in ("a", "b") for n in range(12)))
    assert not read_index(tmp_path).has_groups


def test_names_without_any_class_are_refused_with_what_to_do(tmp_path: Path) -> None:
    _touch(tmp_path, "x-1 b.wav", "y-2 c.wav")
    for reader in ("auto", "folder"):
        with pytest.raises(
            DataError, match=r"Put each class in its own folder.*metadata\.csv.*--pattern '(.*)'"
        ) as caught:
            read_index(tmp_path, reader)
    assert "'{group}-{label} {take}.wav'" in str(caught.value)
    assert read_index(tmp_path, "pattern", {"pattern": "{group}-{label} {take}.wav"}).labels == ("1", "2")


def test_two_readings_of_one_tree_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_reader("gtzan"), "detects", lambda tree: True)
    with pytest.raises(DataError, match="any of emodb, gtzan"):
        read_index(_built("emodb", tmp_path))


def test_misspelt_readers_and_options_offer_the_nearest(tmp_path: Path) -> None:
    data = _built("folder", tmp_path)
    with pytest.raises(UsageError, match="Did you mean 'folder'"):
        read_index(data, "foldr")
    with pytest.raises(UsageError, match="Did you mean 'label'"):
        read_index(data, "folder", {"labl": "folder:1"})
    with pytest.raises(UsageError, match=r"'label' of reader 'folder' is 1; it takes str"):
        read_index(data, "folder", {"label": 1})
    with pytest.raises(UsageError, match="has no options"):
        read_index(data, "gtzan", {"level": 1})
    with pytest.raises(UsageError, match="needs its option 'pattern'"):
        read_index(data, "pattern")


def test_patterns_read_folders_and_say_what_does_not_fit(tmp_path: Path) -> None:
    index = _read("pattern", _built("pattern", tmp_path))
    first = index.clips[0]
    assert (first.label, first.group, first.meta) == ("happy", "ann", {"take": "1"})
    assert [item.name for item in index.excluded] == ["odd.wav"]
    nested = tmp_path / "nested"
    _touch(nested, "deep/sad/ann-1.flac", "deep/calm/bob-2.flac")
    found = read_index(nested, "pattern", {"pattern": "{label}/{group}-{n}"})
    assert [(c.label, c.group, c.meta) for c in found] == [("calm", "bob", {"n": "2"}), ("sad", "ann", {"n": "1"})]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{group}.wav", "no {label}"),
        ("{label", "brace"),
        ("{la bel}.wav", "Write fields"),
        ("{}{label}", "Write fields"),
        ("{label}{n}.wav", "--label name:1.1"),
    ],
)
def test_a_pattern_that_is_none_is_refused(pattern: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_index(_built("pattern", tmp_path), "pattern", {"pattern": pattern})


def test_a_pattern_that_fits_nothing_shows_two_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'ann_1_happy.wav' and 'ann_2_sad.wav'"):
        read_index(_built("pattern", tmp_path), "pattern", {"pattern": "{label}+{n}"})


def test_what_folders_do_not_say_clearly_is_said_or_refused(tmp_path: Path) -> None:
    beside, nested, dates, words = (tmp_path / name for name in ("beside", "nested", "dates", "words"))
    _touch(beside, *(f"{part}/{c}/{n}.wav" for part in ("train", "test") for c in ("cat", "dog") for n in range(3)))
    _touch(beside, "test/loose.wav", "extra/one.wav", "extra/two.wav", "extra/cat/3.wav")
    index = read_index(beside)
    assert index.labels == ("cat", "dog")
    assert sorted(clip.fold or "" for clip in index) == ["extra", *["test"] * 6, *["train"] * 6]
    assert {item.name for item in index.excluded} == {"test/loose.wav", "extra/one.wav", "extra/two.wav"}
    _touch(nested, *(f"{c}/{n}.wav" for c in ("animals/cat", "animals/dog", "rain") for n in range(4)))
    assert (
        "'animals' is one class with all its folders ('cat', 'dog'); `--label folder:-1`"
        in read_index(nested).description
    )
    assert read_index(nested, label="folder:-1").labels == ("cat", "dog", "rain")
    _touch(dates, *(f"2024-0{day}-11/{c}_{n}.wav" for day in (1, 2) for c in ("cat", "dog") for n in range(3)))
    _touch(words, *(f"{c}{n}.wav" for c in ("cat", "dog") for n in range(6)))
    for folder, option in ((dates, "--label name:1 "), (words, "--label name:1.1 ")):
        with pytest.raises(DataError, match=f"It is not clear(.|\n)*{option}"):
            read_index(folder)


def test_a_group_that_is_the_class_is_kept_as_it_was_asked_for(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"{c}/{n}.wav" for c in ("cat", "dog") for n in range(4)))
    assert {clip.group for clip in read_index(tmp_path, group="folder:1")} == {"cat", "dog"}


ROWS = [
    {
        "File": "a.wav",
        "Class": "café",
        "Speaker": "s1",
        "split": "validation",
        "onset": "0.5",
        "offset": "2",
        "snr": "3",
    },
    {"File": "a.wav", "Class": "dog", "Speaker": "s1", "split": "train", "onset": "2", "offset": "3.25", "snr": ""},
    {"File": "b.wav", "Class": "", "Speaker": "s2", "split": "test", "onset": "", "offset": "", "snr": "3"},
    {"File": "b.wav", "Class": "dog", "Speaker": "s2", "split": "test", "onset": "", "offset": "", "snr": "3"},
    {"File": "b.wav", "Class": "dog", "Speaker": "s2", "split": "test", "onset": "", "offset": "", "snr": "3"},
    {"File": "gone.wav", "Class": "dog", "Speaker": "s2", "split": "test", "onset": "", "offset": "", "snr": "3"},
]


def _delimited(delimiter: str) -> bytes:
    lines = [delimiter.join(ROWS[0]), *(delimiter.join(row.values()) for row in ROWS)]
    return "\n".join(lines).encode("utf-8-sig")


def _parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


TABLES: dict[str, Callable[[Path], object]] = {
    "list.csv": lambda path: path.write_bytes(_delimited(",")),
    "semicolons.csv": lambda path: path.write_bytes(_delimited(";")),
    "list.tsv": lambda path: path.write_bytes(_delimited("\t")),
    "list.jsonl": lambda path: path.write_text("\n".join(json.dumps(row) for row in ROWS)),
    "list.parquet": _parquet,
}


@pytest.mark.parametrize("table", TABLES)
def test_every_kind_of_table_gives_the_same_clips(table: str, tmp_path: Path) -> None:
    _touch(tmp_path, "a.wav", "b.wav")
    TABLES[table](tmp_path / table)
    alone, nearby = read_index(tmp_path / table), read_index(tmp_path, "table")
    assert alone.clips == nearby.clips
    assert [clip.id for clip in alone] == ["a.wav#0.5-2", "a.wav#2-3.25", "b.wav"]
    first = alone.clips[0]
    assert (first.label, first.group, first.fold, first.start, first.end) == ("café", "s1", "valid", 0.5, 2.0)
    assert first.meta == {"snr": "3"}
    assert [(item.name, item.reason) for item in alone.excluded] == [
        ("b.wav (row 3)", "no label"),
        ("gone.wav (row 6)", "listed, but missing"),
        ("b.wav (row 5)", "repeats row 4"),
    ]
    assert "label 'Class'" in alone.description


def test_a_table_without_labels_says_its_columns_and_takes_a_mapping(tmp_path: Path) -> None:
    _touch(tmp_path, "audio/a.wav", "audio/b.wav")
    _write(tmp_path, "list.csv", "wav,bird\na.wav,owl\nb,wren\n")
    with pytest.raises(DataError, match=r"no label column \(columns: wav, bird\)\. Name it: `--label bird`"):
        read_index(tmp_path, "table")
    index = read_index(tmp_path, "table", {"label": "bird"})
    assert [(clip.id, clip.label) for clip in index] == [("audio/a.wav", "owl"), ("audio/b.wav", "wren")]
    by_label = read_index(tmp_path, "table", label="bird")
    assert by_label.clips == index.clips and "2 birds" in by_label.description
    with pytest.raises(UsageError, match="Did you mean 'bird'"):
        read_index(tmp_path, "table", {"label": "brid"})


def test_a_table_in_each_split_folder_gives_the_folds(tmp_path: Path) -> None:
    for split, label in (("train", "x"), ("test", "y")):
        _touch(tmp_path, f"{split}/a.wav")
        _write(tmp_path, f"{split}/metadata.csv", f"file_name,label\na.wav,{label}\n")
    assert [(clip.id, clip.label, clip.fold) for clip in read_index(tmp_path)] == [
        ("test/a.wav", "y", "test"),
        ("train/a.wav", "x", "train"),
    ]


def test_an_unreadable_table_does_not_hide_class_folders(tmp_path: Path) -> None:
    _folder(tmp_path)
    (tmp_path / "notes.csv").write_bytes(b"\xff\xfe")
    assert read_index(tmp_path).reader == "folder"


def test_two_labels_for_one_segment_are_excluded_with_the_reason(tmp_path: Path) -> None:
    _touch(tmp_path, "a.wav", "b.wav", "c.wav")
    _write(tmp_path, "list.csv", "path,label\na.wav,x\nb.wav,y\na.wav,y\nc.wav,x\n")
    index = read_index(tmp_path / "list.csv")
    assert [(clip.id, clip.label) for clip in index] == [("b.wav", "y"), ("c.wav", "x")]
    reason = "rows contradict each other: the label is 'x' in row 1, 'y' in row 3"
    assert [(item.name, item.reason) for item in index.excluded] == [
        ("a.wav (row 1)", reason),
        ("a.wav (row 3)", reason),
    ]


def test_absolute_paths_are_read_and_ids_do_not_tell_where_they_lie(tmp_path: Path) -> None:
    for place in ("one", "two"):
        _touch(tmp_path / place, "x/a.wav", "y/a.wav")
        _write(tmp_path, f"{place}.csv", f"path,label\n{tmp_path}/{place}/x/a.wav,x\n{tmp_path}/{place}/y/a.wav,y\n")
    ids = [[clip.id for clip in read_index(tmp_path / f"{place}.csv")] for place in ("one", "two")]
    assert ids == [["x/a.wav", "y/a.wav"]] * 2


@pytest.mark.parametrize("path", ["../../out.wav", "/etc/out.wav", "C:\\out.wav"])
def test_a_table_in_an_archive_leads_nowhere_else(path: str, tmp_path: Path) -> None:
    _touch(tmp_path / "c", "audio/a.wav", "audio/b.wav")
    _write(tmp_path / "c", "metadata.csv", f"path,label\naudio/a.wav,x\naudio/b.wav,y\n{path},y\n")
    archive = shutil.make_archive(str(tmp_path / "c"), "zip", tmp_path / "c")
    index = read_index(archive)
    assert [clip.id for clip in index] == ["audio/a.wav", "audio/b.wav"]
    assert (f"{path} (row 3)", "listed, but missing") in [(item.name, item.reason) for item in index.excluded]


def test_a_hugging_face_data_set_is_read_without_its_decoder(tmp_path: Path) -> None:
    index = read_index(_built("hub", tmp_path))
    assert [(clip.label, clip.fold) for clip in index] == [
        ("cat", "train"),
        ("dog", "train"),
        ("cat", "valid"),
        ("dog", "valid"),
    ]
    assert [read_bytes(clip.source) for clip in index] == [b"one", b"two", b"three", b"four"]


def test_parquet_files_of_a_data_set_are_read_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    for split, label in (("train", "cat"), ("test", "dog")):
        audio = [{"bytes": split.encode(), "path": None}, {"bytes": None, "path": "/x/y.wav"}]
        rows = pa.table({"audio": audio, "genre": [label, label], "artist": ["a", "b"], "year": [1999, None]})
        pq.write_table(rows, tmp_path / "set" / f"{split}-00000-of-00001.parquet")
    index = read_index(tmp_path / "set")
    first = index.clips[0]
    assert (first.label, first.fold, first.group, first.meta["year"][:4]) == ("dog", "test", "a", "1999")
    assert [clip.source == "/x/y.wav" for clip in index] == [False, True, False, True]
    assert [read_bytes(clip.source) for clip in index.clips[::2]] == [b"test", b"train"]


def test_labels_written_twice_and_rare_ones_are_found(tmp_path: Path) -> None:
    _touch(tmp_path, "Dog bark/a.wav", "dog_bark/b.wav", "dog_bark/c.wav", "cat/d.wav", "cat/e.wav")
    index = read_index(tmp_path)
    assert similar_labels(index) == [("Dog bark", "dog_bark")]
    assert rare_labels(index) == ["Dog bark"]


def test_accents_composed_in_two_ways_are_one_label(tmp_path: Path) -> None:
    _touch(tmp_path, "a.wav", "b.wav", "c.wav")
    _write(tmp_path, "list.csv", "path,label\na.wav,cafe\u0301\nb.wav,caf\u00e9\nc.wav,tea\n")
    assert read_index(tmp_path / "list.csv").labels == ("caf\u00e9", "tea")


def test_a_misspelt_path_is_not_looked_up_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="There is no file or folder at 'data/esc'"):
        read_index("data/esc")


def test_a_path_is_checked_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom auricle.corpus.read import check_location\nfrom auricle.errors import DataError\n"
        f"check_location({str(tmp_path)!r}); check_location('user/name'); check_location('memory://bucket/x')\n"
        "try:\n check_location('/no/such/folder')\nexcept DataError as error:\n print(error)\n"
        "heavy = {'pyarrow', 'numpy', 'torch', 'av', 'soundfile', 'datasets', 'pandas', 'sklearn', 'transformers'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert out[0].startswith("There is no file or folder at '/no/such/folder'") and out[1] == "[]"


def test_preparing_a_corpus_imports_no_model_library() -> None:
    code = (
        "import sys, auricle.preparation.prepare, auricle.audio.store, auricle.corpus.read\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def _described(tree: Path) -> str:
    return read_index(tree).description


def test_strays_and_folders_without_recordings_are_named(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"{word}/{n}.wav" for word in ("cat", "dog") for n in range(4)), "stray.wav", "docs/readme.txt")
    (tmp_path / "bird").mkdir()
    _touch(tmp_path, "cow/.gitkeep")
    described = _described(tmp_path)
    assert "'bird', 'cow', 'docs' hold no recordings and are left out" in described
    assert "1 recording is excluded, such as 'stray.wav': no class: it has no folder:1; move it into" in described
    assert read_index(tmp_path).labels == ("cat", "dog")


def test_a_folder_of_classes_in_parts_is_not_empty_where_one_part_has_it(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"train/{word}/{n}.wav" for word in ("cat", "dog") for n in range(4)), "test/cat/9.wav")
    for name in ("test/dog", "test/frog"):
        (tmp_path / name).mkdir()
    described = _described(tmp_path)
    assert "'frog' holds no recordings" in described and "'dog'" not in described


def test_strays_outside_the_wrapper_are_counted(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"corpus/{word}/{n}.wav" for word in ("cat", "dog") for n in range(9)), "old/x.wav")
    assert "1 recording is excluded, such as 'old/x.wav': outside the class folders" in _described(tmp_path)


def test_one_class_folder_is_named_with_the_empty_ones(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"cat/{n}.wav" for n in range(4)))
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=r"single class folder, 'cat' \(4 recordings\).*No recordings are in 'dog'"):
        read_index(tmp_path)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_every_file_is_counted_hidden_ones_too(form: str, tmp_path: Path) -> None:
    _touch(tmp_path / "c", *(f"{word}/{n}.wav" for word in ("cat", "dog") for n in range(3)), "notes.txt")
    _touch(tmp_path / "c", "cat/._0.wav", ".DS_Store", ".git/objects/ab/1", "__MACOSX/cat/._1.wav", "dog/.old.wav")
    data = tmp_path / "c" if form == "folder" else Path(shutil.make_archive(str(tmp_path / "c"), "zip", tmp_path / "c"))
    index = read_index(data)
    assert (index.num_files, index.num_other_files, index.num_hidden_files) == (12, 1, 5)
    assert "1 recording is excluded, such as 'dog/.old.wav': a hidden file" in index.description


def test_archives_and_spreadsheets_that_are_not_opened_are_named(tmp_path: Path) -> None:
    words = [f"{word}/{n}.wav" for word in ("cat", "dog") for n in range(3)]
    _touch(tmp_path / "beside", *words, "more.zip", "labels.xlsx")
    described = _described(tmp_path / "beside")
    assert "1 archive is not opened, such as 'more.zip': unpack it" in described
    assert "'labels.xlsx' is a spreadsheet, which is not read: save it as CSV" in described
    _touch(tmp_path / "nested", "cat.zip", "dog.zip")
    with pytest.raises(DataError, match=r"2 archives are not opened, such as 'cat\.zip': unpack them"):
        read_index(tmp_path / "nested")
    _touch(tmp_path / "flat", "clip01.wav", "clip02.wav", "labels.xlsx")
    with pytest.raises(DataError, match=r"metadata\.csv.*'labels\.xlsx' is a spreadsheet"):
        read_index(tmp_path / "flat")


def test_a_class_left_out_can_have_any_name(tmp_path: Path) -> None:
    names = ("no", "a, b", "it's", "1.0", "plain", "#x")
    option = exclude_option(names)
    setting = shlex.split(option.strip("`"))[1]
    assert recipes.load("sound", [setting]).data.excluded_classes == list(names)
    assert exclude_option(("misc",)) == "`--set 'data.excluded_classes=[misc]'`"


def test_folders_and_columns_that_may_be_folds_are_named_until_they_are_used(tmp_path: Path) -> None:
    for number in range(12):
        _touch(tmp_path / "folders", *(f"fold{number % 3 + 1}/{word}/{number}.wav" for word in ("cat", "dog")))
        _touch(tmp_path / "table", f"{number}.wav")
    assert "`--set data.fold=folder:1` uses them" in _described(tmp_path / "folders")
    used = read_index(tmp_path / "folders", fold="folder:1")
    assert {clip.fold for clip in used} == {"fold1", "fold2", "fold3"} and "may be folds" not in used.description
    rows = (f"{n}.wav,{'ab'[n % 2]},{n % 3},{'train' if n < 9 else 'test'},{n > 8}\n" for n in range(12))
    _write(tmp_path / "table", "metadata.csv", "file,label,fold,phase,is_test\n" + "".join(rows))
    described = _described(tmp_path / "table")
    assert "the column 'phase' may be a split and is not used; `--set data.fold=phase` uses it" in described
    assert "the column 'is_test' (False, True) may be a split" in described
    assert "may be a split" not in read_index(tmp_path / "table", fold="phase").description


def test_recordings_named_like_another_class_are_pointed_out(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"{word}/{word}_{n}.wav" for word in ("cat", "dog") for n in range(8)), "cat/dog_9.wav")
    assert "1 recording is named like another class than its folder, such as 'cat/dog_9.wav'" in _described(tmp_path)


def test_an_empty_part_of_the_split_is_named(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"train/{word}/{n}.wav" for word in ("cat", "dog") for n in range(4)))
    (tmp_path / "test").mkdir()
    assert "'test' holds no recordings and is left out" in _described(tmp_path)
