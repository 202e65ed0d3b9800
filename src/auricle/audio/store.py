"""The decoded corpus on disk, in memory-mapped Arrow shards: decoded once and read by every epoch.

In: clips and audio settings. Out: a Store whose `samples` (int16 PCM, or float32 precomputed features) are views into
the memory map. Shards are written atomically, so an existing one is complete; an interrupted preparation resumes at the
first missing shard. The folder's name is a hash of the clips' content identity and the audio settings.
"""

import functools
import hashlib
import json
import mmap
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from auricle.audio.inspect import ClipInfo, inspected
from auricle.audio.quality import Finding
from auricle.audio.settings import Settings
from auricle.corpus import tree
from auricle.corpus.clip import Clip
from auricle.corpus.remote import is_remote
from auricle.errors import DataError
from auricle.parallel import Progress, parallel_map
from auricle.run_folder import atomic_write

# Incremented when the layout of shards, or how their content is computed, changes.
FORMAT = 5
MIN_SHARD_CLIPS, MAX_SHARD_CLIPS = 32, 512
BATCH_BYTES = 16 << 20
# Pages that were read stay in this process's memory; after so many bytes they are released to the system.
MAX_RESIDENT_BYTES = 64 << 20
# Requests to a remote store at a time.
REQUESTS = 16

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("pcm", pa.large_binary()),
        ("pcm_channels", pa.int16()),
        ("seconds", pa.float64()),
        ("sample_rate", pa.int32()),
        ("channels", pa.int16()),
        ("container", pa.string()),
        ("findings", pa.string()),
        ("audio_hash", pa.string()),
        ("fingerprint", pa.binary()),
    ]
)


