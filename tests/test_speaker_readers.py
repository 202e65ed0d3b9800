"""Corpora of speakers: sessions as groups where they can be kept apart, and frames that tables promise."""

import json
from collections import Counter
from pathlib import Path

import pytest

from auricle.corpus.clip import Index
from auricle.corpus.read import read_index
from auricle.errors import DataError, UsageError
from auricle.preparation.prepare import read
from auricle.recipes import load
from tests.test_readers import BUILDERS


def built(name: str, folder: Path) -> Path:
    BUILDERS[name](folder)
    return folder


def reasons(index: Index) -> dict[str, str]:
    return {item.name: item.reason for item in index.excluded}


def test_hw4_yields_what_its_table_lists_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    index = read_index(built("hw4", tmp_path))
    assert (
        index.description == "Speakers as precomputed features: 6 clips, 2 speakers (40 precomputed features per frame)"
    )
    assert index.num_features == 40 and not index.has_groups and not index.has_folds
    assert {clip.meta["mel_len"] for clip in index} == {"128"}
    assert reasons(index) == {
        "testdata.json": "1 utterances to classify, without labels",
        "uttr-stray.pt": "listed in neither 'metadata.json' nor 'testdata.json'",
    }


def test_hw4_reports_rows_without_file_or_speaker_and_rows_given_twice(tmp_path: Path) -> None:
    built("hw4", tmp_path)
    content = json.loads((tmp_path / "metadata.json").read_text())
    content["speakers"]["id10002"] += [{"feature_path": name, "mel_len": 1} for name in ("no.pt", "uttr-id100010.pt")]
    content["speakers"]["id10003"] = [{"feature_path": "uttr-stray.pt", "mel_len": 1}]
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    index = read_index(tmp_path)
    assert len(index) == 6
    assert reasons(index) == {
        "testdata.json": "1 utterances to classify, without labels",
        "no.pt": "listed in 'metadata.json', but missing",
        "uttr-id100010.pt, listed again": "under 'id10002', and before under 'id10001'",
        "uttr-stray.pt": "its speaker 'id10003' is not in 'mapping.json'",
    }


