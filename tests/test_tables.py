"""A table is read whatever a spreadsheet, notebook or lab wrote, and what cannot be used is said, with what to type."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from auricle.corpus.clip import Clip, Index
from auricle.corpus.encodings import DOS, WINDOWS, decode
from auricle.corpus.read import read_index
from auricle.corpus.tables import canonical_numbers
from auricle.errors import DataError, UsageError

LABELS = ("Mönchsgrasmücke", "dog", "frog")
FILES = [f"clip{number:02d}.wav" for number in range(12)]
ROWS = [(name, LABELS[number % 3]) for number, name in enumerate(FILES)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return _touch(tmp_path / "corpus", *FILES)


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def _write(folder: Path, text: str, name: str = "metadata.csv", encoding: str = "utf-8") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text.encode(encoding))
    return folder


def _pairs(index: Index) -> list[tuple[str, str]]:
    return [(clip.id, clip.label) for clip in index]


def _refused(folder: Path, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        read_index(folder, **options)
    return str(error.value)


HEADER = "file_name,label\n"
BODY = "".join(f"{name},{label}\n" for name, label in ROWS)
WRITERS: dict[str, Callable[[Path], object]] = {
    "byte order mark": lambda root: _write(root, HEADER + BODY, encoding="utf-8-sig"),
    "semicolons, Windows-1252": lambda root: _write(
        root, (HEADER + BODY).replace(",", ";").replace("\n", "\r\n"), encoding="cp1252"
    ),
    "UTF-16 with tabs": lambda root: _write(root, (HEADER + BODY).replace(",", "\t"), encoding="utf-16"),
    "UTF-16 without a mark": lambda root: _write(root, HEADER + BODY, encoding="utf-16-le"),
    "Excel's sep line": lambda root: _write(root, "sep=|\r\n" + (HEADER + BODY).replace(",", "|")),
    "blanks around commas": lambda root: _write(root, (HEADER + BODY).replace(",", " , ")),
    "the index of pandas": lambda root: _write(
        root, f",{HEADER}" + "".join(f"{n},{name},{label}\n" for n, (name, label) in enumerate(ROWS))
    ),
    "old Mac line ends": lambda root: _write(root, (HEADER + BODY).replace("\n", "\r")),
    "comments and blank lines": lambda root: _write(root, f"\n# made by hand\n#\n\n{HEADER}{BODY}"),
    "a text file with blanks": lambda root: _write(root, (HEADER + BODY).replace(",", " "), "labels.txt"),
    "no header": lambda root: _write(root, BODY),
    "a JSON array": lambda root: _write(
        root, json.dumps([{"file_name": name, "label": label} for name, label in ROWS]), "labels.json"
    ),
    "JSON lines": lambda root: _write(
        root, "".join(json.dumps({"audio_filepath": name, "command": label}) + "\n" for name, label in ROWS), "m.json"
    ),
    "Parquet": lambda root: pq.write_table(
        pa.Table.from_pylist([{"file_name": name, "label": label} for name, label in ROWS]), root / "any.parquet"
    ),
    "two splits": lambda root: (
        _write(root, HEADER + BODY[: BODY.index("clip08")], "train.csv")
        and _write(root, HEADER + BODY[BODY.index("clip08") :], "test.csv")
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_dialect_gives_the_same_clips(writer: str, folder: Path) -> None:
    WRITERS[writer](folder)
    index = read_index(folder)
    assert sorted(_pairs(index)) == ROWS and index.reader == "table"
    assert not [item for item in index.excluded if "row" in item.reason]
    assert ("cp1252" in index.description) == ("1252" in writer)


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("gbk", ["哭声", "笑声", "咳嗽"]),
        ("big5", ["憤怒", "高興", "悲傷"]),
        ("cp932", ["怒り", "喜び", "犬"]),
        ("cp1252", ["père", "élève", "niño"]),
        ("cp1250", ["żółw", "źrebię"]),
        ("cp1251", ["собака", "кошка", "Лягушка"]),
        ("cp1253", ["σκύλος", "γάτα"]),
        ("cp866", ["собака", "кошка"]),
        ("cp437", ["Mönchsgrasmücke", "Café"]),
    ],
)
def test_an_encoding_is_recognised_by_its_words(encoding: str, words: list[str]) -> None:
    text = "\n".join(words)
    content = text.encode(encoding)
    assert decode(content, (*DOS, *WINDOWS) if encoding in DOS else WINDOWS)[0] == text


def test_an_encoding_in_doubt_names_the_other() -> None:
    assert decode("\n".join(["고양이", "개", "개구리"]).encode("cp949"))[2] != ""


@pytest.mark.parametrize(
    "path",
    [
        "{stem}",
        "data/{stem}.mp3",
        "DATA/{upper}.WAV",
        "wavs/{stem}.wav",
        "C:\\Users\\me\\corpus\\data\\{stem}.wav",
        ".\\data\\{stem}.wav",
        "/content/drive/MyDrive/data/{stem}.wav",
        "https://example.org/data/{stem}.wav?download=1",
    ],
)
@pytest.mark.parametrize("column", ["file_name", "Aufnahme"])
def test_a_path_is_found_whatever_precedes_the_name_and_whatever_the_column(
    path: str, column: str, tmp_path: Path
) -> None:
    _touch(tmp_path, *(f"data/{name}" for name in FILES))
    rows = "".join(f"{path.format(stem=name[:-4], upper=name[:-4].upper())},{label}\n" for name, label in ROWS)
    _write(tmp_path, f"{column},label\n{rows}")
    assert _pairs(read_index(tmp_path)) == [(f"data/{name}", label) for name, label in ROWS]


@pytest.mark.parametrize("root", ["../corpus", "{absolute}"])
def test_paths_are_relative_to_the_root_option(root: str, folder: Path) -> None:
    table = _write(folder.parent / "lists", HEADER + BODY) / "metadata.csv"
    options = {"root": root.format(absolute=folder)}
    assert _pairs(read_index(table, options=options)) == ROWS or root.startswith("..")
    assert [clip.label for clip in read_index(table, options=options)] == [label for _, label in ROWS]


def test_leading_zeros_that_a_spreadsheet_dropped_are_restored(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"{number:04d}.wav" for number in range(12)))
    _write(tmp_path, "id,label\n" + "".join(f"{number},{LABELS[number % 3]}\n" for number in range(12)))
    index = read_index(tmp_path)
    assert index.clips[3].id == "0003.wav" and "leading zeros" in index.description


def test_a_row_never_takes_a_file_of_another_folder(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"cat/{number}.wav" for number in range(4)), "dog/0.wav")
    _write(tmp_path, HEADER + "".join(f"{word}/{n}.wav,{word}\n" for word in ("cat", "dog") for n in range(4)))
    index = read_index(tmp_path)
    assert [clip.id for clip in index] == ["cat/0.wav", "cat/1.wav", "cat/2.wav", "cat/3.wav", "dog/0.wav"]
    assert "3 rows name files that are missing, such as 'dog/1.wav (row 6)'" in index.description


def test_a_usual_name_wins_only_if_its_values_name_files(folder: Path) -> None:
    _write(folder, "path,take,label\n" + "".join(f"wavs,{name},{label}\n" for name, label in ROWS))
    index = read_index(folder)
    assert _pairs(index) == ROWS and "path 'take'" in index.description


def test_a_table_out_of_step_shows_both_sides_and_the_option(folder: Path) -> None:
    _write(folder, HEADER + "".join(f"sound{n}.mp3,{label}\n" for n, (_, label) in enumerate(ROWS)))
    message = _refused(folder)
    assert "12 paths, such as 'sound0.mp3'" in message and "12 recordings, such as 'clip00.wav'" in message
    assert "(columns: file_name, label): `--set data.reader_options.path=COLUMN`" in message


SITES = [f"site_{'ABC'[number // 4]}/{name}" for number, name in enumerate(FILES)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,Art\n{rows}", "'metadata.csv' has no label column (columns: file, Art). Name it: `--label Art`."),
        ("file,label,x\n{rows}a,b,c,d\n", "line 14, has 4 cells under 3 columns"),
        ("file,a,b\n{flags}", "a column of 0 and 1 for each class"),
        ("file,label\nmissing.wav,x\n", "out of step"),
    ],
)
def test_a_table_beside_folders_that_cannot_be_used_stops_reading(text: str, message: str, tmp_path: Path) -> None:
    _touch(tmp_path, *SITES)
    rows = "".join(f"{name},{LABELS[number % 3]}\n" for number, name in enumerate(SITES))
    flags = "".join(f"{name},{number % 2},{1 - number % 2}\n" for number, name in enumerate(SITES))
    _write(tmp_path, text.format(rows=rows, flags=flags))
    refusal = _refused(tmp_path)
    assert message in refusal and refusal.endswith("Or ignore the table: `--reader folder`.")


def test_a_label_column_is_named_by_the_option(folder: Path) -> None:
    text = "file,site,call\n" + "".join(f"{name},{'ab'[n // 6]},{label}\n" for n, (name, label) in enumerate(ROWS))
    _write(folder, text)
    assert _refused(folder).startswith(
        "'metadata.csv' has no label column (columns: file, site, call). Name it: `--label"
    )
    assert _pairs(read_index(folder, label="call")) == ROWS
    with pytest.raises(UsageError, match="Did you mean 'call'"):
        read_index(folder, label="cal")


def test_a_table_that_names_no_file_is_mentioned_and_ignored(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"{word}/{word}{n}.wav" for word in ("a", "b") for n in range(4)))
    _write(tmp_path, "site,licence\nwood,CC-BY\n", "notes.csv")
    index = read_index(tmp_path)
    assert index.reader == "folder"
    assert "'notes.csv' names no recording and was ignored (columns: site, licence)" in index.description


def test_of_several_tables_the_one_with_labels_is_used_or_one_is_asked_for(folder: Path) -> None:
    _write(folder, HEADER + BODY, "labels.csv")
    _write(folder, "path,level\n" + "".join(f"{name},3\n" for name in FILES), "levels.csv")
    index = read_index(folder)
    assert _pairs(index) == ROWS and "'levels.csv' names recordings and has no labels" in index.description
    _write(folder, "path,label,by\n" + "".join(f"{name},{n % 2},me\n" for n, name in enumerate(FILES)), "levels.csv")
    assert "Choose one: `--set data.reader_options.table=labels.csv`" in _refused(folder)
    assert _pairs(read_index(folder, options={"table": "labels.csv"})) == ROWS


def test_a_table_of_few_recordings_does_not_silence_the_folders(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"{word}/{word}{n}.wav" for word in ("a", "b") for n in range(9)))
    _write(tmp_path, HEADER + "a/a0.wav,x\nb/b0.wav,y\n", "some.csv")
    message = _refused(tmp_path)
    assert "names 2 of 18 recordings" in message and "`--reader table`" in message and "`--reader folder`" in message
    assert len(read_index(tmp_path, "folder")) == 18 and len(read_index(tmp_path, "table")) == 2


def test_numbers_compare_as_numbers_and_text_as_text() -> None:
    assert canonical_numbers(["0", "0.0", "1", "2."]) == {"0": "0", "0.0": "0", "1": "1", "2.": "2"}
    assert canonical_numbers(["0", "0.0", "x"]) == canonical_numbers(["007", "010"]) == {}


def test_labels_that_are_numbers_are_one_class_however_they_are_written(folder: Path) -> None:
    _write(folder, HEADER + "".join(f"{name},{n % 3}{'.0' * (n % 2)}\n" for n, name in enumerate(FILES)))
    index = read_index(folder)
    assert index.labels == ("0", "1", "2") and "0.0 as 0" in index.description


def test_a_line_break_in_a_label_becomes_a_blank(folder: Path) -> None:
    _write(folder, HEADER + BODY.replace("dog", '" dog\n small"'))
    index = read_index(folder)
    assert "dog small" in index.labels and "line breaks or tabs in 4 labels became blanks" in index.description


@pytest.mark.parametrize("labels", ["dog;frog", '"dog,frog"', "\"['dog', 'frog']\"", '"[""dog"", ""frog""]"'])
def test_lists_of_labels_are_refused(labels: str, folder: Path) -> None:
    _write(folder, HEADER + BODY.replace("clip00.wav,Mönchsgrasmücke", f"clip00.wav,{labels}"))
    assert "has lists of labels, such as" in _refused(folder)


def test_a_label_with_a_separator_is_no_list_unless_its_parts_are_labels(folder: Path) -> None:
    _write(folder, HEADER + BODY.replace("dog", '"dog, small"'))
    assert "dog, small" in read_index(folder).labels


def test_rows_that_contradict_each_other_are_all_excluded(folder: Path) -> None:
    _write(folder, f"{HEADER}{BODY}clip01.wav,frog\nclip02.wav,frog\n")
    index = read_index(folder)
    assert _pairs(index) == [row for row in ROWS if row[0] != "clip01.wav"]
    reasons = {item.name: item.reason for item in index.excluded}
    contradiction = "rows contradict each other: the label is 'dog' in row 2, 'frog' in row 13"
    assert reasons["clip01.wav (row 2)"] == reasons["clip01.wav (row 13)"] == contradiction
    assert reasons["clip02.wav (row 14)"] == "repeats row 3"
    assert "2 rows contradict another row of the same clip" in index.description


def test_missing_files_and_unlisted_recordings_are_counted_with_an_example(folder: Path) -> None:
    _write(folder, f"{HEADER}{BODY.replace('clip11', 'gone11')}gone12.wav,dog\n")
    index = read_index(folder)
    assert "2 rows name files that are missing, such as 'gone11.wav (row 12)'" in index.description
    assert "1 recordings are in no row, such as 'clip11.wav'" in index.description
    assert {item.name for item in index.excluded} == {"gone11.wav (row 12)", "gone12.wav (row 13)", "clip11.wav"}


TIMES = [
    ("start,end", "0.5,2.25"),
    ("start,duration", "0.5,1.75"),
    ("offset,duration", "0.5,1.75"),
    ("onset,offset", "0.5,2.25"),
    ("begin_time,stop", "00:00.5,0:02.25"),
    ("start_timestamp,end_timestamp", "00:00:00.500,00:00:02.250"),
    ("Start (s),End (s)", '"0,5","2,25"'),
    ("start_ms,end_ms", "500,2250"),
    ("start_sample,stop_sample", "8000,36000"),
]


@pytest.mark.parametrize(("columns", "cells"), TIMES)
def test_times_are_read_in_every_usual_form(columns: str, cells: str, folder: Path) -> None:
    header = f"path,label,{columns},sample_rate\n"
    _write(folder, header + "".join(f"{name},{label},{cells},16000\n" for name, label in ROWS))
    assert {(clip.start, clip.end) for clip in read_index(folder)} == {(0.5, 2.25)}


def test_samples_need_a_rate(folder: Path) -> None:
    _write(folder, "path,label,start_sample\n" + "".join(f"{name},{label},8000\n" for name, label in ROWS))
    assert "`--set data.reader_options.sample_rate=16000`" in _refused(folder)
    assert read_index(folder, options={"sample_rate": 16000}).clips[0].start == 0.5


def _segments(folder: Path, recordings: int, column: str = "", value: str = "") -> list[Clip]:
    rows = [f"clip{n % recordings:02d}.wav,{LABELS[n % 3]},{n},{n + 1}{value}\n" for n in range(12)]
    _write(folder, f"path,label,start,end{column}\n{''.join(rows)}")
    return list(read_index(folder))


def test_segments_of_several_recordings_are_grouped_by_the_recording(folder: Path) -> None:
    assert {clip.group for clip in _segments(folder, 4)} == {"clip00.wav", "clip01.wav", "clip02.wav", "clip03.wav"}
    index = read_index(folder)
    assert index.group_name == "recording" and "the group is the recording" in index.description


def test_segments_of_one_recording_have_no_group_and_the_note_says_what_that_means(folder: Path) -> None:
    assert {clip.group for clip in _segments(folder, 1)} == {None}
    description = read_index(folder).description
    assert "segments of one recording, 'clip00.wav'" in description and "too high for any other" in description


def test_a_group_column_wins_over_the_recording_unless_it_is_constant(folder: Path) -> None:
    assert {clip.group for clip in _segments(folder, 4, ",source", ",freesound")} > {"clip00.wav"}
    assert "the column 'source' has one value only, so it is no group" in read_index(folder).description


def test_a_part_that_is_neither_train_nor_test_is_said(folder: Path) -> None:
    from auricle.corpus import splits
    from auricle.recipe import Data

    parts = ("train", "train", "train", "test", "test", "test", "train", "train", "train", "extra", "extra", "")
    _write(folder, "path,label,split\n" + "".join(f"{n},{b},{p}\n" for (n, b), p in zip(ROWS, parts, strict=True)))
    split = splits.make(read_index(folder), Data(validation_size=0), [])
    notes = " ".join(split.notes)
    assert "The part 'extra' (2 clips) is neither trained nor tested on" in notes
    assert "1 clips are in no part of the corpus' own split: they are trained on" in notes


def test_a_column_that_is_used_can_be_named_too(folder: Path) -> None:
    lines = (f"{name},{label},s{place % 4},{place % 2}" for place, (name, label) in enumerate(ROWS))
    _write(folder, "file,species,speaker,fold\n" + "\n".join(lines))
    index = read_index(folder, label="species", group="speaker", fold="fold")
    assert [(clip.label, clip.group, clip.fold) for clip in index][1] == ("dog", "s1", "1")
    assert "3 species, 4 speakers, 2 folds" in index.description
    assert {clip.group for clip in read_index(folder, group="file")} == set(FILES)
    assert {clip.group for clip in read_index(folder, group="species")} == set(LABELS)


def test_a_part_of_the_paths_is_no_column_of_a_table_without_labels(folder: Path) -> None:
    _write(folder, "file,kind\n" + "\n".join(f"{name},{label}" for name, label in ROWS))
    with pytest.raises(UsageError, match="--reader folder --label name:1"):
        read_index(folder, label="name:1")


def test_labels_that_are_not_the_folders_are_counted(tmp_path: Path) -> None:
    files = [f"{label}/{number}.wav" for label in ("cat", "dog") for number in range(3)]
    _touch(tmp_path, *files)
    _write(
        tmp_path,
        "file,label\n" + "\n".join(f"{name},{'dog' if place < 4 else 'cat'}" for place, name in enumerate(files)),
    )
    note = "5 labels of the table are not the recording's folder, such as 'cat/0.wav' (dog)"
    assert note in read_index(tmp_path).description


def test_paths_of_two_columns_are_joined_where_names_repeat(tmp_path: Path) -> None:
    for folder in ("s1", "s2"):
        for number in range(3):
            (tmp_path / "wavs" / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / "wavs" / folder / f"{number}.wav").write_bytes(b"")
    rows = "".join(
        f"wavs/{folder},{number}.wav,{word}\n" for folder, word in (("s1", "cat"), ("s2", "dog")) for number in range(3)
    )
    (tmp_path / "metadata.csv").write_text("path,filename,label\n" + rows)
    index = read_index(tmp_path)
    assert {(clip.id, clip.label) for clip in index} == {
        (f"wavs/{folder}/{number}.wav", word) for folder, word in (("s1", "cat"), ("s2", "dog")) for number in range(3)
    }
    assert "paths are made of the columns 'path' and 'filename'" in index.description
