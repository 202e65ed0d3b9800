"""Annotation files as tables: labelled segments of recordings, as Raven, Audacity, BirdNET, Label Studio, ELAN, Kaldi
and other tools write them.

In: a tree. Out: each annotation file as a Table with a column that names the recording, and the names of its columns of
labels, start and end. Files are recognised by their content. A file without a column of recordings belongs to the
recording with its name: X.wav with X.txt, X.Table.1.selections.txt or X.BirdNET.results.csv.
"""

import json
import posixpath
import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from auricle.corpus.tables import Row, Table, as_text, parse_delimited, table_text
from auricle.corpus.tree import Tree, is_audio
from auricle.errors import DataError, UsageError, unknown

RECORDING = "recording"
_LABELS = (
    "species",
    "annotation",
    "annotations",
    "label",
    "labels",
    "type",
    "common name",
    "class",
    "call type",
    "tag",
)
_WORDS_AFTER = re.compile(r"[-_ .](labels?|annotations?|selections?|tags?|events?)$", re.IGNORECASE)
_TIME = re.compile(r"\d+([.,]\d+)?")


@dataclass(frozen=True)
class Annotations:
    """One annotation file: `path`, `label`, `start` and `end` are columns of its table; a label may be unknown."""

    title: str
    name: str
    table: Table
    label: str | None
    start: str | None = "start"
    end: str | None = "end"
    path: str = RECORDING
    group: str | None = None


class OrphanError(Exception):
    """An annotation file that belongs to no recording."""


def collect(
    tree: Tree, names: Iterable[str], tier: str | None, recordings_of: Tree
) -> tuple[list[Annotations], list[str]]:
    """The annotation files among the names of a tree, and those that belong to no recording of another or the same.

    Raises DataError for one that cannot be used, UsageError for an unknown ELAN tier.
    """
    recordings = _Recordings(recordings_of)
    found: list[Annotations] = []
    orphans = []
    for name in names:
        reader = _READERS.get(posixpath.splitext(name)[1].lower())
        if posixpath.basename(name) == "wav.scp":
            found.append(_kaldi(tree, name))
        elif reader is not None:
            try:
                found += reader(tree, name, recordings, tier)
            except OrphanError:
                orphans.append(name)
    return found, orphans


