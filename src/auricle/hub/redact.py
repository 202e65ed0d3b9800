"""What of a run may be published: paths of this machine and the names of clips and people are removed.

Clips are numbered, and groups where they name a fold or a slice; local paths are cut to their last part.
"""

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auricle.corpus.clip import Index

_POSIX = re.compile(r"(?<![\w.:/<%)-])~?/(?:[^\s/'\"<>|]+/)+([^\s/'\"<>|]*)")
_WINDOWS = re.compile(r"\b[A-Za-z]:[\\/](?:[^\s\\/'\"<>|]+[\\/])*([^\s\\/'\"<>|]*)")
_WHOLE = re.compile(r"(?:file:|~?/|[A-Za-z]:[\\/]).*", re.DOTALL)
_QUOTED = re.compile(r"'([^']+)'")


@dataclass(frozen=True)
class Pseudonyms:
    """Numbers instead of names: of clips and files, by id, and of groups."""

    clips: Mapping[str, str]
    groups: Mapping[str, str]


@dataclass(frozen=True)
class LocalPaths:
    """What identifies a local path: folders of this machine, the longest first. A label is never one."""

    folders: tuple[str, ...]
    labels: frozenset[str]


def pseudonyms(index: Index) -> Pseudonyms:
    """Number the clips and groups of a corpus in its own order."""
    groups = dict.fromkeys(clip.group for clip in index if clip.group is not None)
    excluded = {item.name: f"file {number}" for number, item in enumerate(index.excluded, start=1)}
    clips = {clip.id: f"clip {number}" for number, clip in enumerate(index, start=1)}
    return Pseudonyms(
        {**excluded, **clips}, {group: f"{index.group_name} {number}" for number, group in enumerate(groups, start=1)}
    )


def without_names(report: Mapping[str, Any], names: Pseudonyms) -> dict[str, Any]:
    """The content of report.json with clips numbered, and groups too where a fold or a slice is named after one."""
    folds = {row["name"] for row in report["folds"]}
    # Folds named '1', '2' … are not people, even where groups have such names too, unless all folds are groups.
    fold_names = {name: names.groups[name] if folds <= set(names.groups) else name for name in folds}

    def fold(name: str) -> str:
        return fold_names.get(name, name)

    audit = _numbered(report["audit"], names)
    audit["leaks"] = [{**row, "fold": fold(row["fold"])} for row in audit["leaks"]]
    return {
        **_numbered({key: report[key] for key in report if key != "audit"}, names),
        "folds": [{**row, "name": fold(row["name"])} for row in report["folds"]],
        "learning_curves": {fold(name): rows for name, rows in report["learning_curves"].items()},
        "misclassified": [
            {**row, "id": names.clips.get(row["id"], "a clip"), "fold": fold(row["fold"])}
            for row in report["misclassified"]
        ],
        "slices": {
            column: [{**row, "name": names.groups[row["name"]]} for row in rows]
            if {row["name"] for row in rows} <= set(names.groups)
            else rows
            for column, rows in report["slices"].items()
        },
        "audit": audit,
    }


def _numbered(value: Any, names: Pseudonyms) -> Any:
    """Plain data in which every text that is a clip's id, or quotes one or a group, has its number."""
    quoted = {**names.groups, **names.clips}

    def number(text: str) -> str:
        if text in names.clips:
            return names.clips[text]
        return _QUOTED.sub(lambda match: f"'{quoted.get(match[1], match[1])}'", text)

    return _map_texts(value, number, change_keys=False)


def without_paths(value: Any, local: LocalPaths) -> Any:
    """Plain data in which local paths are cut to their last part."""
    return _map_texts(value, lambda text: _without_path(text, local), change_keys=True)


def _map_texts(value: Any, change: Callable[[str], str], *, change_keys: bool) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        inner = {key: _map_texts(inner, change, change_keys=change_keys) for key, inner in value.items()}
        return {change(key): value for key, value in inner.items()} if change_keys else inner
    if isinstance(value, list | tuple):
        return [_map_texts(inner, change, change_keys=change_keys) for inner in value]
    return value


def local_paths(run: Path, labels: Iterable[str]) -> LocalPaths:
    """The folders whose paths must not be published: the run, the home, the working and the temporary folder."""
    folders = {str(folder.resolve()) for folder in (run, Path.home(), Path.cwd(), Path(tempfile.gettempdir()))}
    longest_first = sorted((folder for folder in folders if len(folder) > 1), key=len, reverse=True)
    return LocalPaths(tuple(longest_first), frozenset(labels))


def _without_path(text: str, local: LocalPaths) -> str:
    if text in local.labels:
        return text
    if "\n" not in text and _WHOLE.fullmatch(text) and not text.startswith("//"):
        return re.split(r"[\\/]", text.rstrip("\\/"))[-1]
    for folder in local.folders:
        text = text.replace(f"{folder}/", "")
    return _WINDOWS.sub(r"\1", _POSIX.sub(r"\1", text))
