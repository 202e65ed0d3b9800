"""Open a published EfficientAT network: its tensors decide its width and its classes.

In: a file of its releases (.pt, of which nothing but tensors is read), the same tensors as .safetensors, or a folder
that `save_pretrained` wrote. Out: the network in evaluation mode. A file that is not exactly that is refused.
"""

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from auricle.errors import UsageError
from auricle.models.encoders import efficientat
from auricle.models.load import weight_faults

EXAMPLE = "mn04_as_mAP_432.pt"
_HIDDEN, _CLASSES = "classifier.2.weight", "classifier.5.bias"
_CLASSES_FILE = Path(__file__).with_name("audioset_classes.txt")
# Releases whose tensors are those of another: with a hop of 5 to 25 ms, or with 40 to 256 mel bands.
_VARIANT = re.compile(r"_(hop|mels)_\d+")
# What torch's restricted unpickler and safetensors raise for bytes that are no weights.
_LOADING_ERRORS = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    pickle.UnpicklingError,
    safetensors.SafetensorError,
)


def audioset_classes() -> tuple[str, ...]:
    """The names of AudioSet's 527 classes, in the order of the published networks."""
    lines = _CLASSES_FILE.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))


def open_network(path: Path) -> efficientat.Model:
    """Open a published file or a saved folder. Raises UsageError for anything else, with the first tensors that differ.

    A file of as many classes as AudioSet gets AudioSet's names.
    """
    if path.is_dir():
        config, tensors = _config(path), _tensors(path / "model.safetensors")
    else:
        tensors = _tensors(path)
        config = _config_of(path, tensors)
    # Random initial weights are replaced: the caller's random numbers stay as they are.
    with torch.random.fork_rng():
        model = efficientat.Model(config)
    expected = model.state_dict()
    sizes = {
        name: f"{name} ({_size(tensors[name])}, not {_size(expected[name])})" for name in tensors if name in expected
    }
    mismatched = [text for name, text in sizes.items() if tensors[name].shape != expected[name].shape]
    faults = weight_faults(expected.keys() - tensors.keys(), tensors.keys() - expected.keys(), mismatched)
    if faults:
        raise UsageError(f"'{path}' holds no EfficientAT network of width {config.width:g}: it {faults}. {_allowed()}")
    model.load_state_dict(tensors)
    return model.eval()


def _config(folder: Path) -> efficientat.Config:
    """The config of a saved folder."""
    try:
        values: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"'{folder}' has no config.json that can be read. {_allowed()}") from error
    model_type = values.get("model_type") if isinstance(values, dict) else None
    if model_type != efficientat.Config.model_type:
        raise UsageError(f"'{folder}' holds a model of type '{model_type}'. {_allowed()}")
    return efficientat.Config.from_dict(values)


def _config_of(path: Path, tensors: Mapping[str, Tensor]) -> efficientat.Config:
    """The config that fits the tensors of a published file."""
    if _VARIANT.search(path.name):
        raise UsageError(f"'{path}' is a network of another hop or number of mel bands. {_allowed()}")
    missing = [name for name in (_HIDDEN, _CLASSES) if name not in tensors]
    if missing:
        raise UsageError(f"'{path}' holds no EfficientAT network: it lacks {' and '.join(missing)}. {_allowed()}")
    width, classes = len(tensors[_HIDDEN]) / efficientat.LAST_CHANNELS, tensors[_CLASSES].numel()
    names = audioset_classes()
    labels = dict(enumerate(names if classes == len(names) else (f"class {number}" for number in range(classes))))
    return efficientat.Config(
        width=width, id2label=labels, label2id={label: number for number, label in labels.items()}
    )


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name."""
    if not path.is_file():
        raise UsageError(f"There is no file '{path}'. {_allowed()}")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        elif zipfile.is_zipfile(path):
            content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise ValueError("torch writes archives")
    except _LOADING_ERRORS as error:
        raise UsageError(
            f"'{path}' cannot be opened: it is truncated, damaged, or holds more than tensors. {_allowed()}"
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UsageError(f"'{path}' holds no tensors by name. {_allowed()}")
    return dict(content)


def _size(tensor: Tensor) -> str:
    return " by ".join(map(str, tensor.shape)) or "scalar"


def _allowed() -> str:
    return f"Allowed: a file of EfficientAT's releases, such as {EXAMPLE}, or a folder that save_pretrained wrote."