class _Recordings:
    """Finds the recording that an annotation file belongs to, by its name."""

    def __init__(self, tree: Tree) -> None:
        self._names = [name for name in tree.names if is_audio(name)]
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in self._names:
            for key in {posixpath.splitext(name)[0], name}:
                self._by_stem[key.casefold()].append(name)
                if "/" in key:  # the name alone too
                    self._by_stem[posixpath.basename(key).casefold()].append(name)
        self.annotated = sum(
            not is_audio(name) and posixpath.splitext(name)[1].lower() in _READERS for name in tree.names
        )

    def of(self, annotation: str) -> str:
        """The recording; a single one belongs to a single annotation file. Raises OrphanError for none or several."""
        folder, base = posixpath.split(annotation)
        parts = base.casefold().split(".")
        stems = [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
        stems += [_WORDS_AFTER.sub("", stem) for stem in stems]
        for key in (*(posixpath.join(folder.casefold(), stem) for stem in stems), *stems):
            names = list(dict.fromkeys(self._by_stem.get(key, ())))
            if len(names) == 1:
                return names[0]
        if len(self._names) == 1 and self.annotated == 1:
            return self._names[0]
        raise OrphanError(annotation)

    def has_name_of(self, annotation: str) -> bool:
        """Whether a recording has the name of an annotation file, in the same folder."""
        return posixpath.splitext(annotation)[0].casefold() in self._by_stem

    def has(self, path: str) -> bool:
        """Whether a recording has the name at the end of a path."""
        return posixpath.basename(path.replace("\\", "/")).casefold() in self._by_stem


def _normal(column: str) -> str:
    return re.sub(r"[\s_-]+", " ", re.sub(r"[(\[]s(ec(onds)?)?[)\]]", "", column.lower())).strip()


def _first(columns: Iterable[str], names: Sequence[str]) -> str | None:
    by_name = {_normal(column): column for column in reversed(list(columns))}
    return next((by_name[name] for name in names if name in by_name), None)


def _text_file(tree: Tree, name: str, recordings: _Recordings, tier: str | None) -> Iterator[Annotations]:
    """A Raven selection table, Audacity's label track, BirdNET's results, or a table named as its recording."""
    text, notes = table_text(tree, name)
    if "\t" in text and _is_label_track(text):
        rows = [line.split("\t", 2) for line in text.splitlines() if line.strip() and not line.startswith("\\")]
        own = recordings.of(name)
        records = [{RECORDING: own, "start": row[0], "end": row[1], "label": "".join(row[2:])} for row in rows]
        yield Annotations("Audacity label track", name, _table(records, notes), "label")
        return
    header = text.lstrip("\ufeff\r\n ").partition("\n")[0].lower()
    is_timed = re.search(r"begin time|start|onset|offset", header) is not None
    if not is_timed or ("end time" not in header and not re.search(r"\b(end|stop|offset)", header)):
        return
    where = f"'{name}' in '{tree.location}'"
    columns, numbered, more = parse_delimited(text, where)
    rows_of_table = [row for _, row in numbered]
    start, end = _first(columns, ("begin time", "start", "onset")), _first(columns, ("end time", "end", "offset"))
    is_raven = start is not None and "begin time" in _normal(start) and "Selection" in columns
    is_birdnet = start is not None and "Confidence" in columns and _first(columns, ("scientific name",)) is not None
    own_columns = _first(columns, ("begin path", "begin file", "file", "filename", "file name", "path", "file path"))
    if start is None or end is None or not rows_of_table:
        return
    if not (is_raven or is_birdnet) and (own_columns is not None or not recordings.has_name_of(name)):
        return  # a table of several recordings is read by its columns
    records = list(_timed_rows(rows_of_table, start, end, own_columns, where))
    if own_columns is None or not any(recordings.has(row[own_columns]) for row in rows_of_table):
        own, own_columns = recordings.of(name), None
        records = [{**record, RECORDING: own} for record in records]
    names = ("common name", *_LABELS) if is_birdnet else _LABELS
    title = "Raven selection table" if is_raven else "BirdNET results" if is_birdnet else "table for each recording"
    table = _table(records, notes + more)
    yield Annotations(title, name, table, _first(columns, names), start, end, own_columns or RECORDING)


def _timed_rows(rows: Iterable[Row], start: str, end: str, path: str | None, where: str) -> Iterator[dict[str, str]]:
    """Rows with times in their own file: Raven counts across all files, and File Offset has the start in its own."""
    rows = list(rows)
    offset = _first(rows[0], ("file offset",))
    counts_on = path is not None and offset is None and start.lower().startswith("begin time")
    if counts_on and len({row[path or ""] for row in rows}) > 1:
        raise DataError(
            f"{where} has the times of several recordings in one count. Add the measurement 'File Offset (s)' to it in "
            "Raven and save it again."
        )
    for row in rows:
        if offset is not None and row[offset].strip():
            try:
                times = [float(row[column].replace(",", ".")) for column in (offset, start, end)]
            except ValueError:
                yield dict(row)
                continue
            row = {**row, start: f"{times[0]:.9g}", end: f"{times[0] + times[2] - times[1]:.9g}"}
        yield dict(row)


def _is_label_track(text: str) -> bool:
    """Whether each line is a start, an end and a label; a second line may have the lowest and highest frequency."""
    lines = [line.split("\t") for line in text.splitlines() if line.strip() and not line.startswith("\\")]
    return any(len(cells) > 2 and cells[2].strip() for cells in lines) and all(
        len(cells) >= 2 and _TIME.fullmatch(cells[0].strip()) and _TIME.fullmatch(cells[1].strip()) for cells in lines
    )


def _label_studio(tree: Tree, name: str, recordings: _Recordings, tier: str | None) -> Iterator[Annotations]:
    """Label Studio's JSON export: tasks with regions of an audio file, or with a choice for the whole of it."""
    text, notes = table_text(tree, name)
    if not text.lstrip().startswith("["):
        return
    try:
        tasks = json.loads(text)
    except json.JSONDecodeError:
        return  # the table reader reports it where it matters
    tasks = [task for task in tasks if isinstance(task, dict)]
    if not any("data" in task and ("annotations" in task or "completions" in task) for task in tasks):
        return
    records: list[dict[str, str]] = []
    for task in tasks:
        media = [
            str(value)
            for value in task.get("data", {}).values()
            if is_audio(str(value).partition("?")[0]) or ("?d=" in str(value) and is_audio(str(value)))
        ]
        media = media or [str(task.get("file_upload") or "")]
        path = _uploaded(media[0], recordings)
        for annotation in task.get("annotations") or task.get("completions") or ():
            for region in () if annotation.get("was_cancelled") else annotation.get("result", ()):
                value = region.get("value", {})
                labels = value.get("labels") or value.get("choices") or value.get("text") or []
                if labels:
                    label = labels[0] if len(labels) == 1 else labels
                    times = (as_text(value.get("start")), as_text(value.get("end")))
                    records.append({RECORDING: path, "start": times[0], "end": times[1], "label": as_text(label)})
    if not records:
        raise DataError(f"'{name}' in '{tree.location}' is an export of Label Studio without labels. Label it first.")
    yield Annotations("Label Studio export", name, _table(records, notes), "label")


def _uploaded(path: str, recordings: _Recordings) -> str:
    """The path of a task's audio, without what Label Studio adds: '/data/local-files/?d=', a prefix to uploads."""
    path = unquote(path.partition("?d=")[2] or path.partition("?")[0])
    folder, base = posixpath.split(path)
    original = re.sub(r"^[0-9a-f]{8}-", "", base)
    return path if recordings.has(base) or original == base else posixpath.join(folder, original)


def _elan(tree: Tree, name: str, recordings: _Recordings, tier: str | None) -> Iterator[Annotations]:
    """The annotations of one tier of an ELAN file. Raises DataError where there are several and none is named."""
    text, _ = table_text(tree, name)
    where = f"'{name}' in '{tree.location}'"
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError(f"{where} declares XML entities, which ELAN does not write: it is not opened. Export it again.")
    try:
        root = ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))
    except ElementTree.ParseError as error:
        raise DataError(f"{where} is not a readable ELAN file: {error}. Export it again.") from error
    times = {slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in root.iter("TIME_SLOT")}
    spans: dict[str | None, tuple[str | None, str | None]] = {}
    tiers: dict[str, list[tuple[str | None, str]]] = {}
    for level in root.iter("TIER"):
        for item in level.iter():
            if item.tag == "ALIGNABLE_ANNOTATION":
                slots = (item.get("TIME_SLOT_REF1"), item.get("TIME_SLOT_REF2"))
                spans[item.get("ANNOTATION_ID")] = (times.get(slots[0]), times.get(slots[1]))
            if item.tag in ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION"):
                reference = item.get("ANNOTATION_REF") or item.get("ANNOTATION_ID")
                row = (reference, item.findtext("ANNOTATION_VALUE") or "")
                tiers.setdefault(level.get("TIER_ID") or "", []).append(row)
    if tier is not None and tier not in tiers:
        raise UsageError(f"Reader option tier is '{tier}'. " + unknown(f"tier of '{name}'", tier, sorted(tiers)))
    if len(tiers) != 1 and tier is None:
        option = f" Name one: `--set data.reader_options.tier={next(iter(tiers))}`." if tiers else ""
        raise DataError(f"{where} has {len(tiers)} tiers with annotations ({', '.join(sorted(tiers))}).{option}")
    media = [element.get("RELATIVE_MEDIA_URL") or element.get("MEDIA_URL") for element in root.iter("MEDIA_DESCRIPTOR")]
    named = next((path for path in media if path and recordings.has(unquote(path))), None)
    path = posixpath.basename(unquote(named)) if named else recordings.of(name)
    records = []
    for reference, value in tiers[tier if tier is not None else next(iter(tiers))]:
        start, end = spans.get(reference, (None, None))
        if start is not None and end is not None:
            seconds = {"start": f"{int(start) / 1000:.9g}", "end": f"{int(end) / 1000:.9g}"}
            records.append({RECORDING: path, **seconds, "label": value})
    yield Annotations("ELAN annotations", name, _table(records, ()), "label")


