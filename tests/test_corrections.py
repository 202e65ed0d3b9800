"""Corrections in a CSV file: what they change, which files are refused, and that training uses the result."""

import json
from pathlib import Path

import pytest

from auricle import recipes
from auricle.cli.main import main
from auricle.corpus import corrections
from auricle.corpus.clip import Clip, Index
from auricle.corpus.corrections import Correction
from auricle.corpus.read import read_index
from auricle.errors import DataError
from auricle.preparation.prepare import read

HEADER = "id,label,was,comment\n"


def index(**labels: str) -> Index:
    clips = tuple(Clip(id, f"/nowhere/{id}", label) for id, label in labels.items())
    return Index(clips, "folder", "corpus", "Class folders")


PETS = index(a="dog", b="dog", c="cat", d="hen")


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "corrections.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def labels_after(path: Path, corpus: Index = PETS) -> dict[str, str]:
    return {clip.id: clip.label for clip in corrections.apply(corpus, path)[0]}


def refusal(path: Path, corpus: Index = PETS) -> str:
    with pytest.raises(DataError) as caught:
        corrections.apply(corpus, path)
    return str(caught.value)


def test_labels_change_and_clips_are_excluded_with_the_reason(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + 'a,cat,dog,"it meows, twice"\nb,,dog,only wind\n')
    found, summary = corrections.apply(PETS, path)
    assert {clip.id: clip.label for clip in found} == {"a": "cat", "c": "cat", "d": "hen"}
    assert summary.description == "corrections.csv changed 1 label and excluded 1 clip"
    assert [(item.name, item.reason) for item in found.excluded] == [("b", "excluded by corrections.csv")]
    assert PETS.clips[0].label == "dog"


def test_a_label_may_be_new(tmp_path: Path) -> None:
    assert labels_after(written(tmp_path, HEADER + "a,wölf,dog,\n"))["a"] == "wölf"


def test_a_header_alone_changes_nothing(tmp_path: Path) -> None:
    found, summary = corrections.apply(PETS, written(tmp_path, HEADER))
    assert found == PETS and (summary.changed, summary.excluded) == (0, 0)


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffid;label;was;comment\r\na;cat;dog;\r\n\r\n",
        "id\tlabel\twas\tcomment\na\tcat\tdog\tyes, it is\n",
        "comment,was,id,label\n,dog,a,cat",
        "id,label,was\na, cat ,dog \n",
    ],
    ids=["spreadsheet", "tabs", "other order", "blanks and no comment"],
)
def test_what_programs_save_is_read(tmp_path: Path, content: str) -> None:
    assert labels_after(written(tmp_path, content)) == {"a": "cat", "b": "dog", "c": "cat", "d": "hen"}


def test_accents_are_one_letter_however_they_are_composed(tmp_path: Path) -> None:
    corpus = index(a="h\u00e9ron", b="dog", c="dog")
    assert labels_after(written(tmp_path, HEADER + "a,gre\u0301be,he\u0301ron,\n"), corpus)["a"] == "gr\u00e9be"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + "x,cat,dog,\n", "lists 'x', and 'corpus' has no such clip (its first is 'a')"),
        (HEADER + "a,hen,cat,\n", "has the label 'cat' for 'a' in its column 'was', and in 'corpus' it is 'dog'"),
        (HEADER + "a,hen,dog,\na,cat,dog,\n", "two rows for the clip 'a'"),
        (HEADER + "a,hen,dog,\n,hen,,\n", "line 3, has an empty id"),
        (HEADER + "a,hen,dog,well, well\n", "line 2, has 5 cells under 4 columns"),
        ("clip,label\na,hen\n", "lacks the columns 'id', 'was' (columns: 'clip', 'label')"),
        ("", "lacks the columns 'id', 'label', 'was' (columns: none)"),
        (b"id,label,was\na,h\xe9ron,dog\n", "is not UTF-8"),
        (HEADER + "c,dog,cat,\nd,dog,hen,\n", "leaves one class, 'dog'"),
        (HEADER + "a,,dog,\nb,,dog,\nc,,cat,\nd,,hen,\n", "leaves no clip"),
    ],
)
def test_a_file_of_another_corpus_is_refused_with_the_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert message in refusal(written(tmp_path, content))


