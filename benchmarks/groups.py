"""Groups by evidence on corpora that auricle does not know by name: disguised public ones, and generated ones.

EmoDB, FSDD, ESC-10 and LibriSpeech are copied into class folders under names that no reader knows, and `inspect`
decides their labels and groups. Then the evidence is timed on 2,000 clips of 3 s. The last line is the share of the
corpora whose labels and groups are those of the original.
"""

import argparse
import importlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from auricle import recipes
from auricle.corpus.clip import Clip
from auricle.corpus.read import read_index
from auricle.corpus.structure import partition
from auricle.preparation.prepare import decode, read
from auricle.training.grouping import Grouping, decide_groups, inspect
from benchmarks._environment import Screen, corpus

RATE = 16_000
TIMED_CLIPS, TIMED_SECONDS, TIMED_GROUPS = 2000, 3.0, 20


@dataclass(frozen=True)
class Disguise:
    """A corpus and how its clips are called in the copy; `group` is what must be found, None for no group."""

    corpus: str
    name: Callable[[Clip], str]
    group: Callable[[Clip], str | None]


def _digit_name(digit: str, speaker: str, take: str) -> str:
    return f"word{digit}/{speaker}-take{take}.wav"


DISGUISES = (
    Disguise("emodb", lambda clip: f"{clip.label}/x{Path(clip.id).name}", lambda clip: clip.group),
    Disguise(
        "fsdd",
        lambda clip: _digit_name(*Path(clip.id).stem.split("_")),
        lambda clip: Path(clip.id).stem.split("_")[1],
    ),
    Disguise("esc10", lambda clip: f"{clip.label}/{Path(clip.id).name}", lambda clip: clip.group),
    Disguise("librispeech10", lambda clip: f"voice {clip.label}/{Path(clip.id).stem[-4:]}.flac", lambda clip: None),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-timing", dest="timing", action="store_false", help="leave out the corpus of 2,000 clips")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Decide the groups of each disguised corpus, and time the evidence."""
    screen.machine()
    right = [_disguised(disguise, screen) for disguise in DISGUISES]
    if options.timing:
        _timed(screen)
    screen.result("groups", "share", sum(right) / len(right))


def _disguised(disguise: Disguise, screen: Screen) -> bool:
    original = read_index(corpus(disguise.corpus))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "recordings"
        expected = {}
        for clip in original:
            name = disguise.name(clip)
            expected[name] = disguise.group(clip) or ""
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(clip.source, root / name)
        inspected = inspect(root, recipes.load("baseline"), lambda done, total: None)
    found = {clip.id: clip.group or "" for clip in inspected.index}
    same_label = len(inspected.index.labels) == len(original.labels)
    names = sorted(expected)
    same_group = partition(found[name] for name in names) == partition(expected[name] for name in names)
    screen.say(f"{disguise.corpus}: {inspected.index.description}")
    screen.say(f"  {inspected.grouping}")
    verdict = {True: "as in the original", False: "NOT as in the original"}
    screen.say(f"  labels {verdict[same_label]}, groups {verdict[same_group]}")
    return same_label and same_group


def _timed(screen: Screen) -> None:
    recipe = recipes.load("baseline")
    with tempfile.TemporaryDirectory() as folder:
        for name, wave in _generated():
            path = Path(folder) / "recordings" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, RATE, subtype="PCM_16")
        decoded = decode(read(Path(folder) / "recordings", recipe), recipe, lambda done, total: None)
        start = time.perf_counter()
        for module in ("auricle.models.load", "auricle.training.closed_form"):
            importlib.import_module(module)
        loaded = time.perf_counter()
        grouping: Grouping = decide_groups(decoded)
        seconds = time.perf_counter() - loaded
    screen.say(
        f"{TIMED_CLIPS} clips of {TIMED_SECONDS:g} s: {seconds:.1f} s beyond decoding, and {loaded - start:.1f} s to "
        f"load PyTorch, which training needs anyway. {grouping.message}"
    )


def _generated() -> Iterator[tuple[str, np.ndarray]]:
    """Clips of noise in ten bands, with a device number, a random tag and a counter in each name."""
    random = np.random.default_rng(0)
    for number in range(TIMED_CLIPS):
        label, device = number % 10, int(random.integers(TIMED_GROUPS))
        noise = random.normal(0, 0.1, round(RATE * TIMED_SECONDS))
        time_axis = np.arange(len(noise)) / RATE
        wave = noise + 0.2 * np.sin(2 * np.pi * (200 + 150 * label) * time_axis * random.uniform(0.8, 1.2))
        yield f"class{label}/d{device:02d}-{random.integers(100)}-{number:04d}.wav", wave / np.abs(wave).max() * 0.5
