"""What of a run may be read by strangers: paths of this machine and the names of clips and people are taken out.

In: the report and recipe as plain data, and the corpus' Index. Out: the same data, in which clips are numbered, groups
that name a fold or a slice are numbered too, and of every local path its last part is left.
"""

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auricle.corpus.clip import Index

_POSIX = re.compile(r"(?<![\w.:/<%)-])~?/(?:[^\s/'\"<>|]+/)+([^\s/'\"<>|]*)")
_WINDOWS = re.compile(r"\b[A-Za-z]:[\\/](?:[^\s\\/'\"<>|]+[\\/])*([^\s\\/'\"<>|]*)")
_WHOLE = re.compile(r"(?:file:|~?/|[A-Za-z]:[\\/]).*", re.DOTALL)
_QUOTED = re.compile(r"'([^']+)'")


@dataclass(frozen=True)
class Names:
    """Numbers in the place of names: of clips and files, by id, and of groups."""

    clips: Mapping[str, str]
    groups: Mapping[str, str]


@dataclass(frozen=True)
class Local:
    """What tells a local path from other text: folders of this machine, the longest first; a label never is one."""

    places: tuple[str, ...]
    labels: frozenset[str]


def numbered(index: Index) -> Names:
    """Number the clips and groups of a corpus in its own order."""
    groups = dict.fromkeys(clip.group for clip in index if clip.group is not None)
    excluded = {item.name: f"file {number}" for number, item in enumerate(index.excluded, start=1)}
    clips = {clip.id: f"clip {number}" for number, clip in enumerate(index, start=1)}
    return Names(
        {**excluded, **clips}, {group: f"{index.group_name} {number}" for number, group in enumerate(groups, start=1)}
    )


def without_names(report: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """The report with clips numbered, and groups too where a fold or a slice is named after one."""

    def grouped(name: str) -> str:
        return names.groups.get(name, name)

    folds = {row["name"] for row in report["folds"]}
    # Folds that are called '1', '2' … are no people, even where groups are called so too, unless all folds are groups.
    named = {name: grouped(name) if folds <= set(names.groups) else name for name in folds}
    audit = _unnamed(report["audit"], names)
    audit["leaks"] = [{**row, "fold": named.get(row["fold"], row["fold"])} for row in audit["leaks"]]
    return {
        **_unnamed({key: report[key] for key in report if key != "audit"}, names),
        "folds": [{**row, "name": named[row["name"]]} for row in report["folds"]],
        "curves": {named.get(fold, fold): rows for fold, rows in report["curves"].items()},
        "mistakes": [
            {**row, "id": names.clips.get(row["id"], "a clip"), "fold": named.get(row["fold"], row["fold"])}
            for row in report["mistakes"]
        ],
        "slices": {
            column: [{**row, "name": grouped(row["name"])} for row in rows]
            if {row["name"] for row in rows} <= set(names.groups)
            else rows
            for column, rows in report["slices"].items()
        },
        "audit": audit,
    }


def _unnamed(value: Any, names: Names) -> Any:
    """Plain data in which every text that is a clip's id, or quotes one, has its number."""
    if isinstance(value, str):
        if value in names.clips:
            return names.clips[value]
        return _QUOTED.sub(lambda found: f"'{names.clips.get(found[1], found[1])}'", value)
    if isinstance(value, Mapping):
        return {key: _unnamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_unnamed(inner, names) for inner in value]
    return value


def without_paths(value: Any, local: Local) -> Any:
    """Plain data in which local paths are cut to their last part."""
    if isinstance(value, str):
        return _pathless(value, local)
    if isinstance(value, Mapping):
        return {without_paths(key, local): without_paths(inner, local) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(inner, local) for inner in value]
    return value


def local(run: Path, labels: Iterable[str]) -> Local:
    """The places whose names must not leave this machine: the run, the home, where we stand, where files pass by."""
    found = {str(folder.resolve()) for folder in (run, Path.home(), Path.cwd(), Path(tempfile.gettempdir()))}
    places = sorted((place for place in found if len(place) > 1), key=len, reverse=True)
    return Local(tuple(places), frozenset(labels))


def _pathless(text: str, local: Local) -> str:
    if text in local.labels:
        return text
    if "\n" not in text and _WHOLE.fullmatch(text) and not text.startswith("//"):
        return re.split(r"[\\/]", text.rstrip("\\/"))[-1]
    for place in local.places:
        text = text.replace(f"{place}/", "")
    return _WINDOWS.sub(r"\1", _POSIX.sub(r"\1", text))
