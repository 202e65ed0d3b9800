"""Annotation files of the usual tools are read end to end: into clips with a recording, a start, an end and a label."""

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from auricle import recipes
from auricle.corpus.read import read_index
from auricle.errors import DataError
from auricle.training.progress import ProgressReporter
from auricle.training.run import run
from tests.conftest import PITCHES, RATE, tone

SEGMENTS = {"rec1": [(0.5, 1.5, "wren"), (2.0, 3.25, "owl")], "rec2": [(1.0, 2.0, "owl"), (4.0, 5.0, "wren")]}
EXPECTED = [(f"{name}.wav", *segment) for name, segments in SEGMENTS.items() for segment in segments]


def _write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")


RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tSpecies\n"


def _raven(root: Path, label: str = "Species") -> None:
    for name, segments in SEGMENTS.items():
        rows = [
            f"{n}\t{view} 1\t1\t{a}\t{b}\t100\t900\t{c}\n"
            for n, (a, b, c) in enumerate(segments, 1)
            for view in ("Waveform", "Spectrogram")
        ]
        _write(root, f"{name}.Table.1.selections.txt", RAVEN.replace("Species", label) + "".join(rows))


def _raven_together(root: Path) -> None:
    header = "Selection\tBegin Time (s)\tEnd Time (s)\tBegin File\tFile Offset (s)\tAnnotation\n"
    rows = [f"{n}\t{100 * n + a}\t{100 * n + b}\t{file}\t{a}\t{c}\n" for n, (file, a, b, c) in enumerate(EXPECTED)]
    _write(root, "all.txt", header + "".join(rows))


def _audacity(root: Path) -> None:
    for name, segments in SEGMENTS.items():
        lines = [f"{a:.6f}\t{b:.6f}\t{c}\n\\\t200.000000\t4000.000000\n" for a, b, c in segments]
        _write(root, f"{name}.txt", "".join(lines))


def _birdnet_csv(root: Path) -> None:
    for name, segments in SEGMENTS.items():
        rows = [f"{a},{b},Avis {c},{c},0.91\n" for a, b, c in segments]
        header = "Start (s),End (s),Scientific name,Common name,Confidence\n"
        _write(root, f"{name}.BirdNET.results.csv", header + "".join(rows))


def _birdnet_raven(root: Path) -> None:
    header = (
        "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tCommon Name\t"
        "Species Code\tConfidence\tBegin Path\tFile Offset (s)\n"
    )
    for name, segments in SEGMENTS.items():
        rows = [
            f"{n}\tSpectrogram 1\t1\t{a}\t{b}\t0\t15000\t{c}\tx\t0.9\tC:\\rec\\{name}.wav\t{a}\n"
            for n, (a, b, c) in enumerate(segments, 1)
        ]
        _write(root, f"{name}.BirdNET.selection.table.txt", header + "".join(rows))


def _label_studio(root: Path) -> None:
    tasks = []
    for number, (name, segments) in enumerate(SEGMENTS.items()):
        url = f"/data/upload/1/1a2b3c4d-{name}.wav" if number else f"/data/local-files/?d=sounds/{name}.wav"
        regions = [
            {"type": "labels", "value": {"start": a, "end": b, "channel": 0, "labels": [c]}} for a, b, c in segments
        ]
        tasks.append({"id": number, "data": {"audio": url}, "annotations": [{"id": 1, "result": regions}]})
    tasks[0]["annotations"] += [{"was_cancelled": True, "result": [{"value": {"labels": ["no"]}}]}]
    _write(root, "project-1-at-2024.json", json.dumps(tasks))


