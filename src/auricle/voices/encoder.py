"""What turns recordings into vectors: a trained run, or a stock checkpoint made for telling speakers apart.

In: a folder. Out: an Encoder, with the hash of what it is. Vectors of two models cannot be compared, and a folder's
name says little: the hash does. Models run in float32, so that a voice enrolled on one machine is known on another.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from auricle.audio.recordings import Recording
from auricle.errors import RunError
from auricle.inference.classifier import Embedded, load
from auricle.run_folder import model_folder
from auricle.voices import xvector
from auricle.voices.store import Origin

# What decides a vector beside the weights.
_CONFIGS = ("config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Encoder:
    """A model that gives vectors. `run` is the folder that was named."""

    run: Path
    origin: Origin
    embeddings: Callable[[Iterable[Recording]], Iterator[Embedded]]


def open_encoder(run: str | Path) -> Encoder:
    """Open a run folder, a model folder, or a local checkpoint `…ForXVector`. Raises RunError for anything else."""
    run = Path(run).expanduser().absolute()
    folder = model_folder(run)
    origin = Origin(str(run), fingerprint(folder))
    if xvector.opens(folder):
        return Encoder(run, origin, xvector.load(folder).embeddings)
    return Encoder(run, origin, load(folder, "float32", runtime="torch").embeddings)


def fingerprint(folder: Path) -> str:
    """A hash of the weights and configs in a model folder. Raises RunError where it has no weights."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise RunError(f"'{folder}' has no model.safetensors: the model was not saved completely. Train it again.")
    found = hashlib.sha256()
    for path in [*(folder / name for name in _CONFIGS if (folder / name).is_file()), *weights]:
        with path.open("rb") as file:
            found.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return found.hexdigest()
