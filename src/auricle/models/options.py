"""Options that several families share. Checking a recipe imports this module, so it imports neither torch nor
transformers.
"""

from typing import Literal

import pydantic

PoolingKind = Literal["mean", "mean-max", "statistics", "attention"]


class HeadOptions(pydantic.BaseModel):
    """How embeddings become logits. `margin`, `scale` and `warmup` belong to the two margin heads; `warmup` is the
    share of training over which the margin rises from 0.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    kind: Literal["softmax", "am-softmax", "aam-softmax"] = "softmax"
    margin: float = pydantic.Field(0.3, ge=0, lt=1.5)
    scale: float = pydantic.Field(15.0, gt=0)
    warmup: float = pydantic.Field(0.0, ge=0, lt=1)