ELAN = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" FORMAT="3.0" VERSION="3.0">
<HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
<MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/rec/{name}.wav" MIME_TYPE="audio/x-wav" RELATIVE_MEDIA_URL="./{name}.wav"/>
</HEADER><TIME_ORDER>{slots}</TIME_ORDER>
<TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="species">{annotations}</TIER>{more}
</ANNOTATION_DOCUMENT>"""


def _elan(root: Path, more: str = "") -> None:
    for name, segments in SEGMENTS.items():
        times = [round(1000 * time) for a, b, _ in segments for time in (a, b)]
        slots = "".join(f'<TIME_SLOT TIME_SLOT_ID="ts{n}" TIME_VALUE="{time}"/>' for n, time in enumerate(times))
        annotations = "".join(
            f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{n}" TIME_SLOT_REF1="ts{2 * n}" '
            f'TIME_SLOT_REF2="ts{2 * n + 1}"><ANNOTATION_VALUE>{label}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION>'
            "</ANNOTATION>"
            for n, (_, _, label) in enumerate(segments)
        )
        _write(root, f"{name}.eaf", ELAN.format(name=name, slots=slots, annotations=annotations, more=more))


def _nemo(root: Path) -> None:
    rows = [{"audio_filepath": f"/data/{f}", "offset": a, "duration": b - a, "command": c} for f, a, b, c in EXPECTED]
    _write(root, "train_manifest.json", "".join(json.dumps(row) + "\n" for row in rows))


def _kaldi(root: Path) -> None:
    keys = [f"utt{number}" for number in range(len(EXPECTED))]
    _write(root, "wav.scp", "".join(f"{name} /corpora/{name}.wav\n" for name in SEGMENTS))
    lines = [f"{key} {file[:-4]} {a} {b}\n" for key, (file, a, b, _) in zip(keys, EXPECTED, strict=True)]
    _write(root, "segments", "".join(lines))
    _write(root, "text", "".join(f"{key} {row[3]}\n" for key, row in zip(keys, EXPECTED, strict=True)))


def _one_table_each(root: Path) -> None:
    for name, segments in SEGMENTS.items():
        _write(root, f"{name}.csv", "start,end,label\n" + "".join(f"{a},{b},{c}\n" for a, b, c in segments))


FORMATS: dict[str, Callable[[Path], None]] = {
    "Raven selection table": _raven,
    "Raven, one table": _raven_together,
    "Audacity label track": _audacity,
    "BirdNET results": _birdnet_csv,
    "BirdNET selection table": _birdnet_raven,
    "Label Studio export": _label_studio,
    "ELAN annotations": _elan,
    "NeMo manifest": _nemo,
    "Kaldi folder": _kaldi,
    "table for each recording": _one_table_each,
}


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    for name in SEGMENTS:
        _write(tmp_path / "corpus", f"{name}.wav", "")
    return tmp_path / "corpus"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_is_read_into_segments(kind: str, sounds: Path) -> None:
    FORMATS[kind](sounds)
    index = read_index(sounds)
    rows = [(os.path.basename(clip.source), clip.start, clip.end, clip.label) for clip in index]
    assert sorted(rows) == EXPECTED
    assert {clip.group for clip in index} == {"rec1.wav", "rec2.wav"} and index.group_name == "recording"
    assert kind.split(",")[0] in index.description or kind in ("NeMo manifest", "BirdNET selection table")
    assert not [item for item in index.excluded if "no row" in item.reason]


@pytest.mark.parametrize("label", ["Annotation", "Label", "Type", "Common Name", "Class"])
def test_raven_labels_are_found_by_their_usual_names(label: str, sounds: Path) -> None:
    _raven(sounds, label)
    assert read_index(sounds).labels == ("owl", "wren")


def test_a_raven_table_without_a_usual_name_asks_for_the_label(sounds: Path) -> None:
    _raven(sounds, "Song")
    with pytest.raises(DataError, match=r"no label column \(columns: .*Song.*`--label Song`"):
        read_index(sounds)
    assert read_index(sounds, label="Song").labels == ("owl", "wren")


def test_times_over_several_files_need_the_offset_in_each(sounds: Path) -> None:
    rows = [f"{n}\t{10 * n}\t{10 * n + 1}\t{file}\t{c}\n" for n, (file, _, _, c) in enumerate(EXPECTED)]
    _write(sounds, "all.txt", "Selection\tBegin Time (s)\tEnd Time (s)\tBegin File\tSpecies\n" + "".join(rows))
    with pytest.raises(DataError, match=r"'File Offset \(s\)'"):
        read_index(sounds)


def test_a_second_elan_tier_needs_a_choice(sounds: Path) -> None:
    note = '<ANNOTATION><REF_ANNOTATION ANNOTATION_ID="r" ANNOTATION_REF="a0"><ANNOTATION_VALUE>x</ANNOTATION_VALUE>'
    _elan(sounds, f'<TIER TIER_ID="notes">{note}</REF_ANNOTATION></ANNOTATION></TIER>')
    with pytest.raises(DataError, match=r"2 tiers with annotations \(notes, species\).*reader_options\.tier=species"):
        read_index(sounds)
    assert len(read_index(sounds, options={"tier": "species"})) == 4


def test_an_elan_file_with_entities_is_not_opened(sounds: Path) -> None:
    _elan(sounds)
    path = sounds / "rec1.eaf"
    path.write_text(
        path.read_text().replace("<ANNOTATION_DOCUMENT", '<!DOCTYPE a [<!ENTITY e "x">]>\n<ANNOTATION_DOCUMENT')
    )
    with pytest.raises(DataError, match="declares XML entities"):
        read_index(sounds)


def test_a_kaldi_pipe_is_refused(sounds: Path) -> None:
    _kaldi(sounds)
    _write(sounds, "wav.scp", "rec1 sph2pipe -f wav rec1.sph |\n")
    with pytest.raises(DataError, match="commands of a corpus are not run"):
        read_index(sounds)


def test_transcripts_next_to_recordings_are_no_annotations(tmp_path: Path) -> None:
    for word in ("yes", "no"):
        for number in range(3):
            _write(tmp_path, f"{word}/{number}.wav", "")
            _write(tmp_path, f"{word}/{number}.txt", f"he said {word} to {number}")
    assert read_index(tmp_path).reader == "folder"


def test_annotations_of_no_recording_are_named(sounds: Path) -> None:
    _audacity(sounds)
    _write(sounds, "lost.txt", "0.0\t1.0\towl\n")
    assert "'lost.txt' belongs to no recording by its name" in read_index(sounds).description


def test_a_table_and_annotations_that_both_label_need_a_choice(sounds: Path) -> None:
    _audacity(sounds)
    _write(sounds, "metadata.csv", "file_name,label\nrec1.wav,wood\nrec2.wav,field\n")
    with pytest.raises(DataError, match=r"table=metadata.csv`, or `--set data.reader_options.table=annotations`"):
        read_index(sounds)
    assert read_index(sounds, options={"table": "metadata.csv"}).labels == ("field", "wood")
    assert read_index(sounds, options={"table": "annotations"}).labels == ("owl", "wren")


def test_shards_are_read_by_key(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "set" / f"{shard:06d}.tar", "w") as packed:
            for key in ("a.wav", "a.cls", "a.txt", "b.wav", "b.cls", "b.txt"):
                path = tmp_path / key
                path.write_text({"cls": f"{key[0] == 'b':d}", "txt": "words"}.get(key[2:], ""))
                packed.add(path, key)
    index = read_index(tmp_path / "set")
    assert [(clip.id, clip.label) for clip in index] == [
        ("000000/a", "0"),
        ("000000/b", "1"),
        ("000001/a", "0"),
        ("000001/b", "1"),
    ]
    assert index.clips[0].meta == {"txt": "words"}


def test_one_long_recording_with_a_label_track_trains(tmp_path: Path) -> None:
    sound = np.concatenate([tone(label, 0.5, seed) for seed in range(8) for label in PITCHES])
    (tmp_path / "corpus").mkdir()
    soundfile.write(tmp_path / "corpus" / "field.wav", sound, RATE)
    lines = [f"{0.5 * n}\t{0.5 * n + 0.5}\t{list(PITCHES)[n % 3]}\n" for n in range(24)]
    _write(tmp_path / "corpus", "Label Track.txt", "".join(lines))
    run(tmp_path / "corpus", recipes.load("baseline"), tmp_path / "run", ProgressReporter())
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert "segments of one recording, 'field.wav'" in json.dumps(report)
