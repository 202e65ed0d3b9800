"""From a model folder to a model of PyTorch that answers."""

from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel

from auricle import models
from auricle.errors import RunError
from auricle.models.precision import is_bf16


def load_model(folder: Path, precision: str = "float32") -> PreTrainedModel:
    """Open a model folder, on the accelerator where there is one.

    `precision` auto or bf16 lets a pretrained encoder answer in bfloat16, auto where the processor multiplies it
    natively; the small families always answer in float32. Raises RunError for a folder that no family can open.
    """
    models.register()
    try:
        config = AutoConfig.from_pretrained(folder)
    except (ValueError, OSError, KeyError) as error:
        raise RunError(f"'{folder}' is no model that auricle can open: {error}") from error
    family = models.family_of(config.model_type)
    if family is None:
        raise RunError(
            f"'{folder}' holds a model of type '{config.model_type}', which no family of auricle opens. Families: "
            + ", ".join(models.names())
            + "."
        )
    if not (folder / "model.safetensors").is_file():
        raise RunError(f"'{folder}' has no model.safetensors: the model was not saved completely. Train it again.")
    model: PreTrainedModel = family.Model.from_pretrained(folder).eval()
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model.lighten() if hasattr(model, "lighten") and is_bf16(precision) else model
