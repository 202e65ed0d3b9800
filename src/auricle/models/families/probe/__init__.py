"""A frozen encoder and two ridge classifiers: the `probe` family, fitted in closed form after one pass of the encoder.

The encoder is any of `pretrained`, or an EfficientAT network for everyday sounds.
"""

from typing import Any, Literal

import pydantic

from auricle.errors import UsageError
from auricle.recipe import Recipe

TRAINING: Literal["closed_form"] = "closed_form"
TAKES_FEATURES = False
MODEL_TYPES = ("auricle-probe",)


class Options(pydantic.BaseModel):
    """Options of `family: probe`. What is `auto` is chosen by the log-loss of training groups that were held out."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    checkpoint: str = pydantic.Field(
        description="A short name of `auricle encoders`, a Hub name, a folder, or a file of EfficientAT's releases."
    )
    revision: str | None = pydantic.Field(None, description="The Hub's branch, tag or commit; null is its main branch.")
    allow_pickle: bool = pydantic.Field(
        False,
        description="Open weights that exist only as pytorch_model.bin, as tensors alone; safetensors come first.",
    )
    preprocessor: dict[str, Any] = {}
    layers: Literal["auto"] | tuple[int, ...] = pydantic.Field(
        "auto", description="Layers whose statistics are classified, the embedding being 0, such as [2, 3]."
    )
    descriptors: Literal["auto"] | bool = pydantic.Field(
        "auto", description="Whether the instant baseline's statistics of acoustic descriptors are joined."
    )
    max_support: int = pydantic.Field(6000, ge=100)


def resolve(recipe: Recipe, options: Options) -> Recipe:
    """Fill in what the encoder decides: the sample rate, and windows where it limits the length of clips.

    Raises UsageError for a rate other than the encoder's, for stereo, and for layers that the encoder does not have.
    """
    # Reading a checkpoint needs transformers; checking the options above does not.
    from auricle.models.encoders.opening import describe

    encoder = describe(options.checkpoint, options.revision, options.preprocessor)
    if recipe.audio.sample_rate not in (None, encoder.sample_rate):
        raise UsageError(
            f"audio.sample_rate received {recipe.audio.sample_rate}, and the checkpoint '{options.checkpoint}' "
            f"takes {encoder.sample_rate} Hz. Set it to {encoder.sample_rate} or null."
        )
    if recipe.audio.channels != 1:
        raise UsageError("audio.channels received 2. Encoders take one channel: set it to 1.")
    if options.layers != "auto":
        unknown = [layer for layer in options.layers if not 0 <= layer < encoder.layers]
        if unknown or not options.layers or len(set(options.layers)) < len(options.layers):
            raise UsageError(
                f"model.layers received {list(options.layers)}. The checkpoint '{options.checkpoint}' has the layers 0 "
                f"to {encoder.layers - 1}: name each at most once, and one at least, or set it to auto."
            )
    recipe = recipe.replace("audio", sample_rate=encoder.sample_rate)
    window = recipe.evaluate.window_seconds
    if encoder.max_seconds is not None and (window is None or window > encoder.max_seconds):
        recipe = recipe.replace("evaluate", window_seconds=encoder.max_seconds)
    return recipe
