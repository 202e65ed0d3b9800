"""The store of enrolled voices: one SQLite file.

In: vectors of clips, under a name. Out: voices, and the cohort that their scores are normalised by. Each call that
writes is one transaction, on disk when it returns: a writer that is killed loses nothing that it was told is kept, and
leaves no half voice. Readers work meanwhile. Of recordings it keeps file names and hashes, neither paths nor sound.
"""

import contextlib
import os
import sqlite3
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auricle.errors import DataError, RunError, UsageError
from auricle.voices import score_norm
from auricle.voices.score_norm import Cohort

# "AURV": what tells our files from other SQLite files.
APPLICATION = 0x41555256
VERSION = 1
WAIT_SECONDS = 30.0
LONGEST_NAME = 200
FALSE_ACCEPT = 0.01
NOBODY = "unknown"

_SCHEMA = (
    "CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE voices (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    "CREATE TABLE clips (id INTEGER PRIMARY KEY, voice INTEGER NOT NULL REFERENCES voices ON DELETE CASCADE, "
    "file TEXT NOT NULL, content TEXT NOT NULL, seconds REAL NOT NULL, vector BLOB NOT NULL, "
    "UNIQUE (voice, content))",
    "CREATE TABLE cohort (id INTEGER PRIMARY KEY, speaker TEXT NOT NULL, content TEXT NOT NULL, vector BLOB NOT NULL)",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)


@dataclass(frozen=True)
class Origin:
    """The model whose vectors a store holds: where it was last, and the hash of its weights and config."""

    run: str
    fingerprint: str


@dataclass(frozen=True, eq=False)
class Clip:
    """One enrolled recording: its file's name, the hash of what was heard, and its vector (width,) of length 1."""

    file: str
    content: str
    seconds: float
    vector: np.ndarray


@dataclass(frozen=True)
class Enrolled:
    """What one enrolment did: the files that were added, those whose sound was there already, and clips in all."""

    name: str
    added: tuple[str, ...]
    known: tuple[str, ...]
    clips: int


@dataclass(frozen=True, eq=False)
class Voice:
    """One enrolled person: the mean vector (width,) of length 1 of all clips, and what it is the mean of."""

    name: str
    vector: np.ndarray
    clips: int
    seconds: float
    contents: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Contents:
    """All that a store held at one moment. `cohort` is None where there is none; `cohort_named` says what it is."""

    origin: Origin
    voices: tuple[Voice, ...]
    cohort: Cohort | None
    cohort_named: str
    max_false_accept_rate: float


class Store:
    """An open store. A context manager; one thread at a time may use one."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, path: str | Path, *, write: bool = False) -> "Store":
        """Open a store that is there. Raises DataError for a file that is none, and where there is no file."""
        path = Path(path)
        if not path.is_file():
            raise DataError(f"There is no store at '{path}'. Make one: auricle enrol {path} NAME FILES… --run RUN.")
        store = cls(path, _connect(path, "rw" if write or os.access(path.parent, os.W_OK) else "ro"))
        try:
            with _told(path):
                if not store._is_ours():
                    raise DataError(
                        f"'{path}' holds no voices yet. Enrol one: auricle enrol {path} NAME FILES… --run RUN."
                    )
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def create(cls, path: str | Path, origin: Origin) -> "Store":
        """Make a store for one model's vectors, or open the one that is there.

        Raises DataError for a file that is no store, RunError for a store of another model's vectors.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise UsageError(f"'{path}' cannot be made: there is no folder '{path.parent}'. Name a folder that exists.")
        store = cls(path, _connect(path, "rwc"))
        try:
            with _told(path):
                if not store._is_ours():
                    store._connection.execute("PRAGMA journal_mode = WAL")
                with store._writing() as connection:
                    if not store._is_ours():
                        for statement in _SCHEMA:
                            connection.execute(statement)
                        about = {
                            "run": origin.run,
                            "fingerprint": origin.fingerprint,
                            "max_false_accept_rate": FALSE_ACCEPT,
                        }
                        connection.executemany("INSERT INTO about VALUES (?, ?)", [*_texts(about)])
                store.check(origin)
        except BaseException:
            store.close()
            raise
        return store

    def check(self, origin: Origin) -> None:
        """Raise RunError for another model than the store's."""
        kept = self.origin
        if kept.fingerprint != origin.fingerprint:
            raise RunError(
                f"The voices in '{self.path}' were enrolled with another model: '{kept.run}' (hash "
                f"{kept.fingerprint[:12]}); '{origin.run}' has the hash {origin.fingerprint[:12]}. Vectors of two "
                "models cannot be compared: name the same model by --run, or enrol in a new store."
            )

    @property
    def origin(self) -> Origin:
        with _told(self.path):
            about = self._about()
        return Origin(about["run"], about["fingerprint"])

    def read(self) -> Contents:
        """Read everything as it was at one moment."""
        with _told(self.path), self._reading() as connection:
            about = self._about()
            rows = connection.execute(
                "SELECT name, content, seconds, vector FROM voices JOIN clips ON clips.voice = voices.id "
                "ORDER BY name, clips.id"
            ).fetchall()
            out_of_set = connection.execute("SELECT speaker, content, vector FROM cohort ORDER BY id").fetchall()
        by_name: dict[str, list[tuple[str, float, np.ndarray]]] = {}
        for name, content, seconds, vector in rows:
            by_name.setdefault(name, []).append((content, seconds, _vector(vector)))
        voices = tuple(
            Voice(
                name,
                score_norm.voice(np.stack([vector for *_, vector in clips])),
                len(clips),
                sum(seconds for _, seconds, _ in clips),
                tuple(content for content, *_ in clips),
            )
            for name, clips in by_name.items()
        )
        cohort = None
        if out_of_set:
            speakers, contents, vectors = zip(*out_of_set, strict=True)
            cohort = Cohort(np.stack([_vector(vector) for vector in vectors]), speakers, contents)
        origin = Origin(about["run"], about["fingerprint"])
        return Contents(origin, voices, cohort, about.get("cohort", ""), float(about["max_false_accept_rate"]))

    def enrol(
        self,
        name: str,
        clips: Sequence[Clip],
        *,
        cohort: Cohort | None = None,
        cohort_named: str = "",
        max_false_accept_rate: float | None = None,
        run: str | None = None,
    ) -> Enrolled:
        """Add clips to a voice, new or known, in one transaction; a sound that the voice has is kept once.

        A cohort takes the place of the one before; `false_accept` and `run` likewise. It is on disk when this returns.
        Raises UsageError for a name that cannot be one.
        """
        name = checked_name(name)
        about = {
            "cohort": cohort_named if cohort is not None else None,
            "max_false_accept_rate": max_false_accept_rate,
            "run": run,
        }
        added: list[str] = []
        known: list[str] = []
        with _told(self.path), self._writing() as connection:
            self._check_width([clip.vector for clip in clips] + ([] if cohort is None else list(cohort.vectors)))
            if clips:
                connection.execute("INSERT OR IGNORE INTO voices (name) VALUES (?)", (name,))
            for clip in clips:
                done = connection.execute(
                    "INSERT OR IGNORE INTO clips (voice, file, content, seconds, vector) "
                    "VALUES ((SELECT id FROM voices WHERE name = ?), ?, ?, ?, ?)",
                    (name, os.path.basename(clip.file), clip.content, clip.seconds, _blob(clip.vector)),
                )
                (added if done.rowcount else known).append(clip.file)
            if cohort is not None:
                connection.execute("DELETE FROM cohort")
                rows = zip(cohort.speakers, cohort.contents, map(_blob, cohort.vectors), strict=True)
                connection.executemany("INSERT INTO cohort (speaker, content, vector) VALUES (?, ?, ?)", rows)
            connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", [*_texts(about)])
            (total,) = connection.execute(
                "SELECT count(*) FROM clips JOIN voices ON voices.id = clips.voice WHERE name = ?", (name,)
            ).fetchone()
        return Enrolled(name, tuple(added), tuple(known), total)

    def remove(self, name: str) -> bool:
        """Take a voice with all its clips out of the store; False where there is none of this name."""
        with _told(self.path), self._writing() as connection:
            return bool(connection.execute("DELETE FROM voices WHERE name = ?", (name,)).rowcount)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_width(self, vectors: Sequence[np.ndarray]) -> None:
        held = self._connection.execute("SELECT length(vector) / 4 FROM clips LIMIT 1").fetchone()
        widths = {vector.shape for vector in vectors} | ({(held[0],)} if held else set())
        if len(widths) > 1 or not all(np.isfinite(vector).all() for vector in vectors):
            raise UsageError(
                f"'{self.path}' received vectors of the shapes {sorted(widths)}, or with a NaN in them. All vectors of "
                "a store are of one width and finite."
            )

    def _about(self) -> dict[str, str]:
        return dict(self._connection.execute("SELECT key, value FROM about").fetchall())

    def _is_ours(self) -> bool:
        """Whether the file is a store of this version; False for an empty one. Raises DataError for any other."""
        application, version, tables = (
            self._connection.execute(ask).fetchone()[0]
            for ask in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        )
        if not application and not version and not tables:
            return False
        if application != APPLICATION:
            raise DataError(f"'{self.path}' is a database of something else, not a store of voices. Name another file.")
        if version != VERSION:
            raise DataError(
                f"'{self.path}' is a store of version {version}, and this auricle opens version {VERSION}. Open it "
                "with the auricle that made it, or enrol in a new store."
            )
        return True

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN")
        try:
            yield self._connection
        finally:
            self._connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def begun(path: Path) -> bool:
    """Whether there is a store at `path`; False where there is no file or an empty one. Raises DataError for others."""
    if not path.exists():
        return False
    store = Store(path, _connect(path, "rw" if os.access(path.parent, os.W_OK) else "ro"))
    with contextlib.closing(store), _told(path):
        return store._is_ours()


def checked_name(name: str) -> str:
    """A voice's name without blanks around it. Raises UsageError for one that cannot be printed or means nobody."""
    name = name.strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable() or name == NOBODY:
        raise UsageError(
            f"A voice cannot be called {name!r}. Allowed: 1 to {LONGEST_NAME} printable characters, other than "
            f"'{NOBODY}', which is the answer for nobody's voice."
        )
    return name


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    if mode == "ro" and not Path(f"{path}-wal").exists():
        mode = "ro&immutable=1"  # else a reader needs the right to make files beside it
    address = f"file:{urllib.parse.quote(str(path.absolute()))}?mode={mode}"
    with _told(path):
        connection = sqlite3.connect(address, uri=True, timeout=WAIT_SECONDS, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    return connection


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say what SQLite found wrong with the file in a sentence."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise DataError(f"'{path}' has been written to by others for {WAIT_SECONDS:g} s. Try again.") from error
        raise DataError(f"'{path}' cannot be used: {error}. Check the folder, its rights and its space.") from error
    except sqlite3.DatabaseError as error:
        raise DataError(f"'{path}' is no store of voices, or a damaged one: {error}. Name another file.") from error


def _texts(about: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    return ((key, str(value)) for key, value in about.items() if value is not None)


def _blob(vector: np.ndarray) -> bytes:
    return np.asarray(vector, "<f4").tobytes()


def _vector(blob: bytes) -> np.ndarray:
    return np.frombuffer(blob, "<f4").astype(np.float32)
