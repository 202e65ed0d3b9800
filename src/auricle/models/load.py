"""From a recipe to a fresh model, and between a model and its folder.

In: a recipe and labels, or a model folder. Out: a model of the recipe's family; a folder that is written atomically.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from auricle.errors import RunError
from auricle.models import device, registration
from auricle.models.device import is_bf16
from auricle.models.options import ModelSpec
from auricle.recipe import Recipe
from auricle.run_folder import atomic_write

# What a folder may lack: these weights are for training alone.
OPTIONAL_WEIGHTS = ("masked_spec_embed",)


def build_model(recipe: Recipe, labels: Sequence[str], options: Any = None) -> PreTrainedModel:
    """A fresh model of the recipe's family, on the accelerator if there is one; the same seed gives the same weights.

    `options` are the family's own.
    """
    audio = recipe.audio
    assert audio.sample_rate is not None, "preparing a corpus resolves the sample rate"
    network = registration.network(recipe.model.family)
    torch.manual_seed(recipe.train.seed)
    spec = ModelSpec(audio.sample_rate, audio.channels, tuple(labels), audio.num_features)
    model = network.build(options or registration.parse_options(recipe), spec)
    model.config.window_seconds = recipe.evaluate.window_seconds
    model.config.overlap = recipe.evaluate.window_overlap
    return to_device(model)


def to_device(model: PreTrainedModel) -> PreTrainedModel:
    """Move a model to the accelerator if there is one."""
    if device.current().type == "cuda":
        # TF32 convolutions would move float32 answers by a thousandth.
        torch.backends.cudnn.allow_tf32 = False
    return model.to(device.current())


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write the model folder atomically."""
    with atomic_write(folder) as partial:
        model.save_pretrained(partial)
        model.extractor.save_pretrained(partial)


def load_model(folder: Path, precision: str = "float32") -> PreTrainedModel:
    """Open a model folder, on the accelerator if there is one. Raises RunError for one that no family can open exactly.

    `precision` auto or bf16 runs a pretrained encoder in bfloat16, auto only where the processor multiplies it
    natively; the small families always run in float32.
    """
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise RunError(
            f"'{folder}' is no model that auricle can open: its config.json has no model_type: {error}"
        ) from error
    family = registration.family_of(model_type)
    if family is None:
        raise RunError(
            f"'{folder}' holds a model of type '{model_type}', which no family of auricle opens. Families: "
            f"{', '.join(registration.names())}."
        )
    model_class = registration.network(family).Model
    config_class = getattr(model_class, "config_class", None)
    if config_class is None:
        # The auto classes of transformers import every family, so only those that need them do.
        registration.register()
        config_class = transformers.AutoConfig
    try:
        config_class.from_pretrained(folder)
    except (ValueError, OSError, KeyError) as error:
        raise RunError(f"'{folder}' is no model that auricle can open: {error}") from error
    if not (folder / "model.safetensors").is_file():
        raise RunError(f"'{folder}' has no model.safetensors: the model was not saved completely. Train it again.")
    model, loading = model_class.from_pretrained(folder, ignore_mismatched_sizes=True, output_loading_info=True)
    _check_weights(folder, loading)
    model = to_device(model.eval())
    if is_bf16(precision) and registration.family(family).TRAINING == "fine_tuning":
        return model.to_bf16()
    return model


def weight_faults(missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[str]) -> str:
    """Name the first weights that are missing, unexpected or of another size; empty where there are none."""
    lists = {"lacks": missing, "has unexpected": unexpected, "has in another size": mismatched}
    named = {fault: sorted(names) for fault, names in lists.items()}
    return "; it ".join(
        f"{fault} {', '.join(names[:3])} ({len(names)} in all)" for fault, names in named.items() if names
    )


def _check_weights(folder: Path, loading: Mapping[str, Iterable[Any]]) -> None:
    """Raise RunError for what `from_pretrained` found no weights for: it would leave them uninitialised."""
    faults = weight_faults(
        [name for name in loading["missing_keys"] if not name.endswith(OPTIONAL_WEIGHTS)],
        loading["unexpected_keys"],
        [name for name, *_ in loading["mismatched_keys"]],
    )
    if faults:
        raise RunError(
            f"'{folder}' cannot be opened, because its model.safetensors does not match its config.json: it "
            f"{faults}. Another version of auricle may have saved it: train the model again."
        )
