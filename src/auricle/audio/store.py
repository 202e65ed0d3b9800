"""The decoded corpus on disk, in memory-mapped Arrow shards: decoded once and read by every epoch.

In: clips and audio settings. Out: a Store whose `samples` (int16 PCM, or the float32 of precomputed features) are views into
the memory map. A shard is written under another name and renamed when it is whole, so that one that exists can be
believed; a killed preparation goes on at the first shard that is missing. The folder's name is a hash of the clips'
content identity and the audio settings.
"""

import functools
import hashlib
import json
import mmap
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from auricle.audio.inspect import ClipInfo, Heard, survey
from auricle.audio.quality import Finding
from auricle.audio.settings import Settings
from auricle.corpus import tree
from auricle.corpus.clip import Clip
from auricle.errors import DataError
from auricle.parallel import Progress, parallel_map
from auricle.run_folder import atomic_write

# Raised when shards are laid out otherwise, or when their content is made otherwise.
FORMAT = 3
LEAST_SHARD_CLIPS, MOST_SHARD_CLIPS = 32, 512
BATCH_BYTES = 16 << 20
# Pages that were read stay in this process's memory until so many bytes of them are given back to the system.
HELD_BYTES = 64 << 20

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
        ("sound_hash", pa.string()),
        ("fingerprint", pa.binary()),
    ]
)


def cache_folder() -> Path:
    """Where decoded corpora are kept: AURICLE_CACHE, else the user's cache folder."""
    named = os.environ.get("AURICLE_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "auricle"


def key(clips: Sequence[Clip], settings: Settings) -> str:
    """Hash what the store's content depends on: which sounds, which stretch of each, and how they are heard."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(json.dumps([FORMAT, shard_clips(len(clips)), asdict(settings)], sort_keys=True).encode())
    for clip in clips:
        digest.update(f"\0{clip.id}\0{tree.identity(clip.source)}\0{clip.start}\0{clip.end}".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Batch:
    """One record batch: where each clip's samples lie in the mapped buffer."""

    pcm: np.ndarray
    offsets: np.ndarray
    channels: np.ndarray


class Store:
    """All clips of a corpus, decoded. Positions are those of the Index it was prepared from."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.dtype = np.dtype(np.int16 if settings.num_features is None else np.float32)
        self.facts: list[ClipInfo] = []
        self._batches: list[_Batch] = []
        self._places: list[tuple[int, int]] = []
        self._maps: list[mmap.mmap] = []
        self._read = 0
        for path in sorted(folder.glob("shard-*.arrow")):
            self._open(path)

    def __len__(self) -> int:
        return len(self._places)

    def samples(self, position: int) -> np.ndarray:
        """The clip's samples: a view into the memory map, empty for a quarantined clip.

        int16 (channels, frames), or float32 (bands, frames) where the settings ask for precomputed features.
        """
        number, row = self._places[position]
        batch = self._batches[number]
        flat = batch.pcm[batch.offsets[row] : batch.offsets[row + 1]]
        self._read += flat.nbytes
        if self._read > HELD_BYTES:
            self._give_back()
        return flat.reshape(int(batch.channels[row]), -1)

    def frames(self, position: int) -> int:
        """The clip's length in samples at the store's rate."""
        number, row = self._places[position]
        batch = self._batches[number]
        return int(batch.offsets[row + 1] - batch.offsets[row]) // int(batch.channels[row])

    def _give_back(self) -> None:
        """Let go of the pages that were read; a view into them that is still held reads them again."""
        self._read = 0
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
            channels = batch.column("pcm_channels").to_numpy(zero_copy_only=False)
            self._places += [(len(self._batches), row) for row in range(len(pcm))]
            self._batches.append(_Batch(samples, offsets, channels))
            facts = batch.drop_columns(["pcm", "pcm_channels"]).to_pylist()
            self.facts += [_facts(row) for row in facts]


def prepare(
    clips: Sequence[Clip],
    settings: Settings,
    *,
    cache: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Store:
    """Decode what is not decoded yet and open the store. Raises DataError when the disk is full."""
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
            "Free some space, or name another folder with the environment variable AURICLE_CACHE."
        ) from error
    return Store(folder, settings)


def shard_clips(clips: int) -> int:
    """How many clips share a shard: few enough that every core gets some, and a kill costs little."""
    return min(MOST_SHARD_CLIPS, max(LEAST_SHARD_CLIPS, -(-clips // 16)))


def _write(job: tuple[Path, Sequence[Clip]], settings: Settings) -> int:
    """Write one shard; returns its number of clips."""
    path, clips = job
    with (
        atomic_write(path) as partial,
        pa.OSFile(str(partial), "wb") as sink,
        pa.ipc.new_file(sink, _SCHEMA) as writer,
    ):
        rows: list[Heard] = []
        held = 0
        for heard in survey(clips, settings, keep=True):
            rows.append(heard)
            held += heard.samples.nbytes if heard.samples is not None else 0
            if held >= BATCH_BYTES:
                writer.write_batch(_record(rows))
                rows, held = [], 0
        if rows:
            writer.write_batch(_record(rows))
    return len(clips)


def _record(rows: Sequence[Heard]) -> pa.RecordBatch:
    columns = {
        "id": [row.facts.id for row in rows],
        "pcm": [b"" if row.samples is None else np.ascontiguousarray(row.samples).data for row in rows],
        "pcm_channels": [1 if row.samples is None else row.samples.shape[0] for row in rows],
        "seconds": [row.facts.seconds for row in rows],
        "sample_rate": [row.facts.sample_rate for row in rows],
        "channels": [row.facts.channels for row in rows],
        "container": [row.facts.container for row in rows],
        "findings": [json.dumps([[finding.kind, finding.detail] for finding in row.facts.findings]) for row in rows],
        "sound_hash": [row.facts.sound_hash for row in rows],
        "fingerprint": [row.facts.fingerprint.tobytes() for row in rows],
    }
    return pa.record_batch(columns, schema=_SCHEMA)


def _facts(row: dict[str, object]) -> ClipInfo:
    findings = tuple(Finding(kind, detail) for kind, detail in json.loads(str(row["findings"])))
    prints = np.frombuffer(bytes(row["fingerprint"]), np.uint32)  # type: ignore[call-overload]
    return ClipInfo(**{**row, "findings": findings, "fingerprint": prints})  # type: ignore[arg-type]
