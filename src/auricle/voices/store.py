"""The store of enrolled voices: one SQLite file.

Each write is one transaction, on disk when the call returns: a killed writer loses nothing that was acknowledged, and
leaves no partial voice. Readers work meanwhile. Of recordings it keeps file names and hashes, neither paths nor audio.
"""

import contextlib
import itertools
import os
import sqlite3
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from auricle.errors import DataError, RunError, UsageError
from auricle.voices import score_norm
from auricle.voices.score_norm import Cohort

if TYPE_CHECKING:
    from auricle.inference.classifier import Embedding

# "AURV", by which SQLite files of this format are recognised.
APPLICATION_ID = 0x41555256
FORMAT_VERSION = 1
LOCK_TIMEOUT_SECONDS = 30.0
MAX_NAME_LENGTH = 200
MAX_FALSE_ACCEPT_RATE = 0.01
UNKNOWN = "unknown"

_SCHEMA = (
    "CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE voices (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    "CREATE TABLE clips (id INTEGER PRIMARY KEY, voice INTEGER NOT NULL REFERENCES voices ON DELETE CASCADE, "
    "file TEXT NOT NULL, content TEXT NOT NULL, seconds REAL NOT NULL, vector BLOB NOT NULL, "
    "UNIQUE (voice, content))",
    "CREATE TABLE cohort (id INTEGER PRIMARY KEY, speaker TEXT NOT NULL, content TEXT NOT NULL, vector BLOB NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT_VERSION}",
)


@dataclass(frozen=True)
class EncoderId:
    """The model whose embeddings a store holds: the folder it was last in, and the hash of its weights and config."""

    run: str
    fingerprint: str


@dataclass(frozen=True)
class EnrolledVoice:
    """What one enrolment did: the files that were added, those whose audio the voice had, and its clips in all."""

    name: str
    added: tuple[str, ...]
    duplicates: tuple[str, ...]
    clips: int


@dataclass(frozen=True, eq=False)
class Voice:
    """One enrolled speaker: the mean embedding (width,) of length 1 of all clips, and the hashes of their audio."""

    name: str
    embedding: np.ndarray
    clips: int
    seconds: float
    content_hashes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class StoreContents:
    """Everything in a store at one moment. `cohort` is None where there is none."""

    encoder: EncoderId
    voices: tuple[Voice, ...]
    cohort: Cohort | None
    cohort_description: str
    max_false_accept_rate: float


class VoiceStore:
    """An open store. A context manager; one thread at a time may use one."""

    def __init__(self, path: Path, mode: str) -> None:
        """Connect to a file; `mode` is SQLite's: ro, rw or rwc."""
        self.path = path
        if mode == "ro" and not Path(f"{path}-wal").exists():
            mode = "ro&immutable=1"  # otherwise readers need write permission to the folder
        uri = f"file:{urllib.parse.quote(str(path.absolute()))}?mode={mode}"
        with _explain_database_errors(path):
            self._connection = sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_SECONDS, isolation_level=None)
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")

    @classmethod
    def open(cls, path: str | Path, *, write: bool = False) -> "VoiceStore":
        """Open an existing store. Raises DataError where there is no file, and for a file that is no store."""
        path = Path(path)
        if not path.is_file():
            raise DataError(f"There is no store at '{path}'. Create one: auricle enrol {path} NAME FILES… --run RUN.")
        with contextlib.ExitStack() as on_error:
            store = on_error.enter_context(cls(path, "rw" if write else _read_mode(path)))
            if not store.is_initialised():
                raise DataError(f"'{path}' holds no voices yet. Enrol one: auricle enrol {path} NAME FILES… --run RUN.")
            on_error.pop_all()
        return store

    @classmethod
    def create(cls, path: str | Path, encoder: EncoderId) -> "VoiceStore":
        """Create a store for one model's embeddings, or open the existing one.

        Raises DataError for a file that is no store, RunError for a store of another model's embeddings.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise UsageError(
                f"There is no folder '{path.parent}' for the store '{path.name}'. Name an existing folder."
            )
        with contextlib.ExitStack() as on_error, _explain_database_errors(path):
            store = on_error.enter_context(cls(path, "rwc"))
            if not store.is_initialised():
                store._connection.execute("PRAGMA journal_mode = WAL")
            with store._transaction("BEGIN IMMEDIATE") as connection:
                if not store.is_initialised():
                    for statement in _SCHEMA:
                        connection.execute(statement)
                    store._write_about(
                        run=encoder.run, fingerprint=encoder.fingerprint, false_accept=MAX_FALSE_ACCEPT_RATE
                    )
            store.check_encoder(encoder)
            on_error.pop_all()
        return store

    def is_initialised(self) -> bool:
        """Whether the file is a store of this version; False for an empty one. Raises DataError for any other."""
        with _explain_database_errors(self.path):
            application, version, tables = (
                self._connection.execute(query).fetchone()[0]
                for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
            )
        if not application and not version and not tables:
            return False
        if application != APPLICATION_ID:
            raise DataError(f"'{self.path}' is another database, not a store of voices. Name another file.")
        if version != FORMAT_VERSION:
            raise DataError(
                f"'{self.path}' is a store of version {version}, and this auricle opens version {FORMAT_VERSION}. Open "
                "it with the auricle that wrote it, or enrol in a new store."
            )
        return True

    def check_encoder(self, encoder: EncoderId) -> None:
        """Raise RunError for another model than the store's."""
        stored = self.encoder
        if stored.fingerprint != encoder.fingerprint:
            raise RunError(
                f"The voices in '{self.path}' were enrolled with another model: '{stored.run}' (hash "
                f"{stored.fingerprint[:12]}); '{encoder.run}' has the hash {encoder.fingerprint[:12]}. Embeddings of "
                "two models cannot be compared: name the same model (--run RUN), or enrol in a new store."
            )

    @property
    def encoder(self) -> EncoderId:
        """The model whose embeddings the store holds."""
        with _explain_database_errors(self.path):
            about = self._about()
        return EncoderId(about["run"], about["fingerprint"])

    def read(self) -> StoreContents:
        """Read everything as it was at one moment."""
        with self._transaction("BEGIN") as connection:
            about = self._about()
            rows = connection.execute(
                "SELECT name, content, seconds, vector FROM voices JOIN clips ON clips.voice = voices.id "
                "ORDER BY name, clips.id"
            ).fetchall()
            cohort_rows = connection.execute("SELECT speaker, content, vector FROM cohort ORDER BY id").fetchall()
        voices = []
        for name, clips in itertools.groupby(rows, key=lambda row: row[0]):
            _, content_hashes, seconds, blobs = zip(*clips, strict=True)
            embedding = score_norm.mean_embedding(_from_blobs(blobs))
            voices.append(Voice(name, embedding, len(blobs), sum(seconds), content_hashes))
        cohort = None
        if cohort_rows:
            speakers, content_hashes, blobs = zip(*cohort_rows, strict=True)
            cohort = Cohort(_from_blobs(blobs), speakers, content_hashes)
        encoder = EncoderId(about["run"], about["fingerprint"])
        return StoreContents(encoder, tuple(voices), cohort, about.get("cohort", ""), float(about["false_accept"]))

    def enrol(
        self,
        name: str,
        clips: Sequence["Embedding"],
        *,
        cohort: Cohort | None = None,
        cohort_description: str = "",
        max_false_accept_rate: float | None = None,
        run: str | None = None,
    ) -> EnrolledVoice:
        """Add clips to a new or an existing voice, in one transaction; audio that the voice has is stored once.

        `cohort`, `max_false_accept_rate` and `run` replace the store's. It is on disk when this returns. Raises
        UsageError for an invalid name.
        """
        name = validate_name(name)
        added: list[str] = []
        duplicates: list[str] = []
        with self._transaction("BEGIN IMMEDIATE") as connection:
            self._check_width([clip.vector for clip in clips] + ([] if cohort is None else [*cohort.embeddings]))
            if clips:
                connection.execute("INSERT OR IGNORE INTO voices (name) VALUES (?)", (name,))
            for clip in clips:
                inserted = connection.execute(
                    "INSERT OR IGNORE INTO clips (voice, file, content, seconds, vector) "
                    "VALUES ((SELECT id FROM voices WHERE name = ?), ?, ?, ?, ?)",
                    (name, os.path.basename(clip.name), clip.content, clip.seconds, _to_blob(clip.vector)),
                )
                (added if inserted.rowcount else duplicates).append(clip.name)
            if cohort is not None:
                connection.execute("DELETE FROM cohort")
                rows = zip(cohort.speakers, cohort.content_hashes, map(_to_blob, cohort.embeddings), strict=True)
                connection.executemany("INSERT INTO cohort (speaker, content, vector) VALUES (?, ?, ?)", rows)
                self._write_about(cohort=cohort_description)
            self._write_about(false_accept=max_false_accept_rate, run=run)
            (total,) = connection.execute(
                "SELECT count(*) FROM clips JOIN voices ON voices.id = clips.voice WHERE name = ?", (name,)
            ).fetchone()
        return EnrolledVoice(name, tuple(added), tuple(duplicates), total)

    def remove(self, name: str) -> bool:
        """Remove a voice with all its clips; False where there is none of this name."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            return bool(connection.execute("DELETE FROM voices WHERE name = ?", (name,)).rowcount)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "VoiceStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        """Commit at the end, or roll back after an error."""
        with _explain_database_errors(self.path), self._connection as connection:
            connection.execute(begin)
            yield connection

    def _about(self) -> dict[str, str]:
        return dict(self._connection.execute("SELECT key, value FROM about").fetchall())

    def _write_about(self, **values: object) -> None:
        """Insert or replace entries of the table `about`; None leaves an entry as it is."""
        rows = [(key, str(value)) for key, value in values.items() if value is not None]
        self._connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", rows)

    def _check_width(self, embeddings: Sequence[np.ndarray]) -> None:
        stored = self._connection.execute("SELECT length(vector) / 4 FROM clips LIMIT 1").fetchone()
        shapes = {embedding.shape for embedding in embeddings} | ({(stored[0],)} if stored else set())
        if len(shapes) > 1 or not all(np.isfinite(embedding).all() for embedding in embeddings):
            raise UsageError(
                f"'{self.path}' received embeddings of the shapes {sorted(shapes)}, or with a NaN in them. All "
                "embeddings of a store must be of one width and finite."
            )


def is_store(path: Path) -> bool:
    """Whether `path` is a store; False where there is no file or an empty one. Raises DataError for other files."""
    if not path.exists():
        return False
    with VoiceStore(path, _read_mode(path)) as store:
        return store.is_initialised()


def validate_name(name: str) -> str:
    """A voice's name without surrounding blanks. Raises UsageError for an unprintable or a reserved one."""
    name = name.strip()
    if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable() or name == UNKNOWN:
        raise UsageError(
            f"A voice cannot be called {name!r}. Allowed: 1 to {MAX_NAME_LENGTH} printable characters, except "
            f"'{UNKNOWN}', the answer for speakers who are not enrolled."
        )
    return name


def _read_mode(path: Path) -> str:
    return "rw" if os.access(path.parent, os.W_OK) else "ro"


@contextlib.contextmanager
def _explain_database_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise DataError(f"'{path}' was locked by another writer for {LOCK_TIMEOUT_SECONDS:g} s. Retry.") from error
        raise DataError(
            f"'{path}' cannot be used: {error}. Check the folder, its permissions and the free disk space."
        ) from error
    except sqlite3.DatabaseError as error:
        raise DataError(f"'{path}' is no store of voices, or a damaged one: {error}. Name another file.") from error


def _to_blob(embedding: np.ndarray) -> bytes:
    return np.asarray(embedding, "<f4").tobytes()


def _from_blobs(blobs: Sequence[bytes]) -> np.ndarray:
    return np.stack([np.frombuffer(blob, "<f4") for blob in blobs]).astype(np.float32)
