"""Open a published speech encoder for classification: its weights, its preprocessor, and a head for our labels.

In: a local folder, a Hub name, or the short name of an encoder in the catalogue. Out: a stock transformers model
and its feature extractor. Safetensors are opened, and a pickle only where the user allows it, as tensors alone. A
checkpoint that cannot be used raises an error with the reason and what to do.
"""

import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants
from safetensors import SafetensorError
from transformers import AutoConfig, AutoFeatureExtractor, SeamlessM4TFeatureExtractor
from transformers.models.auto.feature_extraction_auto import (
    FEATURE_EXTRACTOR_MAPPING_NAMES,
    feature_extractor_class_from_name,
)

from auricle.errors import UsageError, unknown
from auricle.models import catalogue, hub_files
from auricle.models.encoders import ARCHITECTURES
from auricle.models.load import OPTIONAL_WEIGHTS

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# What a checkpoint for another task may lack: these weights are initialised.
_HEAD_PREFIXES = ("projector.", "classifier.", "layer_weights")


@dataclass(frozen=True)
class Checkpoint:
    """A stock classifier of `network.config.num_labels` classes, its feature extractor, and notes for the user."""

    network: Any
    extractor: Any
    notes: tuple[str, ...]


def read_config(checkpoint: str, revision: str | None = None) -> Any:
    """Read a checkpoint's config. Raises UsageError for a folder or name without one, and for another kind of model."""
    folder, _ = _location(checkpoint, revision)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"model.checkpoint received '{checkpoint}', which cannot be opened: {_first_sentence(error)}"
        ) from error
    if config.model_type not in ARCHITECTURES:
        raise UsageError(
            f"model.checkpoint received '{checkpoint}', a model of type '{config.model_type}', which is no speech "
            f"encoder that auricle can fine-tune. Known: {', '.join(sorted(ARCHITECTURES))}."
        )
    if getattr(config, "add_adapter", False):
        raise UsageError(
            f"model.checkpoint received '{checkpoint}', which has adapter layers after its encoder (add_adapter); "
            "classification does not use them. Choose a checkpoint without them."
        )
    return config


def read_extractor(checkpoint: str, config: Any, changes: Mapping[str, Any], revision: str | None = None) -> Any:
    """Read the checkpoint's own preprocessor settings, or its model type's defaults, updated with `changes`.

    Raises UsageError for a setting that this preprocessor does not have.
    """
    try:
        extractor = AutoFeatureExtractor.from_pretrained(_location(checkpoint, revision)[0], trust_remote_code=False)
    except (OSError, ValueError, TypeError):
        extractor = _default_extractor(config)
    settings = extractor.to_dict()
    for name, value in changes.items():
        if name not in settings or name in ("feature_extractor_type", "processor_class"):
            raise UsageError(unknown("preprocessor setting", name, sorted(settings)))
        if name == "sampling_rate" and value != settings[name]:
            raise UsageError(
                f"model.preprocessor.sampling_rate received {value!r}. The checkpoint takes {settings[name]} Hz, and "
                "recordings are resampled to that: remove it."
            )
        if settings[name] is not None and not _is_same_kind(value, settings[name]):
            raise UsageError(
                f"model.preprocessor.{name} received {value!r}, and the checkpoint has {settings[name]!r} there. Set "
                "a value of the same type."
            )
    if not changes:
        return extractor
    # Derived settings (mel filters, lengths in samples) are computed from the changed ones.
    return type(extractor).from_dict({**settings, **changes})


