"""Everything that a recipe leaves open, decided once and before any recording is decoded.

In: a recipe. Out: a ResolvedRecipe with the family's options as its own type and with what a checkpoint decides. What
cannot work is refused here. Two values come later: reading the corpus gives the width of precomputed features, and
decoding a sample of it gives the commonest sample rate (`preparation.prepare`).
"""

import importlib.util
from dataclasses import dataclass
from typing import Any

from auricle.corpus.clip import Index
from auricle.errors import MissingExtra, UsageError
from auricle.models import registration
from auricle.recipe import Recipe


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe that the family can train. `options` is an instance of the family's Options."""

    recipe: Recipe
    options: Any

    @property
    def training(self) -> str:
        """How the family is trained: closed_form, gradient or fine_tuning."""
        return str(registration.family(self.recipe.model.family).TRAINING)


def resolve(recipe: Recipe) -> ResolvedRecipe:
    """Check the recipe against its family, its checkpoint and what is installed.

    Raises UsageError for what cannot work, MissingExtra for a tracker that is not installed.
    """
    options = registration.parse_options(recipe)
    tracker = recipe.train.report_to
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise MissingExtra(f"Tracking with {tracker}", "track")
    family = registration.family(recipe.model.family)
    if family.TRAINING == "fine_tuning":
        recipe = family.resolve(recipe, options)
    if recipe.audio.num_features is not None:
        check_features(recipe, recipe.audio.num_features)
    return ResolvedRecipe(recipe, options)


def check_corpus(recipe: Recipe, index: Index) -> None:
    """Refuse a corpus of precomputed features for a family that takes none, before anything is decoded."""
    if index.num_features is not None:
        check_features(recipe, index.num_features)


def check_features(recipe: Recipe, num_features: int) -> None:
    """Raise UsageError where the recipe's family takes no precomputed features."""
    able = [name for name in registration.names() if registration.family(name).TAKES_FEATURES]
    if recipe.model.family not in able:
        raise UsageError(
            f"The corpus holds {num_features} precomputed features per frame, and the family '{recipe.model.family}' "
            f"takes audio. Families that take precomputed features: {', '.join(able)}. Choose one with "
            f"--set model.family={able[0]}."
        )
