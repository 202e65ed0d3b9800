"""Which recordings the values of a column name: full or relative paths, names or stems, with any extension.

In: a tree, the folder of the table in it, and a column's values. Out: the recording of each value that names exactly
one. Exact paths come first; only where no value is one are endings compared, longest first, so that a table that is in
step with its folders never takes a file of another folder. Nothing in an archive leads out of it.
"""

import ntpath
import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from auricle.corpus.remote import is_remote
from auricle.corpus.tree import AUDIO_SUFFIXES, Tree, is_audio

_MOST_PARTS = 5


@dataclass(frozen=True)
class Matches:
    """The id and source of each value that names a file, the values that name several, and how they were compared."""

    files: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    ambiguous: frozenset[str] = frozenset()
    note: str = ""


class Matcher:
    """Compares values with the files of one tree. `base` is the table's folder in it."""

    def __init__(self, tree: Tree, base: str = "") -> None:
        self._tree, self._base = tree, base
        self._names = {_composed(name): name for name in tree.names}
        above = _composed(f"{tree.location}/{tree.prefix}").split("/")
        self._parts = {name: (*above, *_composed(name).split("/")) for name in tree.names if is_audio(name)}
        self._by_ending: dict[int, Mapping[tuple[str, ...], list[str]]] = {}

    def match(self, values: Iterable[str]) -> Matches:
        """The files that values name."""
        distinct = [value for value in dict.fromkeys(values) if value]
        absolute = [os.path.dirname(value) for value in distinct if os.path.isabs(value)]
        shared = os.path.commonpath(absolute) if absolute else ""
        exact = {value: file for value in distinct if (file := self._exact(value, shared))}
        used = {name for name, _ in exact.values()}
        whole = {name: parts[-len(name.split("/")) :] for name, parts in self._parts.items()}
        rest = [value for value in distinct if value not in exact]
        loose = _unique(rest, _keyed(whole), lambda value: _joined(self._base, value), used)
        loose |= _unique([value for value in rest if value not in loose], _keyed(whole), _parts_of, used)
        if exact or any(loose.values()):
            note = "names differ in case or extension" if any(loose.values()) else ""
            return self._matches(exact, loose, note)
        longest = max((len(_parts_of(value)) for value in distinct), default=0)
        ambiguous: frozenset[str] = frozenset()
        for count in range(min(longest, _MOST_PARTS), 0, -1):
            endings = _unique(distinct, self._endings(count), lambda value: _parts_of(value)[-count:], set())  # noqa: B023
            if any(endings.values()):
                parts = "names without their folders" if count == 1 else f"the last {count} parts of paths"
                return self._matches({}, endings, f"{parts} are compared")
            ambiguous = frozenset(endings)
        padded = self._padded(distinct)
        if padded:
            return self._matches({}, padded, "numbers in the table lack the leading zeros of the file names")
        return Matches(ambiguous=ambiguous)

    def _matches(self, exact: Mapping[str, tuple[str, str]], loose: Mapping[str, str | None], note: str) -> Matches:
        files = dict(exact) | {value: (name, self._tree.source(name)) for value, name in loose.items() if name}
        return Matches(files, frozenset(value for value, name in loose.items() if name is None), note)

    def _exact(self, value: str, shared: str) -> tuple[str, str] | None:
        """A file of the tree by its path from the table, from the root or on disk; or one on disk outside."""
        path = _slashes(value)
        if not self._parts and is_audio(path) and (named := self._remote(value, path)) is not None:
            return named
        for candidate in (posixpath.join(self._base, path), path):
            name = self._names.get(_composed(posixpath.normpath(candidate)))
            if name is not None:
                return name, self._tree.source(name)
        joined = posixpath.join(self._base, path)
        is_outside = os.path.isabs(joined) or ".." in joined or len(self._tree.names) == 1
        if not self._tree.is_folder or not is_outside or ntpath.splitdrive(path)[0]:
            return None
        full = os.path.normpath(os.path.join(self._tree.root, self._base, path))
        if "\0" in full or not os.path.isfile(full):
            return None
        inside = self._names.get(_composed(os.path.relpath(full, self._tree.root)))
        if inside is not None:
            return inside, self._tree.source(inside)
        # An absolute path without what all of them share, so that an id does not reveal the corpus's location.
        return os.path.relpath(path, shared) if os.path.isabs(path) else posixpath.normpath(path), full

    def _remote(self, value: str, path: str) -> tuple[str, str] | None:
        """What a table names that lists recordings elsewhere: by URLs, or relative to its own, where nothing is listed.

        Whether they are there shows when they are read.
        """
        if is_remote(value.strip()):
            return path, value.strip()
        if self._tree.scheme != "remote" or len(self._tree.names) > 1 or posixpath.isabs(path):
            return None
        name = posixpath.normpath(posixpath.join(self._base, path))
        return (name, self._tree.source(name)) if not name.startswith("..") else None

    def _endings(self, count: int) -> Mapping[tuple[str, ...], list[str]]:
        if count not in self._by_ending:
            self._by_ending[count] = _keyed({name: parts[-count:] for name, parts in self._parts.items()})
        return self._by_ending[count]

    def _padded(self, values: Sequence[str]) -> dict[str, str | None]:
        stems = [posixpath.splitext(parts[-1])[0] for parts in self._parts.values()]
        widths = {len(stem) for stem in stems}
        if len(widths) != 1 or not all(text.isdecimal() for text in (*stems, *values)):
            return {}
        width = widths.pop()
        return _unique(values, self._endings(1), lambda value: (value.zfill(width),), set())


def _keyed(parts: Mapping[str, Sequence[str]]) -> Mapping[tuple[str, ...], list[str]]:
    """Names by their last parts, without case, with and without the extension."""
    keyed = defaultdict(list)
    for name, ending in parts.items():
        for key in _keys(ending):
            keyed[key].append(name)
    return keyed


def _unique(
    values: Iterable[str],
    keyed: Mapping[tuple[str, ...], list[str]],
    parts_of: Callable[[str], Sequence[str]],
    used: set[str],
) -> dict[str, str | None]:
    """The one name that each value leads to; None where it is several, or several values lead to one name."""
    hits: dict[str, str | None] = {}
    values_of = defaultdict(list)
    for value in values:
        names = next((keyed[key] for key in _keys(parts_of(value)) if key in keyed), [])
        if names and not (len(names) == 1 and names[0] in used):
            hits[value] = names[0] if len(names) == 1 else None
            values_of[names[0]].append(value)
    for several in values_of.values():
        if len(several) > 1:
            hits |= dict.fromkeys(several)
    return hits


def _keys(parts: Sequence[str]) -> Iterable[tuple[str, ...]]:
    folded = tuple(part.casefold() for part in parts)
    if folded:
        yield folded
        stem, suffix = posixpath.splitext(folded[-1])
        if suffix in AUDIO_SUFFIXES:
            yield (*folded[:-1], stem)


def _joined(base: str, value: str) -> Sequence[str]:
    return _composed(posixpath.normpath(posixpath.join(base, _slashes(value)))).split("/")


def _parts_of(value: str) -> Sequence[str]:
    return [part for part in _composed(posixpath.normpath(_slashes(value))).split("/") if part not in ("", ".", "..")]


def _slashes(value: str) -> str:
    """The path that a value is, be it written on Windows or as a URL."""
    if "://" in value:
        value = unquote(value.partition("://")[2].partition("?")[0])
    return value.strip().replace("\\", "/")


def _composed(name: str) -> str:
    """One spelling for accented names: file systems and tables differ in how they compose them."""
    return unicodedata.normalize("NFC", name)