def _kaldi(tree: Tree, name: str) -> Annotations:
    """A Kaldi folder: wav.scp, segments, utt2spk, and any file of a value per utterance as a column."""
    folder = posixpath.dirname(name)
    where = f"'{name}' in '{tree.location}'"

    def pairs(file: str) -> dict[str, str]:
        full = posixpath.join(folder, file)
        lines = table_text(tree, full)[0].splitlines() if full in tree.names else []
        return {key: value.strip() for key, _, value in (line.strip().partition(" ") for line in lines) if key}

    files = pairs("wav.scp")
    if piped := next((key for key, value in files.items() if value.endswith("|")), None):
        raise DataError(
            f"{where} runs a command for '{piped}' (a pipe), and commands of a corpus are not run. Write the sound to "
            "files and their paths to wav.scp."
        )
    segments = {key: value.split() for key, value in pairs("segments").items()}
    here = [posixpath.basename(other) for other in tree.names if posixpath.dirname(other) == folder]
    columns = {file: pairs(file) for file in here if file.startswith("utt2") or file == "text"}
    records = []
    for utterance, (recording, *times) in (segments or {key: [key] for key in files}).items():
        start, end = times[:2] if len(times) >= 2 else ("", "")
        if end.startswith("-"):
            end = ""
        values = {column: value.get(utterance, "") for column, value in columns.items()}
        path = files.get(recording, recording)
        records.append({RECORDING: path, "start": start, "end": end, "utterance": utterance, **values})
    labels: list[str] = [column for column in ("utt2lab", "utt2label", "utt2class", "utt2lang") if column in columns]
    texts = set(columns.get("text", {}).values())
    if not labels and texts and 2 * len(texts) <= len(records):
        labels = ["text"]
    group = "utt2spk" if "utt2spk" in columns else None
    only_speakers = not labels and group is not None and set(columns) <= {"utt2spk", "utt2dur", "utt2num_frames"}
    label = "utt2spk" if only_speakers else labels[0] if labels else None
    return Annotations("Kaldi folder", name, _table(records, ()), label, group=None if only_speakers else group)


def _table(records: Sequence[Mapping[str, str]], notes: tuple[str, ...]) -> Table:
    columns = tuple(dict.fromkeys(column for record in records for column in record))
    return Table(columns, tuple({column: record.get(column, "") for column in columns} for record in records), notes)


_READERS: Mapping[str, Callable[[Tree, str, _Recordings, str | None], Iterator[Annotations]]] = {
    ".txt": _text_file,
    ".csv": _text_file,
    ".tsv": _text_file,
    ".json": _label_studio,
    ".eaf": _elan,
}
