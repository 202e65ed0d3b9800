"""What the columns of a table mean: which one holds paths, labels, groups, folds and times, and times in seconds.

In: the columns of a table, and the names that the user gave. Out: a column for each field. Columns are found by their
usual names; the column of paths is the one whose values name files, whatever it is called.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from auricle.corpus.tables import Row
from auricle.errors import DataError, UsageError, unknown

# The usual names, best first; case, blanks and dashes are ignored, and so are units in brackets.
USUAL = {
    "path": "path file_name filename file filepath file_path audio_filepath slice_file_name wav wav_file wav_path "
    "audio audio_path audio_file clip fname recording",
    "label": "label labels class class_name class_label classname category target_name emotion genre sound word "
    "species tag target command choice",
    "group": "group speaker speaker_id spk_id spk actor actor_id fsid client_id artist artist_id singer subject "
    "subject_id patient patient_id user user_id source_id src_file source",
    "fold": "fold split set subset partition",
    "start": "start start_time start_seconds start_s onset begin begin_time offset start_timestamp start_ms onset_ms "
    "begin_ms offset_ms start_sample start_samples begin_sample onset_sample",
    "end": "end end_time end_seconds end_s offset stop stop_time finish end_timestamp stop_timestamp end_ms stop_ms "
    "offset_ms end_sample end_samples stop_sample offset_sample",
    "duration": "duration duration_s duration_seconds dur duration_ms duration_samples",
}
OFF = "none"
_RATES = ("sample_rate", "sampling_rate", "samplerate", "sr", "fs")
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d{1,2}(?:[.,]\d*)?)")


@dataclass(frozen=True)
class Columns:
    """Which column of a table has which field; None where there is none."""

    path: str
    label: str | None
    group: str | None
    fold: str | None
    start: str | None
    end: str | None
    duration: str | None

    @property
    def used(self) -> dict[str, str]:
        return {field: column for field, column in vars(self).items() if column}


def normal(column: str) -> str:
    """A column's name in one spelling: 'Begin Time (s)' is begin_time, 'Start [ms]' is start_ms."""
    name = re.sub(r"[(\[]s(?:ec(?:onds)?)?[)\]]", "", column.strip().lower())
    return re.sub(r"[^\w]+", "_", name).strip("_")


def usual(field: str, columns: Sequence[str], used: Iterable[str | None] = ()) -> list[str]:
    """The columns that have a usual name of a field, best first."""
    by_name = {normal(column): column for column in reversed(columns)}
    used = set(used)
    return [by_name[name] for name in USUAL[field].split() if name in by_name and by_name[name] not in used]


def check(columns: Sequence[str], requested: Mapping[str, str | None]) -> None:
    """Raise UsageError for a column that the table lacks."""
    for field, column in requested.items():
        if column is not None and column != OFF and column not in columns:
            raise UsageError(f"Reader option {field} is '{column}'. " + unknown("column", column, columns))


def choose(columns: Sequence[str], path: str, requested: Mapping[str, str | None]) -> Columns:
    """The column of each field: as requested, else by its usual name."""
    chosen: dict[str, str | None] = {"path": path}
    for field in USUAL:
        if field != "path":
            column = requested.get(field)
            if column is None:
                column = next(iter(usual(field, columns, [*requested.values(), *chosen.values()])), None)
            chosen[field] = None if column == OFF else column
    if chosen["start"] is None and requested.get("end") is None:
        chosen["end"] = chosen["duration"] = None  # alone, these are rarely a position in the file
    if chosen["end"] is not None:
        chosen["duration"] = None
    return Columns(**chosen)  # type: ignore[arg-type]  # path is given


def span(row: Row, columns: Columns, sample_rate: int | None) -> tuple[float | None, float | None]:
    """The start and end of a row in seconds. Raises ValueError, DataError where samples have no rate."""
    start, end = _seconds(row, columns.start, sample_rate), _seconds(row, columns.end, sample_rate)
    duration = _seconds(row, columns.duration, sample_rate)
    if end is None and duration is not None:
        end = round((start or 0.0) + duration, 9)
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"ends at {end:g} s, not after its start at {start or 0.0:g} s")
    return start, end


def _seconds(row: Row, column: str | None, sample_rate: int | None) -> float | None:
    text = row[column].strip() if column else ""
    if column is None or not text:
        return None
    clock = _CLOCK.fullmatch(text)
    try:
        if clock is not None:
            seconds = 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3].replace(",", "."))
        else:
            seconds = float(text.replace(",", ".")) / _per_second(row, column, sample_rate)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"'{text}' in column '{column}' is no time")
    return seconds


def _per_second(row: Row, column: str, sample_rate: int | None) -> float:
    """How many of a column's units are a second, by its name: seconds, milliseconds (ms) or samples."""
    unit = normal(column).split("_")[-1]
    if unit in ("ms", "msec", "milliseconds"):
        return 1000.0
    if unit not in ("sample", "samples"):
        return 1.0
    rate = next((row[name] for name in row if normal(name) in _RATES), None) or sample_rate
    if rate is None:
        raise DataError(
            f"Column '{column}' counts samples, and no column 'sample_rate' says how many are a second. Give the rate: "
            "`--set data.reader_options.sample_rate=16000`."
        )
    return float(rate)
