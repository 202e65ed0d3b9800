"""Speakers as ready log-mel frames: the layout of a university course's speaker task, from VoxCeleb.

In: mapping.json, metadata.json (n_mels; speakers → feature_path and mel_len of each utterance), perhaps testdata.json,
and one tensor (frames, n_mels) for each utterance. Out: clips with the speaker as label. What the tables say of length
and width is checked against the tensors by the audit; utterances of testdata.json have no labels and are no clips.
"""

import json
from collections.abc import Iterator
from typing import Any

from auricle.corpus.clip import Clip, Excluded
from auricle.corpus.tree import Tree
from auricle.errors import DataError

TITLE = "Speakers as precomputed features"
DESCRIBES = "mapping.json and metadata.json beside uttr-<hash>.pt tensors of (frames, n_mels), perhaps testdata.json"
LICENSE = "CC BY 4.0 (VoxCeleb)"
CITATION = "A. Nagrani, J. S. Chung, A. Zisserman: VoxCeleb: a large-scale speaker identification dataset. 2017."
LABEL_NAME = "speaker"

MAPPING, METADATA, TESTDATA = "mapping.json", "metadata.json", "testdata.json"
SUFFIX = ".pt"
# Wider than any bank of filters; a larger number is a damaged table.
MOST_BANDS = 1024


def detects(tree: Tree) -> bool:
    """Whether the two tables are there, and tensors beside them."""
    return {MAPPING, METADATA} <= set(tree.names) and any(name.endswith(SUFFIX) for name in tree.names)


def read(tree: Tree) -> Iterator[Clip | Excluded]:
    """Yield the utterances that metadata.json lists. Metadata: mel_len, the frames that it promises.

    Raises DataError for tables that are not there or not of this layout.
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
                yield Excluded(name, f"listed in '{METADATA}', but not there")
            elif speaker not in known:
                yield Excluded(name, f"its speaker '{speaker}' is not in '{MAPPING}'")
            else:
                yield Clip(name, tree.source(name), speaker, meta={"mel_len": str(frames)})
    asked = set(_asked(tree))
    if asked:
        yield Excluded(TESTDATA, f"{len(asked)} utterances to be named, without labels")
    for name in sorted(files - owner.keys() - asked):
        yield Excluded(name, f"listed in neither '{METADATA}' nor '{TESTDATA}'")


def num_features(tree: Tree) -> int:
    """How wide the frames are. Raises DataError where metadata.json does not say it."""
    width = _part(tree, METADATA, "n_mels", int)
    if isinstance(width, bool) or not 1 <= width <= MOST_BANDS:
        raise DataError(f"'{METADATA}' in '{tree.location}' says n_mels {width}; 1 to {MOST_BANDS} are allowed.")
    return int(width)


def note(tree: Tree) -> str:
    """Say how wide the frames are, and which speakers of mapping.json have no utterance."""
    idle = set(_part(tree, MAPPING, "speaker2id", dict)) - set(_part(tree, METADATA, "speakers", dict))
    silent = f"; {len(idle)} speakers of '{MAPPING}' have no utterance, such as '{min(idle)}'" if idle else ""
    return f"precomputed features of {num_features(tree)} bands{silent}"


def _asked(tree: Tree) -> list[str]:
    if TESTDATA not in tree.names:
        return []
    rows = _rows(_part(tree, TESTDATA, "utterances", list), f"'{TESTDATA}'")
    return [_row(row, f"row {number} of '{TESTDATA}'")[0] for number, row in enumerate(rows)]


def _part(tree: Tree, name: str, key: str, kind: type) -> Any:
    if name not in tree.names:
        raise DataError(f"'{tree.location}' has no '{name}'. It belongs beside the {SUFFIX} files of this layout.")
    try:
        content = json.loads(tree.read_text(name))
    except json.JSONDecodeError as error:
        raise DataError(f"'{name}' in '{tree.location}' is no JSON: {error}. Download it again.") from error
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        what = {dict: "an object", list: "a list", int: "a whole number"}[kind]
        raise DataError(f"'{name}' in '{tree.location}' lacks its part '{key}', {what}. Download it again.")
    return value


def _rows(rows: object, where: str) -> list[Any]:
    if not isinstance(rows, list):
        raise DataError(f"{where[0].upper()}{where[1:]} is no list of utterances but {str(rows)[:40]!r}. Mend it.")
    return rows


def _row(row: object, where: str) -> tuple[str, int]:
    """The file and the frames that one row promises."""
    if isinstance(row, dict) and isinstance(row.get("feature_path"), str) and isinstance(row.get("mel_len"), int):
        return row["feature_path"], row["mel_len"]
    raise DataError(f"In {where}, a feature_path and a whole number mel_len are wanted, and {row!r} is there. Mend it.")
