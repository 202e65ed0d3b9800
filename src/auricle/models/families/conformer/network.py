"""The networks of the `conformer` family, in three sizes.

`tutorial` and `reference` are the two networks of the speaker reference (S3); `default` subsamples the frames to a
quarter, which makes it fast on two cores, and its log-probabilities are averaged with the baseline's.
"""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn

from auricle.models.families.conformer import MODEL_TYPES, Options
from auricle.models.layers import masking
from auricle.models.layers.blocks import ConformerBlock, ConvSubsampling, TransformerBlock, batch_context, subsampled
from auricle.models.layers.masking import BatchNorm
from auricle.models.layers.pooling import Pooling, pooled_size
from auricle.models.options import HeadOptions, ModelSpec, PoolingKind
from auricle.models.spectrogram import SpectrogramConfig, SpectrogramNetwork, baseline_config

HOP_SECONDS, FRAME_SECONDS = 0.010, 0.025


@strict
class Config(SpectrogramConfig):
    """What SpectrogramConfig has, and: block, the kind of block; subsampling_channels of the two strided convolutions,
    None for a linear layer; hidden_size, intermediate_size, head_dim: widths; num_hidden_layers, num_attention_heads:
    counts; conv_expansion: width of the convolution over hidden_size; conv_kernel_size: frames; projection_size: width
    of a linear layer between pooling and head.
    """

    model_type = MODEL_TYPES[0]

    n_mels: int = 40
    n_fft: int = 512
    hop_length: int = 160
    dropout: float = 0.1
    pooling: PoolingKind = "statistics"
    block: Literal["conformer", "transformer"] = "conformer"
    subsampling_channels: int | None = None
    hidden_size: int = 144
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    head_dim: int = 36
    intermediate_size: int = 576
    conv_expansion: int = 1
    conv_kernel_size: int = 15
    projection_size: int | None = None


# S3's two networks as its text describes them, and ours.
SIZES: dict[str, dict[str, Any]] = {
    "default": {"subsampling_channels": 32},
    "tutorial": {
        "block": "transformer",
        "hidden_size": 80,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 40,
        "intermediate_size": 256,
        "projection_size": 80,
        "pooling": "mean",
    },
    "reference": {
        "hidden_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "head_dim": 64,
        "intermediate_size": 2048,
        "conv_expansion": 2,
        "pooling": "attention",
    },
}
HEADS = {
    "default": HeadOptions(kind="am-softmax", margin=0.2, scale=30.0, warmup=0.3),
    "tutorial": HeadOptions(),
    "reference": HeadOptions(kind="am-softmax", margin=0.3, scale=15.0),
}


def build(options: Options, spec: ModelSpec) -> "Model":
    """Make a fresh model of one size for one corpus."""
    size = dict(SIZES[options.size])
    size["pooling"] = options.pooling or size.get("pooling", "statistics")
    has_member = options.ensemble_baseline and options.size == "default"
    config = Config(
        **spec.config_keys,
        hop_length=max(1, round(HOP_SECONDS * spec.sample_rate)),
        # 25 ms or a little more: powers of two transform fast.
        n_fft=1 << (round(FRAME_SECONDS * spec.sample_rate) - 1).bit_length(),
        head=(options.head or HEADS[options.size]).model_dump(),
        ensemble_member=baseline_config(spec).to_dict() if has_member else None,
        **size,
    )
    return Model(config)


class Model(SpectrogramNetwork):
    """Standardised features, subsampling or a linear layer, blocks, pooling over real frames, head."""

    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        num_features = config.num_features or config.n_mels
        self.input_projection = (
            ConvSubsampling(num_features, config.subsampling_channels, config.hidden_size)
            if config.subsampling_channels
            else nn.Linear(num_features, config.hidden_size)
        )
        block = TransformerBlock if config.block == "transformer" else ConformerBlock
        self.blocks = nn.ModuleList(block(config) for _ in range(config.num_hidden_layers))
        self.pooling = Pooling(config.pooling, config.hidden_size)
        size = pooled_size(config.pooling, config.hidden_size)
        self.projection = nn.Linear(size, config.projection_size) if config.projection_size else None
        self.add_head(config.projection_size or size)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            nn.init.xavier_uniform_(module.in_proj_weight)
            nn.init.zeros_(module.in_proj_bias)
        elif isinstance(module, BatchNorm | nn.LayerNorm):
            module.reset_parameters()

    def encode(self, values: Tensor, lengths: Tensor) -> Tensor:
        values = values[:, 0]
        if self.config.subsampling_channels:
            values, lengths = self.input_projection(values, lengths), subsampled(lengths)
        else:
            values = self.input_projection(values.transpose(1, 2))
        context = batch_context(lengths, values.shape[1], self.config.head_dim)
        for block in self.blocks:
            values = block(values, context)
        pooled: Tensor = self.pooling(values.transpose(1, 2), masking.real(lengths, values.shape[1]))
        return pooled if self.projection is None else self.projection(pooled).relu()


AUTO_MODELS = (Model,)
