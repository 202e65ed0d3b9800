"""The networks of the `cnn` family, in two sizes.

`default` is a small network that learns from scratch in minutes on two cores; its log-probabilities are averaged with
the baseline's. `tutorial` is the reference network for everyday sounds, layer for layer: four strided convolutions over
four fixed seconds.
"""

from typing import Literal

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn

from auricle.models.families.cnn import MODEL_TYPES, Options
from auricle.models.layers import masking
from auricle.models.layers.masking import BatchNorm
from auricle.models.layers.pooling import Pooling, pooled_size
from auricle.models.options import ModelSpec
from auricle.models.spectrogram import SpectrogramConfig, SpectrogramNetwork, baseline_config


@strict
class Config(SpectrogramConfig):
    """What SpectrogramConfig has, and: block, the kind of convolutional block; block_channels and kernel_sizes, the
    output channels and the square kernel's size of each block.
    """

    model_type = MODEL_TYPES[0]

    block: Literal["pooled", "strided"] = "pooled"
    block_channels: list[int] | tuple[int, ...] = (16, 32, 64, 128)
    kernel_sizes: list[int] | tuple[int, ...] = (3, 3, 3, 3)


def build(options: Options, spec: ModelSpec) -> "Model":
    """Make a fresh model of one size for one corpus."""
    assert spec.num_features is None, "the family takes no precomputed features"
    config = Config(**spec.config_keys, head=options.head.model_dump())
    if options.size == "tutorial":
        # S4's network: torchaudio's mel floor (1e-10), 80 dB below the loudest value, four seconds.
        config.mel_floor, config.top_db, config.fixed_seconds = 1e-10, 80.0, 4.0
        config.block, config.block_channels, config.kernel_sizes = "strided", [8, 16, 32, 64], [5, 3, 3, 3]
        config.pooling = options.pooling or "mean"
        return Model(config)
    # A hop of 23 ms and windows of 46 ms at any sample rate; multiples of 8 transform fast.
    config.hop_length = 8 * round(spec.sample_rate * 0.0232 / 8)
    config.n_fft = 2 * config.hop_length
    config.dropout = 0.2
    config.pooling = options.pooling or "mean-max"
    config.ensemble_member = baseline_config(spec).to_dict() if options.ensemble_baseline else None
    return Model(config)


class Model(SpectrogramNetwork):
    """Log-mel, convolutional blocks, pooling over real frames, head."""

    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config, channels=config.channels)
        sizes = [config.channels, *config.block_channels]
        shapes = zip(sizes, sizes[1:], config.kernel_sizes, strict=False)
        self.blocks = nn.ModuleList(Block(*shape, strided=config.block == "strided") for shape in shapes)
        self.pooling = Pooling(config.pooling, sizes[-1])
        self.add_head(pooled_size(config.pooling, sizes[-1]), config.dropout)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            # a = 0.1 is S4's; it differs from He's own by half a per cent.
            nn.init.kaiming_normal_(module.weight, a=0.1)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, BatchNorm):
            module.reset_parameters()

    def encode(self, values: Tensor, lengths: Tensor) -> Tensor:
        values = values.expand(-1, self.config.channels, -1, -1)
        # Without padding there is nothing to mask, and the library's own batch norm is the fastest.
        padded = not self.training or int(lengths.min()) < values.shape[-1]
        for block in self.blocks:
            values = block(values, lengths if padded else None)
            # A stride or a pool of 2 over n frames gives ceil(n / 2).
            lengths = (lengths + 1) // 2
        values = values.mean(2)
        return self.pooling(values, masking.real(lengths, values.shape[-1]))


AUTO_MODELS = (Model,)


class Block(nn.Module):
    """Convolution, batch norm and ReLU, halving (batch, channels, features, frames).

    S4's has stride 2, and its norm comes last. The other computes every position and takes the maximum of every 2 x 2
    values, which a small corpus gains more by than by depth or width after strided layers. The ReLU comes last, on a
    quarter of the values; a zero from beyond a clip's end changes nothing below it.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, strided: bool) -> None:
        super().__init__()
        stride, padding = 2 if strided else 1, kernel_size // 2
        self.strided = strided
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=strided)
        self.norm = BatchNorm(out_channels)

    def forward(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        """Halve values of `lengths` real frames (batch,); None is all real."""
        values = self.convolution(values)
        if self.strided:
            return self.norm(values.relu(), None if lengths is None else (lengths + 1) // 2)
        return nn.functional.max_pool2d(self.norm(values, lengths), 2, ceil_mode=True).relu_()
