"""What the readers share: which files of a tree are recordings, names matched by a pattern, usual words for splits.

In: a Tree. Out: its recordings, with the match of a pattern where one is given, and everything else as Excluded, with
the reason.
"""

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from auricle.corpus import structure
from auricle.corpus.archive import is_archive
from auricle.corpus.clip import Excluded
from auricle.corpus.tree import Tree, is_audio, printable

_FOLDS = {
    "train": "train training tr",
    "valid": "valid validation val dev development",
    "test": "test testing tst eval evaluation",
}
_FOLD_OF_WORD = {word: fold for fold, words in _FOLDS.items() for word in words.split()}
NOT_UTF8 = "its name is not UTF-8. Rename it: `convmv -r -f latin1 -t utf8 --notest FOLDER`"
_FOLD_PREFIX = re.compile(
    r"(training|train|testing|test|validation|valid|val|dev|eval)(?=[\d_\-. ]|new|set|data|$)", re.I
)
_FOLD_NUMBER = re.compile(r"(cv|k?fold|split)[-_ ]?\d+", re.I)
_UNCOMPRESSED_FIRST = {".wav": 0, ".flac": 1}


def official_fold(word: str) -> str | None:
    """ "train", "valid" or "test" for the words that corpora use for them, else None."""
    return _FOLD_OF_WORD.get(word.strip().lower())


def split_folder(name: str) -> str | None:
    """As `official_fold`, also for folders such as testnew, train_set or dev-clean."""
    if fold := official_fold(name):
        return fold
    match = _FOLD_PREFIX.match(name)
    return official_fold(match[1]) if match else None


def audio_files(tree: Tree) -> tuple[list[str], list[Excluded]]:
    """The recordings of a tree, and its other files, one entry per file extension."""
    others = Counter(_suffix(name) for name in tree.names if not is_audio(name))
    first = {_suffix(name): name for name in reversed(tree.names)}
    excluded = []
    for suffix, count in sorted(others.items()):
        more = f" and {count - 1} more '{suffix}'" if count > 1 else ""
        excluded.append(Excluded(first[suffix] + more, "not a recording, by its name"))
    excluded += [Excluded(name, reason) for name, reason in tree.missing]
    names = [name for name in tree.names if is_audio(name)]
    # Ids, tables and reports are UTF-8: such a recording could be read, but not named in any of them.
    above = tree.location + tree.prefix
    unnamed = {name for name in names if printable(name) != name} if printable(above) == above else set(names)
    excluded += [Excluded(printable(name), NOT_UTF8) for name in sorted(unnamed)]
    return [name for name in names if name not in unnamed], excluded


def unopened(tree: Tree) -> list[str]:
    """What to say of files that may hold a part of the corpus and are not opened: archives inside, and spreadsheets."""
    notes = []
    archives = [name for name in tree.names if is_archive(name) or _suffix(name) in (".rar", ".7z")]
    if archives:
        inside = " inside an archive" if tree.is_archive else ""
        one = len(archives) == 1
        give = (
            f", or give it alone: `{tree.source(archives[0])}`" if one and tree.is_folder and tree.prefix == "" else ""
        )
        notes.append(
            f"{len(archives)} archive{' is' if one else 's are'} not opened{inside}, such as '{archives[0]}': unpack "
            f"{'it' if one else 'them'} first{give}"
        )
    sheets = [name for name in tree.names if _suffix(name) in (".xlsx", ".xls", ".ods", ".numbers")]
    notes += [f"'{name}' is a spreadsheet, which is not read: save it as CSV" for name in sheets[:3]]
    return notes


def unused_folds(paths: Sequence[str], columns: Mapping[str, Sequence[str]], labels: Sequence[str]) -> list[str]:
    """What to say of folders and columns that may be a split and are not used: fold1, fold2; train, test; is_test."""
    numbered = any(_FOLD_NUMBER.fullmatch(folder) for path in paths[:1] for folder in path.split("/")[:-1])
    fields = structure.fields(paths, whole=True) if numbered else []
    levels = [item for item in fields if item.is_folder and item.values != tuple(labels)]
    notes = [
        f"the folders '{min(item.counts)}' … may be folds and are not used; `--set data.fold={item.key}` uses them"
        for item in levels
        if all(_FOLD_NUMBER.fullmatch(value) for value in item.counts)
    ]
    for column, cells in columns.items():
        values = set(cells) - {""}
        folds = {official_fold(value) for value in values}
        if not 1 < len(values) <= 5:
            continue
        if None not in folds and "train" in folds:
            notes.append(f"the column '{column}' may be a split and is not used; `--set data.fold={column}` uses it")
        elif official_fold(column.lower().removeprefix("is_").removeprefix("is")):
            listed = ", ".join(sorted(values))
            notes.append(
                f"the column '{column}' ({listed}) may be a split and is not used; write train and test to a column "
                "'split'"
            )
    return notes


def drop_copies(names: Iterable[str]) -> tuple[list[str], list[Excluded]]:
    """Each file name once, whatever its folder and extension: corpora ship copies as MP3 or in a second folder.

    An uncompressed copy wins over a compressed one, then the first by name.
    """
    unique: dict[str, str] = {}
    excluded = []
    for name in sorted(names, key=lambda name: (_UNCOMPRESSED_FIRST.get(_suffix(name), 2), name)):
        first = unique.setdefault(posixpath.splitext(posixpath.basename(name))[0], name)
        if first != name:
            excluded.append(Excluded(name, f"the same clip as '{first}'"))
    return sorted(unique.values()), excluded


def names_match(tree: Tree, pattern: re.Pattern[str]) -> bool:
    """Whether a pattern, searched in the path, matches nine in ten of the recordings, and at least two."""
    names = [name for name in tree.names if is_audio(name)]
    hits = sum(pattern.search(name) is not None for name in names)
    return hits >= 2 and hits >= 0.9 * len(names)


def match_names(
    tree: Tree, pattern: re.Pattern[str], expected: str, *, copies: bool = False
) -> tuple[list[tuple[str, re.Match[str]]], list[Excluded]]:
    """The recordings that a pattern matches, with the match, and what is excluded, with the reason.

    `expected` completes "no …": "EmoDB name, such as 03a01Fa.wav". `copies` allows a name in several folders.
    """
    names, excluded = audio_files(tree)
    if not copies:
        names, repeated = drop_copies(names)
        excluded += repeated
    matches = []
    for name in names:
        if match := pattern.search(name):
            matches.append((name, match))
        else:
            excluded.append(Excluded(name, f"no {expected}"))
    return matches, excluded


def find_file(tree: Tree, *file_names: str) -> str | None:
    """The first file of a tree with one of some names, in whatever folder."""
    return next((name for name in tree.names if posixpath.basename(name) in file_names), None)


def sessions_by_speaker(pairs: Iterable[tuple[str, str]]) -> Mapping[str, set[str]]:
    """The sessions of each speaker, from (speaker, session) of every clip."""
    sessions: dict[str, set[str]] = defaultdict(set)
    for speaker, session in pairs:
        sessions[speaker].add(session)
    return sessions


def single_session_note(sessions: Mapping[str, set[str]], kind: str) -> str:
    """How many speakers have one session only, which a split must divide; empty for none."""
    single = sum(len(rows) == 1 for rows in sessions.values())
    if not single:
        return ""
    return f"{single} of {len(sessions)} speakers have one {kind} only, so a split may divide its utterances"


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()