def test_speakers_without_utterances_are_remarked(tmp_path: Path) -> None:
    built("hw4", tmp_path)
    (tmp_path / "mapping.json").write_text(json.dumps({"speaker2id": {"id10001": 0, "id10002": 1, "id10009": 2}}))
    assert "1 speakers of 'mapping.json' have no utterance, such as 'id10009'" in read_index(tmp_path).description


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metadata.json", "{", "is not JSON"),
        ("metadata.json", "[]", "lacks its key 'speakers', an object"),
        ("metadata.json", '{"n_mels": 0, "speakers": {"id10001": [], "id10002": []}}', "no clips among"),
        ("metadata.json", '{"n_mels": 40, "speakers": {"id10001": "uttr"}}', "The speaker 'id10001' is not a list"),
        ("metadata.json", '{"n_mels": 40, "speakers": {"id10001": [{"feature_path": 3}]}}', "Row 0 of the speaker"),
        ("mapping.json", '{"id2speaker": {}}', "lacks its key 'speaker2id'"),
        ("testdata.json", '{"utterances": [{"mel_len": 3}]}', "Row 0 of 'testdata.json'"),
    ],
)
def test_damaged_tables_are_named(name: str, content: str, said: str, tmp_path: Path) -> None:
    built("hw4", tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        read_index(tmp_path, "hw4")


@pytest.mark.parametrize("width", ["0", "true", "4096", '"40"'])
def test_a_width_that_no_frames_have_is_refused(width: str, tmp_path: Path) -> None:
    built("hw4", tmp_path)
    text = (tmp_path / "metadata.json").read_text().replace('"n_mels": 40', f'"n_mels": {width}')
    (tmp_path / "metadata.json").write_text(text)
    with pytest.raises(DataError, match="n_mels"):
        read_index(tmp_path)


def test_an_index_saved_before_there_were_frames_is_read(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    index = read_index(built("fsdd", tmp_path / "corpus"))
    index.save(tmp_path / "index.parquet")
    table = pq.read_table(tmp_path / "index.parquet")
    about = json.loads(table.schema.metadata[b"auricle"])
    assert about.pop("num_features") is None
    pq.write_table(table.replace_schema_metadata({"auricle": json.dumps(about)}), tmp_path / "index.parquet")
    assert Index.load(tmp_path / "index.parquet") == index


def test_librispeech_keeps_chapters_together_where_a_speaker_has_several(tmp_path: Path) -> None:
    index = read_index(built("librispeech", tmp_path))
    groups = Counter((clip.label, clip.group) for clip in index)
    assert groups == {("84", "84-1"): 2, ("84", "84-2"): 2, ("174", None): 2}
    assert {clip.label: clip.meta["sex"] for clip in index} == {"84": "female", "174": "male"}
    assert "1 of 2 speakers have one chapter only" in index.description and index.group_name == "chapter"


def test_librispeech_without_chapter_folders_is_the_same(tmp_path: Path) -> None:
    for name in ("84/84-1-0000.flac", "84/84-2-0000.flac", "174/174-9-0000.flac", "174/85-9-0001.flac"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    index = read_index(tmp_path, "librispeech")
    assert [(clip.label, clip.group) for clip in index] == [("174", None), ("84", "84-1"), ("84", "84-2")]
    assert reasons(index)["174/85-9-0001.flac"].startswith("no LibriSpeech name")


def test_voxceleb_keeps_videos_together_and_takes_the_table_of_speakers(tmp_path: Path) -> None:
    index = read_index(built("voxceleb", tmp_path))
    assert Counter((clip.label, clip.group) for clip in index) == {
        ("id10001", "id10001/1zc_-IwhmdE"): 2,
        ("id10001", "id10001/7gWzIy6yIIk"): 2,
        ("id10002", None): 2,
    }
    assert {clip.label: (clip.meta["sex"], clip.meta["nationality"]) for clip in index} == {
        "id10001": ("male", "Ireland"),
        "id10002": ("female", "USA"),
    }
    assert "1 of 2 speakers have one video only" in index.description and not index.has_folds


def test_voxceleb_takes_its_split_where_it_is_there(tmp_path: Path) -> None:
    built("voxceleb", tmp_path)
    lines = ["1 id10001/1zc_-IwhmdE/00001.wav", "2 id10001/1zc_-IwhmdE/00002.wav", "3 id10002/xT/00001.wav"]
    (tmp_path / "iden_split.txt").write_text("\n".join(lines) + "\n")
    index = read_index(tmp_path)
    assert [clip.fold for clip in index] == ["train", "valid", "test"]
    assert sum(reason == "not listed in 'iden_split.txt'" for reason in reasons(index).values()) == 3


def test_a_column_becomes_the_fold(tmp_path: Path) -> None:
    data = built("fsdd", tmp_path / "corpus")
    index = read(data, load("baseline", ["data.label=speaker", "data.fold=official_split"]))
    assert [(clip.label, clip.fold) for clip in index] == [("george", "test"), ("jackson", "train")]
    assert index.description.endswith("split into train, test")
    own = read_index(data, fold="speaker")
    assert [(clip.label, clip.fold) for clip in own] == [("0", "george"), ("7", "jackson")]


def test_a_corpus_own_folds_stay_when_only_the_label_is_taken_from_a_column(tmp_path: Path) -> None:
    data = built("esc50", tmp_path)
    assert {clip.fold for clip in read_index(data, label="esc10", group="take")} == set("12345")


def test_an_unknown_fold_column_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data.fold is 'oficial_split'. .* Did you mean 'official_split'"):
        read_index(built("fsdd", tmp_path / "corpus"), fold="oficial_split")
