"""Speakers as precomputed log-mel features: the layout of HW4 of NTU's ML 2021 lecture, from VoxCeleb.

In: mapping.json, metadata.json (n_mels; speakers → feature_path and mel_len of each utterance), optionally
testdata.json, and one tensor (frames, n_mels) per utterance. Out: clips with the speaker as label. The audit checks the
tensors against the lengths and the width in the tables; utterances of testdata.json have no labels and are excluded.
"""

import json
from collections.abc import Iterator
from typing import Any

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.tree import Tree
from auricle.errors import DataError

TITLE = "Speakers as precomputed features"
DESCRIBES = "mapping.json and metadata.json next to uttr-<hash>.pt tensors (frames, n_mels), perhaps testdata.json"
LICENSE = "CC BY 4.0 (VoxCeleb)"
CITATION = "A. Nagrani, J. S. Chung, A. Zisserman: VoxCeleb: a large-scale speaker identification dataset. 2017."
LABEL_NAME = "speaker"

MAPPING, METADATA, TESTDATA = "mapping.json", "metadata.json", "testdata.json"
SUFFIX = ".pt"
# Wider than any filter bank: a larger number means a damaged table.
MAX_FEATURES = 1024


def detects(tree: Tree) -> bool:
    """Whether there are the two tables and tensors."""
    return {MAPPING, METADATA} <= set(tree.names) and any(name.endswith(SUFFIX) for name in tree.names)


def read(tree: Tree) -> Iterator[Clip | Excluded]:
    """Yield the utterances that metadata.json lists. Metadata: mel_len, the declared number of frames.

    Raises DataError for tables that are missing or not of this layout.
    """
    known = _part(tree, MAPPING, "speaker2id", dict)
    speakers = _part(tree, METADATA, "speakers", dict)
    files = {name for name in tree.names if name.endswith(SUFFIX)}
    owner: dict[str, str] = {}
    for speaker in sorted(speakers):
        for number, row in enumerate(_rows(speakers[speaker], f"the speaker '{speaker}'")):
            name, frames = _row(row, f"row {number} of the speaker '{speaker}'")
            if name in owner:
                yield Excluded(f"{name}, listed again", f"under '{speaker}', and before under '{owner[name]}'")
                continue
            owner[name] = speaker
            if name not in files:
                yield Excluded(name, f"listed in '{METADATA}', but missing")
            elif speaker not in known:
                yield Excluded(name, f"its speaker '{speaker}' is not in '{MAPPING}'")
            else:
                yield Clip(name, tree.source(name), speaker, meta={"mel_len": str(frames)})
    unlabelled = set(_unlabelled(tree))
    if unlabelled:
        yield Excluded(TESTDATA, f"{len(unlabelled)} utterances to classify, without labels")
    for name in sorted(files - owner.keys() - unlabelled):
        yield Excluded(name, f"listed in neither '{METADATA}' nor '{TESTDATA}'")


def num_features(tree: Tree) -> int:
    """The number of features per frame. Raises DataError where metadata.json lacks it."""
    width = _part(tree, METADATA, "n_mels", int)
    if isinstance(width, bool) or not 1 <= width <= MAX_FEATURES:
        raise DataError(f"'{METADATA}' in '{tree.location}' has n_mels {width}; 1 to {MAX_FEATURES} are allowed.")
    return int(width)


def note(tree: Tree) -> str:
    """The number of features per frame, and the speakers of mapping.json without an utterance."""
    idle = set(_part(tree, MAPPING, "speaker2id", dict)) - set(_part(tree, METADATA, "speakers", dict))
    unused = f"; {len(idle)} speakers of '{MAPPING}' have no utterance, such as '{min(idle)}'" if idle else ""
    return f"{num_features(tree)} precomputed features per frame{unused}"


def _unlabelled(tree: Tree) -> list[str]:
    if TESTDATA not in tree.names:
        return []
    rows = _rows(_part(tree, TESTDATA, "utterances", list), f"'{TESTDATA}'")
    return [_row(row, f"row {number} of '{TESTDATA}'")[0] for number, row in enumerate(rows)]


def _part(tree: Tree, name: str, key: str, kind: type) -> Any:
    if name not in tree.names:
        raise DataError(f"'{tree.location}' has no '{name}'. This layout needs it next to its {SUFFIX} files.")
    try:
        content = json.loads(tree.read_text(name))
    except json.JSONDecodeError as error:
        raise DataError(f"'{name}' in '{tree.location}' is not JSON: {error}. Download it again.") from error
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        expected = {dict: "an object", list: "a list", int: "a whole number"}[kind]
        raise DataError(f"'{name}' in '{tree.location}' lacks its key '{key}', {expected}. Download it again.")
    return value


def _rows(rows: object, where: str) -> list[Any]:
    if not isinstance(rows, list):
        raise DataError(f"{where[0].upper()}{where[1:]} is not a list of utterances but {str(rows)[:40]!r}. Fix it.")
    return rows


def _row(row: object, where: str) -> tuple[str, int]:
    """The file and the number of frames that a row declares."""
    if isinstance(row, dict) and isinstance(row.get("feature_path"), str) and isinstance(row.get("mel_len"), int):
        return row["feature_path"], row["mel_len"]
    where = f"{where[0].upper()}{where[1:]}"
    raise DataError(f"{where} needs a feature_path and a whole number mel_len, and is {row!r}. Fix it.")