def cache_folder() -> Path:
    """The folder of decoded corpora: AURICLE_CACHE, else the user's cache folder."""
    if folder := os.environ.get("AURICLE_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "auricle"


def key(clips: Sequence[Clip], settings: Settings) -> str:
    """Hash what the store's content depends on: which recordings, which segment of each, and the settings."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(json.dumps([FORMAT, shard_clips(len(clips)), asdict(settings)], sort_keys=True).encode())
    for clip, identity in zip(clips, _identities([clip.source for clip in clips]), strict=True):
        digest.update(f"\0{clip.id}\0{identity}\0{clip.start}\0{clip.end}".encode())
    return digest.hexdigest()


def _identities(sources: Sequence[str]) -> list[str]:
    """The identity of each source; of remote ones several at a time, and of a missing one none."""
    if not any(is_remote(source) for source in sources):
        return [tree.identity(source) for source in sources]

    def known(source: str) -> str:
        try:
            return tree.identity(source)
        except DataError:
            if is_remote(source):
                return "remote-missing"
            raise

    with ThreadPoolExecutor(REQUESTS, thread_name_prefix="auricle-identity") as pool:
        return list(pool.map(known, sources))


class Store:
    """All clips of a corpus, decoded. Positions are those of its Index."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.dtype = settings.dtype
        self.clip_info: list[ClipInfo] = []
        self._samples: list[np.ndarray] = []
        self._maps: list[mmap.mmap] = []
        self._resident_bytes = 0
        for path in sorted(folder.glob("shard-*.arrow")):
            self._open(path)

    def __reduce__(self) -> tuple[Callable[[Path, Settings], "Store"], tuple[Path, Settings]]:
        """Another process opens the same files."""
        return _opened, (self.folder, self.settings)

    def __len__(self) -> int:
        return len(self._samples)

    def samples(self, position: int) -> np.ndarray:
        """The clip's samples, as `Settings.dtype`: a view into the memory map, empty for a quarantined clip."""
        samples = self._samples[position]
        self._resident_bytes += samples.nbytes
        if self._resident_bytes > MAX_RESIDENT_BYTES:
            self._release_pages()
        return samples

    def frames(self, position: int) -> int:
        """The clip's length in samples at the store's rate."""
        return int(self._samples[position].shape[1])

    def _release_pages(self) -> None:
        """Release the pages that were read; a view that is still in use reads them again."""
        self._resident_bytes = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)

    def _open(self, path: Path) -> None:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._maps.append(mapped)
        reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped)))
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            pcm = batch.column("pcm")
            offsets = np.frombuffer(pcm.buffers()[1], np.int64)[pcm.offset : pcm.offset + len(pcm) + 1]
            offsets = offsets // self.dtype.itemsize
            data = pcm.buffers()[2]
            samples = np.zeros(0, self.dtype)
            if data is not None:
                samples = np.frombuffer(data, self.dtype, count=len(data) // self.dtype.itemsize)
            for row, channels in enumerate(batch.column("pcm_channels").to_pylist()):
                self._samples.append(samples[offsets[row] : offsets[row + 1]].reshape(channels, -1))
            self.clip_info += [_info(row) for row in batch.drop_columns(["pcm", "pcm_channels"]).to_pylist()]


@functools.lru_cache(maxsize=2)
def _opened(folder: Path, settings: Settings) -> Store:
    """A complete store, opened once for all that a process gets to do with it."""
    return Store(folder, settings)


def prepare(
    clips: Sequence[Clip],
    settings: Settings,
    *,
    cache: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Store:
    """Decode the missing shards and open the store. Raises DataError if it cannot be written, as on a full disk."""
    folder = (cache or cache_folder()) / "stores" / key(clips, settings)
    size = shard_clips(len(clips))
    parts = [clips[first : first + size] for first in range(0, len(clips), size)]
    paths = [folder / f"shard-{number:05d}.arrow" for number in range(len(parts))]
    missing = [(path, part) for path, part in zip(paths, parts, strict=True) if not path.exists()]
    done = len(clips) - sum(len(part) for _, part in missing)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for written in parallel_map(functools.partial(_write, settings=settings), missing, workers):
            done += written
            if progress:
                progress(done, len(clips))
    except OSError as error:
        raise DataError(
            f"The decoded corpus cannot be written to '{folder}': {error.strerror or error}. "
            "Free some space, or set the environment variable AURICLE_CACHE to another folder."
        ) from error
    return Store(folder, settings)


def shard_clips(clips: int) -> int:
    """How many clips share a shard: few enough to use every core, and to lose little when interrupted."""
    return min(MAX_SHARD_CLIPS, max(MIN_SHARD_CLIPS, -(-clips // 16)))


def _write(job: tuple[Path, Sequence[Clip]], settings: Settings) -> int:
    path, clips = job
    with (
        atomic_write(path) as partial,
        pa.OSFile(str(partial), "wb") as sink,
        pa.ipc.new_file(sink, _SCHEMA) as writer,
    ):
        rows: list[dict[str, object]] = []
        size = 0
        for info, samples in inspected(clips, settings, with_samples=True):
            rows.append(_row(info, samples))
            size += 0 if samples is None else samples.nbytes
            if size >= BATCH_BYTES:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, _SCHEMA))
                rows, size = [], 0
        if rows:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, _SCHEMA))
    return len(clips)


def _row(info: ClipInfo, samples: np.ndarray | None) -> dict[str, object]:
    return {
        **vars(info),
        "pcm": b"" if samples is None else np.ascontiguousarray(samples).data,
        "pcm_channels": 1 if samples is None else len(samples),
        "findings": json.dumps([[finding.kind, finding.detail] for finding in info.findings]),
        "fingerprint": info.fingerprint.tobytes(),
    }


def _info(row: dict[str, object]) -> ClipInfo:
    findings = tuple(Finding(kind, detail) for kind, detail in json.loads(str(row["findings"])))
    words = np.frombuffer(bytes(row["fingerprint"]), np.uint32)  # type: ignore[call-overload]
    return ClipInfo(**{**row, "findings": findings, "fingerprint": words})  # type: ignore[arg-type]