def open_checkpoint(
    checkpoint: str,
    labels: Sequence[str],
    *,
    preprocessor: Mapping[str, Any],
    weighted_sum: bool = False,
    revision: str | None = None,
    allow_pickle: bool = False,
) -> Checkpoint:
    """Open a checkpoint with a head for `labels`; new weights are drawn from torch's global generator.

    Raises UsageError for a checkpoint without safetensors (or, with `allow_pickle`, without a pickle of tensors), and
    for damaged weights or those of another model.
    """
    config = read_config(checkpoint, revision)
    extractor = read_extractor(checkpoint, config, preprocessor, revision)
    if weighted_sum and config.model_type == "audio-spectrogram-transformer":
        raise UsageError(
            "model.weighted_sum received true. The Audio Spectrogram Transformer does not support it; set it to false."
        )
    old_classes = len(config.id2label) if getattr(config, "architectures", None) else 0
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = None
    if hasattr(config, "use_weighted_layer_sum"):
        config.use_weighted_layer_sum = weighted_sum
    weights, notes = _weights(checkpoint, revision, allow_pickle)
    try:
        network, loading = transformers.AutoModelForAudioClassification.from_pretrained(
            weights.folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=not weights.is_pickle,
            weights_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise UsageError(_loading_error(checkpoint, weights, error)) from error
    if "layer_weights" in loading["missing_keys"]:
        # transformers leaves them uninitialised: the softmax of equal weights is the mean over layers.
        torch.nn.init.constant_(network.layer_weights, 1.0 / len(network.layer_weights))
    notes += _notes(checkpoint, loading, old_classes, len(labels))
    return Checkpoint(network, extractor, notes)


def base_model(checkpoint: str) -> str | None:
    """The Hub name of a checkpoint, for a model card; None for a folder."""
    return None if Path(checkpoint).expanduser().is_dir() else catalogue.hub_name(checkpoint)


def _location(checkpoint: str, revision: str | None) -> tuple[Path, hub_files.HubModel | None]:
    """The folder of a checkpoint's config and preprocessor; for a model of the Hub, its cached copy."""
    path = Path(checkpoint).expanduser()
    name = catalogue.hub_name(checkpoint)
    if name != checkpoint or not path.is_dir():
        if name == checkpoint and (
            path.exists() or checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1
        ):
            raise UsageError(
                f"model.checkpoint received '{checkpoint}', which is no folder. Name a folder or a Hub model."
            )
        model = hub_files.hub_model(name, revision)
        return model.folder, model
    if not (path / hub_files.CONFIG).is_file():
        raise UsageError(
            f"model.checkpoint received '{checkpoint}', a folder without config.json. Name a folder that "
            "save_pretrained wrote, or a model on the Hub."
        )
    return path, None


def _weights(checkpoint: str, revision: str | None, allow_pickle: bool) -> tuple[hub_files.Weights, tuple[str, ...]]:
    """The files to open, and notes on where they are from."""
    folder, model = _location(checkpoint, revision)
    if model is not None:
        weights = hub_files.fetch_weights(model, allow_pickle)
        is_unasked = model.offline and not constants.is_offline_mode()
        offline = f"The Hugging Face Hub cannot be reached ({model.offline}): the cached copy is used."
        return weights, (*weights.notes, *((offline,) if is_unasked else ()))
    local = hub_files.folder_weights(folder, allow_pickle)
    if local is None:
        raise UsageError(_missing_weights(checkpoint, folder))
    return local, local.notes


def _notes(checkpoint: str, loading: Mapping[str, Iterable[Any]], old_classes: int, classes: int) -> tuple[str, ...]:
    """Notes on initialised and ignored weights. Raises UsageError if weights of the encoder itself are missing."""
    missing = sorted(loading["missing_keys"])
    mismatched = sorted(key for key, *_ in loading["mismatched_keys"])
    body = [
        key for key in missing + mismatched if not key.startswith(_HEAD_PREFIXES) and not key.endswith(OPTIONAL_WEIGHTS)
    ]
    if body:
        raise UsageError(
            f"model.checkpoint received '{checkpoint}', whose weights do not match its config: {len(body)} of the "
            f"encoder's are missing or of another size, the first '{body[0]}'. Download it again, or choose another."
        )
    notes = []
    if any(key.startswith("classifier.") for key in mismatched):
        notes.append(
            f"The checkpoint's head has {old_classes} classes, not {classes}: the head is initialised randomly."
        )
    elif any(key.startswith("classifier.") for key in missing):
        notes.append(f"The checkpoint has no classification head: one for {classes} classes is initialised randomly.")
    unused = {key.removeprefix("model.").partition(".")[0] for key in loading["unexpected_keys"]}
    if unused & {"lm_head", "decoder", "proj_out"}:
        notes.append("The checkpoint was made for transcription: its encoder is used, the rest is ignored.")
    return tuple(notes)


def _missing_weights(checkpoint: str, folder: Path) -> str:
    message = f"model.checkpoint received '{checkpoint}', whose weights cannot be opened: "
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if hub_files.PICKLE in pickles:
        return (
            f"{message}it has only {hub_files.PICKLE}, a pickle. To open it as tensors alone, so that no code in it "
            "can run: --set model.allow_pickle=true. Or load it with transformers and save_pretrained, which writes "
            f"{hub_files.SAFETENSORS}."
        )
    if pickles:
        return (
            f"{message}it has only {pickles[0]}, a pickle, which can run code when opened. Convert it where you trust "
            f"it: load it with transformers and save_pretrained, which writes {hub_files.SAFETENSORS}."
        )
    return f"{message}the folder has no {hub_files.SAFETENSORS}. Copy it into the folder of config.json."


def _loading_error(checkpoint: str, weights: hub_files.Weights, error: Exception) -> str:
    message = f"model.checkpoint received '{checkpoint}', whose weights cannot be opened: "
    if isinstance(error, pickle.UnpicklingError):
        return (
            f"{message}{hub_files.PICKLE} holds more than tensors, or is damaged; what could run code is never opened. "
            f"Choose a checkpoint with {hub_files.SAFETENSORS}."
        )
    pickle_faults = (OSError, RuntimeError) if weights.is_pickle else ()
    if isinstance(error, (SafetensorError, EOFError, *pickle_faults)):
        names = ", ".join(file.name for file in weights.files)
        return (
            f"{message}{names} is damaged ({_first_sentence(error).rstrip('.')}). Delete '{weights.folder}' and get it "
            "again."
        )
    return message + _first_sentence(error)


def _is_same_kind(value: Any, known: Any) -> bool:
    """Whether a value has a setting's type; integers and floats count as one."""
    numbers = (int, float)
    if isinstance(value, bool) or isinstance(known, bool):
        return isinstance(value, bool) and isinstance(known, bool)
    return isinstance(value, type(known)) or (isinstance(value, numbers) and isinstance(known, numbers))


def _default_extractor(config: Any) -> Any:
    extractor = feature_extractor_class_from_name(FEATURE_EXTRACTOR_MAPPING_NAMES[config.model_type])
    if config.model_type == "whisper":
        seconds = config.max_source_positions * 2 * 160 / 16_000
        return extractor(feature_size=config.num_mel_bins, chunk_length=int(seconds))
    if config.model_type == "wav2vec2-bert":
        # transformers maps this type to wav2vec 2.0's extractor, which computes no mel.
        stride = SeamlessM4TFeatureExtractor().stride
        mels = config.feature_projection_input_dim // stride
        return SeamlessM4TFeatureExtractor(feature_size=mels, num_mel_bins=mels)
    if config.model_type == "audio-spectrogram-transformer":
        return extractor(num_mel_bins=config.num_mel_bins, max_length=config.max_length)
    return extractor()


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text.partition(". ")[0].rstrip(".") + "."
