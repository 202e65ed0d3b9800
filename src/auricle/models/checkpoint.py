"""Open a published speech encoder for classification: its weights, its preprocessor, and a head for our labels.

In: a Hub name or a local folder. Out: a stock transformers model and its feature extractor. Only safetensors are
opened. What cannot be used is refused in a sentence that says what it is and what would do.
"""

import functools
import os
import socket
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    SeamlessM4TFeatureExtractor,
)
from transformers.models.auto.feature_extraction_auto import (
    FEATURE_EXTRACTOR_MAPPING_NAMES,
    feature_extractor_class_from_name,
)

from auricle.errors import UsageError, unknown
from auricle.models.encoders import ARCHITECTURES

REACH_SECONDS = 5.0
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# What a checkpoint that was made for something else may lack: all of it is made anew.
_HEAD = ("projector.", "classifier.", "layer_weights")
_UNUSED = ("masked_spec_embed",)


@dataclass(frozen=True)
class DecodedClip:
    """A stock classifier of `network.config.num_labels` classes, its feature extractor, and what is to be told."""

    network: Any
    extractor: Any
    notes: tuple[str, ...]


def read_config(checkpoint: str, revision: str | None = None) -> Any:
    """Read a checkpoint's config. Raises UsageError for a folder or name without one, and for another kind of model."""
    _check_folder(checkpoint)
    try:
        config = AutoConfig.from_pretrained(checkpoint, revision=revision, local_files_only=_stays_here(checkpoint))
    except (OSError, ValueError, KeyError) as error:
        if _stays_here(checkpoint) and not Path(checkpoint).expanduser().is_dir():
            raise UsageError(
                f"model.checkpoint received '{checkpoint}', which is no folder; the Hugging Face Hub cannot be "
                "reached, and its cache here has no such model. Name a folder, or try again with a network."
            ) from error
        raise UsageError(
            f"model.checkpoint received '{checkpoint}', which cannot be opened: {_first(error)}"
        ) from error
    if config.model_type not in ARCHITECTURES:
        raise UsageError(
            f"model.checkpoint received '{checkpoint}', a model of type '{config.model_type}', which is no speech "
            f"encoder that auricle can fine-tune. Known: {', '.join(sorted(ARCHITECTURES))}."
        )
    if getattr(config, "add_adapter", False):
        raise UsageError(
            f"model.checkpoint received '{checkpoint}', which has adapter layers after its encoder (add_adapter); "
            "classification does not use them. Take a checkpoint without."
        )
    return config


def read_extractor(checkpoint: str, config: Any, changes: Mapping[str, Any], revision: str | None = None) -> Any:
    """Read the checkpoint's own preprocessor settings, with `changes` on top; its kind's defaults if it has none.

    Raises UsageError for a setting that this preprocessor does not have.
    """
    try:
        extractor = AutoFeatureExtractor.from_pretrained(
            checkpoint, revision=revision, local_files_only=_stays_here(checkpoint)
        )
    except (OSError, ValueError, TypeError):
        extractor = _default_extractor(config)
    settings = extractor.to_dict()
    for name, value in changes.items():
        if name not in settings or name in ("feature_extractor_type", "processor_class"):
            raise UsageError(unknown("preprocessor setting", name, sorted(settings)))
        if name == "sampling_rate" and value != settings[name]:
            raise UsageError(
                f"model.preprocessor.sampling_rate received {value!r}. The checkpoint hears {settings[name]} Hz, and "
                "recordings are resampled to that: leave it out."
            )
        if settings[name] is not None and not _alike(value, settings[name]):
            raise UsageError(
                f"model.preprocessor.{name} received {value!r}, and the checkpoint has {settings[name]!r} there. Give "
                "a value of that kind."
            )
    if not changes:
        return extractor
    # Derived tables (mel filters, lengths in samples) are made anew from the changed settings.
    return type(extractor).from_dict({**settings, **changes})