def test_a_missing_file_is_refused_with_what_it_should_be(tmp_path: Path) -> None:
    assert "id, label, was, comment, as `auricle listen` writes it" in refusal(tmp_path / "none.csv")


def test_what_is_written_is_read_back_whatever_it_holds(tmp_path: Path) -> None:
    rows = (
        Correction("a, b;c/ä\u0308 .wav", "new\nline", 'sa"id', "it's; so"),
        Correction(" b.wav ", "", "=1+1", ""),
    )
    corrections.write(tmp_path / "corrections.csv", rows)
    assert corrections.read(tmp_path / "corrections.csv") == rows
    assert [path.name for path in tmp_path.iterdir()] == ["corrections.csv"]


def test_the_recipe_names_corrections_and_the_index_describes_them(corpus: Path, tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "low/device0_000.wav,high,low,\n")
    recipe = recipes.load("baseline", [f"data.corrections={path}"])
    found = read(corpus, recipe)
    assert {clip.id: clip.label for clip in found}["low/device0_000.wav"] == "high"
    assert (
        found.description == read_index(corpus).description + "; corrections.csv changed 1 label and excluded 0 clips"
    )


def test_inspect_reports_corrections(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, HEADER + "low/device0_000.wav,,low,a door\n")
    assert main(["inspect", str(corpus), "--corrections", str(path)]) == 0
    said = capsys.readouterr().out
    assert "corrections.csv changed 0 labels and excluded 1 clip" in said
    assert "excluded by corrections.csv" in said and "23 of 23 clips usable" in said


def test_training_uses_the_corrected_labels(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every low sound is renamed: the class that the model knows, and answers with, is the new one."""
    clips = read_index(corpus).clips
    rows = [Correction(clip.id, "hum", "low") for clip in clips if clip.label == "low"]
    rows.append(Correction("noise/device1_001.wav", "", "noise", "not noise"))
    corrections.write(tmp_path / "right.csv", rows)
    run = tmp_path / "run"
    command = ["train", str(corpus), "--recipe", "baseline", "--out", str(run), "--json"]
    assert main([*command, "--corrections", str(tmp_path / "right.csv")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["labels"] == ["high", "hum", "noise"]
    assert report["audit"]["classes"] == {"high": 8, "hum": 8, "noise": 7}
    assert report["recipe"]["data"]["corrections"] == str(tmp_path / "right.csv")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "right.csv changed 8 labels and excluded 1 clip" in page and "excluded by right.csv" in page
    assert main(["predict", str(run), str(corpus / "low"), "--json"]) == 0
    answers = [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()]
    assert answers == ["hum"] * 8


def test_columns_of_the_users_own_blank_rows_and_links_survive_a_mark(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("id,label,was,comment,reviewer\na,cat,dog,x,Anna\n,,,,\n", encoding="utf-8")
    link = tmp_path / "corrections.csv"
    link.symlink_to(own)
    found = list(corrections.read(link))
    corrections.write(link, [*found, corrections.Correction("b", "", "dog", "noise")])
    assert link.is_symlink() and own.read_text(encoding="utf-8").splitlines() == [
        "id,label,was,comment,reviewer",
        "a,cat,dog,x,Anna",
        "b,,dog,noise,",
    ]


def test_a_comment_stays_in_its_file(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "a,,dog,the neighbour says something private\n")
    corrected, _ = corrections.apply(PETS, path)
    assert [clip.reason for clip in corrected.excluded if clip.name == "a"] == [f"excluded by {path.name}"]
