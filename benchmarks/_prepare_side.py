"""One side of the preparation benchmark, in its own process, so that its memory can be measured.

`python -m benchmarks._prepare_side SIDE DATA SCRATCH` prints a line of JSON. Imports and one generated file come first,
not timed; then the whole corpus at 16 kHz, mono. `lists` and `arrays` are `Dataset.map` with librosa: the first stores
audio as Python lists, as the speech-emotion tutorial does, the second as numpy arrays, the best that `datasets` can do.
`auricle` decodes, checks, fingerprints and stores, as `auricle train` does. `decoder` only decodes, by libsndfile in as
many processes: what no preparation that uses it exceeds. `resampled` also resamples, which most corpora need.
"""

import functools
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from auricle.corpus.clip import Clip
from auricle.corpus.read import read_index
from auricle.parallel import cores, parallel_map

SAMPLE_RATE = 16_000
MIN_SECONDS, MAX_SECONDS = 0.05, 3600.0
# Into how many pieces of work the decoder divides a corpus.
PARTS = 16
PARALLEL = ("auricle", "resampled", "decoder")
Prepare = Callable[[list[Clip], Path], int]


def datasets_side(as_lists: bool) -> Prepare:
    """`Dataset.map` with `librosa.load`, one clip at a time, to an Arrow file."""
    import datasets
    import librosa

    datasets.disable_progress_bars()

    def load(example: dict[str, str]) -> dict[str, Any]:
        samples = librosa.load(example["path"], sr=SAMPLE_RATE)[0]
        return {"input_values": samples.tolist() if as_lists else samples}

    def prepare(clips: list[Clip], scratch: Path) -> int:
        rows = datasets.Dataset.from_dict({"path": [clip.source for clip in clips]})
        mapped = rows.map(load, cache_file_name=str(scratch / "mapped.arrow"))
        return len(mapped)

    return prepare


def auricle_side() -> Prepare:
    """Our way: the decoded store, with the measurements that the audit needs."""
    from auricle.audio import store
    from auricle.audio.settings import Settings

    def prepare(clips: list[Clip], scratch: Path) -> int:
        settings = Settings(SAMPLE_RATE, 1, MIN_SECONDS, MAX_SECONDS)
        return sum(info.usable for info in store.prepare(clips, settings, cache=scratch).clip_info)

    return prepare


def decoder_side(resamples: bool) -> Prepare:
    """libsndfile, and soxr where the rate is another, alone."""

    def prepare(clips: list[Clip], scratch: Path) -> int:
        work = functools.partial(_decode, resamples=resamples)
        return sum(parallel_map(work, [clips[first::PARTS] for first in range(PARTS) if clips[first::PARTS]]))

    return prepare


def _decode(clips: list[Clip], resamples: bool) -> int:
    for clip in clips:
        samples, rate = soundfile.read(clip.source, dtype="float32", always_2d=True)
        if resamples and rate != SAMPLE_RATE:
            soxr.resample(samples.mean(1), rate, SAMPLE_RATE)
    return len(clips)


SIDES: dict[str, Callable[[], Prepare]] = {
    "lists": lambda: datasets_side(as_lists=True),
    "arrays": lambda: datasets_side(as_lists=False),
    "auricle": auricle_side,
    "resampled": lambda: decoder_side(resamples=True),
    "decoder": lambda: decoder_side(resamples=False),
}


def measure(side: str, data: Path, scratch: Path) -> dict[str, float]:
    """Prepare a corpus into the scratch folder; returns seconds, clips prepared, and peak megabytes of the process."""
    prepare = SIDES[side]()
    clips = list(read_index(data).clips)
    warm, cold = scratch / "warm", scratch / "cold"
    warm.mkdir(parents=True)
    cold.mkdir()
    prepare([_generated_clip(warm / "generated.wav")], warm)
    for clip in clips:
        Path(clip.source).read_bytes()
    start = time.perf_counter()
    count = prepare(clips, cold)
    return {
        "seconds": time.perf_counter() - start,
        "clips": count,
        "peak_mb": _peak_mb(cores() if side in PARALLEL else 0),
    }


def _generated_clip(path: Path) -> Clip:
    """Half a second of noise at another rate than the target."""
    noise = np.random.default_rng(0).normal(0.0, 0.1, 11_025)
    soundfile.write(path, noise, 22_050, subtype="PCM_16")
    return Clip("generated", str(path), "noise")


def _peak_mb(workers: int) -> float:
    """The peak memory of this process and, for each of its workers, that of the largest of them.

    Memory that workers share with their parent counts again for each: an upper bound.
    """
    workers_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 * workers
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024 + workers_mb
    return float("nan")


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
