"""The fields that names hold: folder levels and parts of file names, and which of them looks like the class.

In: paths of recordings below the corpus's root. Out: Fields, each with the key that `--label` and `--group` take
(folder:2, name:1, name:1-2, name:1.2), and the one that holds the class. Where two readings are plausible, none is
chosen: the error lists them with the option for each. Sound is not looked at: groups are decided later, by evidence.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from auricle.corpus.readings import KEY, SEPARATORS, Corpus, readings
from auricle.errors import DataError, UsageError

_BORDER = re.compile(r"\d+|[^\W\d_]+")
_NUMBER = re.compile(r"[^\W\d_]{0,2}[\W_]*\d+[^\W\d_]?")
# A few files with another number of parts, or outside the folders, do not hide a field.
COVERAGE, FOLDER_COVERAGE = 0.98, 0.9
MAX_PARTS = 20
_ORDINALS = ("first", "second", "third")
_SPEAKERS = re.compile(
    r"((speaker|spkr?|actor|subject|patient|session|ses|fold|corpus|batch|part|set|disc|cd)[-_ ]?\d*"
    r"|(19|20)\d\d[-_.]?[01]\d([-_.]?[0-3]\d)?)$",
    re.I,
)


@dataclass(frozen=True)
class Field:
    """One value for each file; "" where the file has none."""

    key: str
    description: str
    values: tuple[str, ...]

    @cached_property
    def counts(self) -> Counter[str]:
        """Files of each value; those without a value are not counted."""
        return Counter(value for value in self.values if value)

    @property
    def coverage(self) -> float:
        return self.counts.total() / max(1, len(self.values))

    @property
    def is_folder(self) -> bool:
        return self.key.startswith("folder:")

    @property
    def is_identifier(self) -> bool:
        """Whether the values look like numbered speakers, sessions or takes: most hold a digit."""
        hits = sum(any(letter.isdigit() for letter in value) for value in self.counts)
        return self.is_speaker or hits >= 0.8 * len(self.counts)

    @property
    def is_number(self) -> bool:
        """Whether most values are a number, with two letters at most: 07, s07."""
        return sum(bool(_NUMBER.fullmatch(value)) for value in self.counts) >= 0.8 * len(self.counts)

    @property
    def is_speaker(self) -> bool:
        """Whether most values are a word for a speaker, session or part, with its number, or a date."""
        return sum(bool(_SPEAKERS.match(value)) for value in self.counts) >= 0.8 * len(self.counts)

    def determines(self, other: "Field") -> bool:
        """Whether each value has one value of the other field only."""
        pairs = {(mine, theirs) for mine, theirs in zip(self.values, other.values, strict=True) if mine}
        return len(pairs) == len(self.counts)

    def repeats_across(self, outer: "Field") -> bool:
        """Whether half of the values or more occur under several values of another field."""
        under: dict[str, set[str]] = defaultdict(set)
        for mine, theirs in zip(self.values, outer.values, strict=True):
            if mine:
                under[mine].add(theirs)
        return sum(len(values) > 1 for values in under.values()) >= 0.5 * len(under)


def is_key(text: str) -> bool:
    """Whether a text names a folder level or a part of file names, as `--label` and `--group` take them."""
    return text.startswith(("folder:", "name:"))


def field(names: Sequence[str], key: str) -> Field:
    """The field of a key. Raises UsageError for a malformed key or one that no file has."""
    match = KEY.fullmatch(key)
    if match is None or "0" in (match["folder"], match["name"], match["piece"], match["last"]):
        raise UsageError(
            f"'{key}' is no field of paths. Write folder:1 (the outermost folder), folder:-1 (the file's own), name:1 "
            "(the first part of the file name), name:-1 (the last), name:1-2 (the first two) or name:1.2 (the second "
            "run of letters or digits in the first part)."
        )
    found = _field(_split(names), match)
    if not found.counts:
        known = ", ".join(other.key for other in fields(names))
        raise UsageError(f"No file has '{key}': '{names[0]}' is the first. Fields of this corpus: {known or 'none'}.")
    return found


def level(names: Sequence[str], number: int) -> Field:
    """One folder level, counted from 1 at the root."""
    match = KEY.fullmatch(f"folder:{number}")
    assert match is not None
    return _field(_split(names), match)


def wrapper_folders(names: Sequence[str]) -> tuple[int, set[str]]:
    """How many outer folders hold all recordings but a few strays, and these strays.

    A folder is a wrapper only if it has folders itself, and strays are in none of the same name: of two class folders,
    or train and test, neither wraps the other.
    """
    inside, strays, depth = list(names), set[str](), 0
    while True:
        outer = Counter(name.split("/")[depth] for name in inside if name.count("/") > depth)
        if not outer:
            return depth, strays
        folder, count = outer.most_common(1)[0]
        below = [name for name in inside if name.count("/") > depth + 1 and name.split("/")[depth] == folder]
        outside = {name for name in inside if name.split("/")[depth] != folder or name.count("/") <= depth}
        has_folders = len(below) == count or len(below) >= 0.9 * count
        inner, outer_inner = (
            {name.split("/")[depth + 1] for name in part if name.count("/") > depth + 1} for part in (below, outside)
        )
        if not has_folders or inner & outer_inner or len(outside) > max(1, 0.01 * len(inside)):
            return depth, strays
        strays |= outside
        inside = [name for name in inside if name not in outside]
        depth += 1


def fields(names: Sequence[str], *, whole: bool = False) -> list[Field]:
    """Every folder level and part of the file names that nearly all files have and that is not one value throughout;
    with `whole` only folders and single parts.

    Of fields that divide the files in the same way, the first is kept: folders, parts from the start, from the end,
    beginnings of several parts, pieces of a part.
    """
    paths = _split(names)
    depth = min(MAX_PARTS, max((len(path.folders) for path in paths), default=0))
    counts = {len(path.parts) for path in paths}
    parts = min(MAX_PARTS, max(counts, default=0))
    keys = [f"folder:{level}" for level in range(1, depth + 1)]
    keys += [f"name:{part}" for part in range(1, parts + 1)]
    keys += [f"name:-{part}" for part in range(1, parts)] if len(counts) > 1 else []
    if not whole:
        keys += [f"name:1-{part}" for part in range(2, parts)]
        keys += [f"name:{part}.{piece}" for part in range(1, parts + 1) for piece in range(1, 5)]
    found: dict[tuple[int, ...], Field] = {}
    for key in keys:
        match = KEY.fullmatch(key)
        assert match is not None
        candidate = _field(paths, match)
        allowed = (1 - FOLDER_COVERAGE) * len(paths) if candidate.is_folder else (1 - COVERAGE) * len(paths)
        missing = len(paths) - candidate.counts.total()
        if missing <= (max(1, allowed) if candidate.is_folder else allowed) and len(candidate.counts) > 1:
            division = partition(candidate.values)
            first = found.setdefault(division, candidate)
            if first.is_folder and candidate.is_folder and first.is_identifier and not candidate.is_identifier:
                found[division] = candidate  # batch1/dog, batch2/cat: the words are the names
    return list(found.values())


def group_fields(names: Sequence[str], columns: Mapping[str, Sequence[str]], labels: Sequence[str]) -> list[Field]:
    """The fields of paths and table columns that could say which clips belong together.

    A field that is the label under another name does not count, nor one that holds the label as one of its parts.
    """
    candidates = [
        *fields(names),
        *(Field(f"column:{name}", f"the column '{name}'", tuple(values)) for name, values in columns.items()),
    ]
    label = Field("label", "the class", tuple(labels))
    same = {item.key for item in candidates if item.determines(label) and label.determines(item)}
    found: dict[tuple[int, ...], Field] = {}
    for item in sorted(candidates, key=lambda item: not item.key.startswith("column:")):
        holds_label = any(f"name:{part}" in same for part in range(1, _parts_of(item) + 1)) and item.determines(label)
        several = sum(count for count in item.counts.values() if count > 1) >= 0.3 * len(names)
        if item.key not in same and item.coverage >= 0.5 and len(item.counts) > 1 and several and not holds_label:
            found.setdefault(partition(item.values), item)
    return list(found.values())


def _parts_of(item: Field) -> int:
    """How many parts of the file name a beginning such as name:1-3 joins; 0 for other fields."""
    match = KEY.fullmatch(item.key)
    return int(match["last"]) if match and match["last"] else 0


def partition(values: Iterable[str]) -> tuple[int, ...]:
    """How values divide the files, whatever they are called."""
    number: dict[str, int] = {}
    return tuple(number.setdefault(value, len(number)) for value in values)


@dataclass(frozen=True)
class Classes:
    """The field that holds the class, and why, where there was a choice."""

    field: Field
    reason: str


def find_classes(names: Sequence[str], corpus: Corpus, split_key: str | None = None) -> Classes:
    """The field that holds the class; `split_key` is the folder level of train and test.

    Raises DataError, with a table of the readings, where it is not clear.
    """
    single = fields(names, whole=True)
    folders = [item for item in single if item.is_folder and item.key != split_key]
    levels = [item for item in folders if _could_be_classes(item)]
    words = [level for level in levels if not level.is_identifier]
    parts = _class_parts(single)
    if len(words) > 1:
        inner = next((level for level in reversed(words) if level.repeats_across(_outer(level, words))), None)
        chosen = inner or words[0]
        others = ", ".join(f"`--label {level.key}`" for level in words if level is not chosen)
        reason = ", which repeats across the folders above it" if inner else ""
        return Classes(chosen, f"{chosen.description}{reason}; {others} otherwise")
    if len(words) == 1 and not _hides_batches(words[0], levels):
        return Classes(words[0], "")
    # Numbered folders may be classes or speakers, and words in the file names a note or the classes.
    spoken = [part for part in parts if not part.is_identifier and levels and levels[0].is_number]
    if len(levels) == 1 and not words and not (parts and levels[0].is_speaker) and not spoken:
        others = "".join(f"; `--label {part.key}` otherwise" for part in parts[:1])
        return Classes(levels[0], f"{levels[0].description}{others}" if others else "")
    depths = range(1, 1 + max((name.count("/") for name in names), default=0))
    partial = [
        item
        for depth in depths[:MAX_PARTS]
        if len((item := level(names, depth)).counts) > 1 and item.coverage >= 0.5 and item.key != split_key
    ]
    if not levels and parts and partial:
        levels = partial  # half of the recordings in folders: neither these nor the names are certain
    if not levels and len(parts) == 1:
        return Classes(parts[0], f"{parts[0].description}; there are no class folders")
    if len(folders) == 1 and not parts:
        return Classes(folders[0], "")  # a single clip in most folders is an error of its own
    raise DataError(readings(names, corpus, [*levels, *parts] or _class_pieces(names)))


def _outer(level: Field, levels: Sequence[Field]) -> Field:
    """The level above, or the outermost level itself."""
    return levels[max(0, levels.index(level) - 1)]


def _hides_batches(words: Field, levels: Sequence[Field]) -> bool:
    """Whether each class lies in one numbered folder above it, so that the folders may as well be the classes."""
    above = levels[: levels.index(words)]
    return any(words.determines(level) for level in above)


def _could_be_classes(item: Field) -> bool:
    """Several values, most with several files."""
    several = sum(count > 1 for count in item.counts.values())
    return len(item.counts) > 1 and several >= 0.5 * len(item.counts)


def _class_parts(single: Sequence[Field]) -> list[Field]:
    """The parts of the file names that could be classes: not the counter at their end, not several parts at once."""
    return [item for item in single if not item.is_folder and _could_be_classes(item) and not _is_counter(item, single)]


def _class_pieces(names: Sequence[str]) -> list[Field]:
    """The words in parts of the file names that could be classes, where no whole part could: cat in cat12."""
    pieces = [item for item in fields(names) if "." in item.key]
    return [item for item in pieces if _could_be_classes(item) and not item.is_identifier]


def _is_counter(item: Field, others: Sequence[Field]) -> bool:
    """Whether the last part only numbers the files that folders and other parts do not tell apart: cat_001, dog_001."""
    if item is not others[-1] or not all(value.isdigit() for value in item.counts):
        return False
    return len(set(zip(*(other.values for other in others), strict=True))) == len(item.values)


@dataclass(frozen=True)
class _Path:
    """The folders of a file, and the parts of its name between separators."""

    folders: Sequence[str]
    parts: Sequence[str]


def _split(names: Iterable[str]) -> list[_Path]:
    paths = []
    for name in names:
        *folders, file_name = name.split("/")
        stem = file_name.rpartition(".")[0] or file_name
        paths.append(_Path(folders, [part for part in SEPARATORS.split(stem) if part]))
    return paths


def _field(paths: Iterable[_Path], key: re.Match[str]) -> Field:
    return Field(key[0], _description(key), tuple(_value(path, key) for path in paths))


def _value(path: _Path, key: re.Match[str]) -> str:
    if key["folder"]:
        return _nth(path.folders, int(key["folder"]))
    parts = path.parts
    if key["last"]:
        first, last = int(key["name"]), int(key["last"])
        return "_".join(parts[first - 1 : last]) if len(parts) >= last else ""
    part = _nth(parts, int(key["name"]))
    return _nth(_BORDER.findall(part), int(key["piece"])) if key["piece"] else part


def _nth(values: Sequence[str], number: int) -> str:
    """The number-th value from the start (1, 2, …) or the end (-1, -2, …); "" where there are too few."""
    position = number - 1 if number > 0 else len(values) + number
    return values[position] if 0 <= position < len(values) else ""


def _description(key: re.Match[str]) -> str:
    if key["folder"]:
        level = int(key["folder"])
        return f"the {_ordinal(level)} folder level" if level > 0 else "the file's own folder"
    number = int(key["name"])
    if key["last"]:
        return f"parts {number} to {key['last']} of the file name"
    part = f"the {_ordinal(abs(number))} part of the file name" + (" from its end" if number < 0 else "")
    return f"the {_ordinal(int(key['piece']))} run of letters or digits in {part}" if key["piece"] else part


def _ordinal(number: int) -> str:
    return _ORDINALS[number - 1] if 0 < number <= len(_ORDINALS) else f"{number}th"
