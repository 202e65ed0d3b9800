"""From a recipe to a fresh model, and from a model to its folder.

In: a recipe, checked against the family that it names. Out: a model of that family; a folder, whole or not there.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import torch
from transformers import AutoConfig, PreTrainedModel

from auricle import recipe as recipes
from auricle.errors import RunError, UsageError
from auricle.models import registration
from auricle.models.precision import is_bf16
from auricle.recipe import Recipe


def settle(recipe: Recipe) -> Recipe:
    """Check the recipe's family and fill in what a pretrained model decides of the audio. Raises UsageError."""
    check_family(recipe)
    family = registration.family(recipe.model.family)
    settled: Recipe = family.settle(recipe) if is_pretrained(recipe) else recipe
    return settled


def check_family(recipe: Recipe) -> Any:
    """The options of the recipe's family. Raises UsageError for a family or an option that is not known."""
    family = registration.family(recipe.model.family)
    try:
        return family.Options.model_validate(recipe.model.options)
    except pydantic.ValidationError as error:
        known = recipes.explain(error, family.Options)
        raise UsageError(f"model section, family '{recipe.model.family}': {known}") from error


def check_frames(recipe: Recipe) -> None:
    """Check that the recipe's family takes what the corpus holds. Raises UsageError where it takes no precomputed features."""
    if recipe.audio.num_features is None or takes_frames(recipe.model.family):
        return
    able = ", ".join(name for name in registration.names() if takes_frames(name))
    raise UsageError(
        f"The corpus holds precomputed features of {recipe.audio.num_features} bands, and the family '{recipe.model.family}' hears "
        f"sound. Families that take frames: {able}. Name one with --set model.family={able.partition(',')[0]}."
    )


def takes_frames(family: str) -> bool:
    """Whether a family's `build` takes the width of precomputed features as `bands`."""
    return bool(getattr(registration.family(family), "FRAMES", False))


def build_model(recipe: Recipe, labels: Sequence[str]) -> PreTrainedModel:
    """A fresh model of the recipe's family; the same seed gives the same weights."""
    family = registration.family(recipe.model.family)
    assert recipe.audio.sample_rate is not None, "preparing resolves the sample rate"
    torch.manual_seed(recipe.train.seed)
    check_frames(recipe)
    audio = recipe.audio
    frames = {} if audio.num_features is None else {"num_features": audio.num_features}
    model: PreTrainedModel = family.build(
        check_family(recipe), sample_rate=audio.sample_rate, channels=audio.channels, labels=labels, **frames
    )
    model.config.window_seconds = recipe.evaluate.window_seconds
    model.config.overlap = recipe.evaluate.window_overlap
    return model


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write the model folder whole or not at all: under another name first."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    model.extractor.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def is_pretrained(recipe: Recipe) -> bool:
    """Whether the recipe's family begins with a checkpoint."""
    return hasattr(registration.family(recipe.model.family), "settle")


def is_fitted(recipe: Recipe) -> bool:
    """Whether the recipe's family is fitted in closed form."""
    return hasattr(registration.family(recipe.model.family).Model, "solve")


def load_model(folder: Path, precision: str = "float32") -> PreTrainedModel:
    """Open a model folder, on the accelerator where there is one.

    `precision` auto or bf16 lets a pretrained encoder answer in bfloat16, auto where the processor multiplies it
    natively; the small families always answer in float32. Raises RunError for a folder that no family can open.
    """
    registration.register()
    try:
        config = AutoConfig.from_pretrained(folder)
    except (ValueError, OSError, KeyError) as error:
        raise RunError(f"'{folder}' is no model that auricle can open: {error}") from error
    family = registration.family_of(config.model_type)
    if family is None:
        raise RunError(
            f"'{folder}' holds a model of type '{config.model_type}', which no family of auricle opens. Families: "
            + ", ".join(registration.names())
            + "."
        )
    if not (folder / "model.safetensors").is_file():
        raise RunError(f"'{folder}' has no model.safetensors: the model was not saved completely. Train it again.")
    model: PreTrainedModel = family.Model.from_pretrained(folder).eval()
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model.to_bf16() if hasattr(model, "lighten") and is_bf16(precision) else model