def open_checkpoint(
    checkpoint: str,
    labels: Sequence[str],
    *,
    preprocessor: Mapping[str, Any],
    weighted_sum: bool = False,
    revision: str | None = None,
) -> DecodedClip:
    """Open a checkpoint with a head for `labels`; what had to be made anew takes its weights from torch's generator.

    Raises UsageError for a checkpoint without safetensors weights or with weights of another model.
    """
    config = read_config(checkpoint, revision)
    extractor = read_extractor(checkpoint, config, preprocessor, revision)
    if weighted_sum and config.model_type == "audio-spectrogram-transformer":
        raise UsageError(
            "model.weighted_sum received true. The Audio Spectrogram Transformer has none; set it to false."
        )
    had = len(config.id2label) if getattr(config, "architectures", None) else 0
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = None
    if hasattr(config, "use_weighted_layer_sum"):
        config.use_weighted_layer_sum = weighted_sum
    try:
        network, loading = AutoModelForAudioClassification.from_pretrained(
            checkpoint,
            config=config,
            revision=revision,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=_stays_here(checkpoint),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(_unopened(checkpoint, error)) from error
    return DecodedClip(network, extractor, _told(checkpoint, loading, had, len(labels)))


def _told(checkpoint: str, loading: Mapping[str, Any], had: int, wanted: int) -> tuple[str, ...]:
    missing = sorted(loading["missing_keys"])
    mismatched = sorted(key for key, *_ in loading["mismatched_keys"])
    body = [key for key in missing + mismatched if not key.startswith(_HEAD) and not key.endswith(_UNUSED)]
    if body:
        raise UsageError(
            f"model.checkpoint received '{checkpoint}', whose weights are not those of its config: {len(body)} of the "
            f"encoder's are missing or of another size, the first '{body[0]}'. Download it again, or name another."
        )
    notes = []
    if any(key.startswith("classifier.") for key in mismatched):
        notes.append(f"The checkpoint's head for {had} classes does not fit {wanted}: a new one is made.")
    elif any(key.startswith("classifier.") for key in missing):
        notes.append(f"The checkpoint has no classification head: one for {wanted} classes is made.")
    left = {key.removeprefix("model.").partition(".")[0] for key in loading["unexpected_keys"]}
    if left & {"lm_head", "decoder", "proj_out"}:
        notes.append("The checkpoint was made for transcription: its encoder is used, the rest is left out.")
    return tuple(notes)


def _stays_here(checkpoint: str) -> bool:
    """Whether a checkpoint is looked for on this machine alone: a folder, or any where the Hub is silent."""
    return Path(checkpoint).expanduser().is_dir() or _hub_is_silent()


@functools.cache
def _hub_is_silent() -> bool:
    """Whether the Hub cannot be reached, found out in seconds; its own client would try for half a minute."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False
    address = urllib.parse.urlsplit(huggingface_hub.constants.ENDPOINT)
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=REACH_SECONDS).close()
    except OSError:
        return True
    return False


def _check_folder(checkpoint: str) -> None:
    """Refuse a path that holds no model, before the name is looked for on the Hub."""
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(
                f"model.checkpoint received '{checkpoint}', a folder without config.json. Name a folder that "
                "save_pretrained wrote, or a model on the Hub."
            )
    elif path.exists() or checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1:
        raise UsageError(f"model.checkpoint received '{checkpoint}', which is no folder. Name a folder or a Hub model.")


def _unopened(checkpoint: str, error: Exception) -> str:
    """Say why the weights cannot be opened, and what to do."""
    said = f"model.checkpoint received '{checkpoint}', whose weights cannot be opened: "
    path = Path(checkpoint).expanduser()
    if not path.is_dir():
        return said + _first(error) + " Name a revision that has model.safetensors by model.revision."
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if pickles and not list(path.glob("*.safetensors")):
        return (
            f"{said}it has only {pickles[0]}, a pickle, which can run code when opened. Convert it where you trust it: "
            "load it with transformers and save_pretrained, which writes model.safetensors."
        )
    if not list(path.glob("*.safetensors")):
        return said + "the folder has no model.safetensors. Copy it beside config.json."
    return said + _first(error)


def _alike(value: Any, known: Any) -> bool:
    """Whether a value is of a setting's kind: yes or no, a number, or the same type."""
    numbers = (int, float)
    if isinstance(value, bool) or isinstance(known, bool):
        return isinstance(value, bool) and isinstance(known, bool)
    return isinstance(value, type(known)) or (isinstance(value, numbers) and isinstance(known, numbers))


def _default_extractor(config: Any) -> Any:
    """The preprocessor of this kind of model with the settings that its config implies."""
    made = feature_extractor_class_from_name(FEATURE_EXTRACTOR_MAPPING_NAMES[config.model_type])
    if config.model_type == "whisper":
        seconds = config.max_source_positions * 2 * 160 / 16_000
        return made(feature_size=config.num_mel_bins, chunk_length=int(seconds))
    if config.model_type == "wav2vec2-bert":
        # transformers names wav2vec 2.0's extractor here, which gives no mel.
        stride = SeamlessM4TFeatureExtractor().stride
        mels = config.feature_projection_input_dim // stride
        return SeamlessM4TFeatureExtractor(feature_size=mels, num_mel_bins=mels)
    if config.model_type == "audio-spectrogram-transformer":
        return made(num_mel_bins=config.num_mel_bins, max_length=config.max_length)
    return made()


def _first(error: Exception) -> str:
    """The first sentence of a library's message."""
    text = " ".join(str(error).split())
    return text.partition(". ")[0].rstrip(".") + "."
