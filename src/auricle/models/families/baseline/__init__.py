"""Statistics of acoustic descriptors and two ridge classifiers: the `baseline` family, fitted in seconds without
epochs.
"""

from typing import Literal

import pydantic

TRAINING: Literal["closed_form"] = "closed_form"
TAKES_FEATURES = True
MODEL_TYPES = ("auricle-baseline",)


class Options(pydantic.BaseModel):
    """Options of `family: baseline`."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    n_mels: int = pydantic.Field(40, ge=20, le=160, multiple_of=10)
    n_mfcc: int = pydantic.Field(20, ge=16, le=20)
    max_support: int = pydantic.Field(6000, ge=100)
