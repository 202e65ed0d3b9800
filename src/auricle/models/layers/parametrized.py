"""Convolutions whose weight is computed from its norm at every call, as some pretrained encoders have them.

In: a module. Out: the same with plain weights, which can be converted and sent to other processes.
"""

import copy
from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrize

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def remove_parametrizations(network: nn.Module) -> None:
    """Give every parametrized convolution of a network its weight as one tensor, in place.

    PyTorch's own removal would change all copies of the network: they share the class that it made.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv1d) and parametrize.is_parametrized(child):
                setattr(module, name, _plain(child))


def portable(network: AnyModule) -> AnyModule:
    """A copy that can be pickled."""
    copied = copy.deepcopy(network)
    remove_parametrizations(copied)
    return copied


def _plain(conv: nn.Conv1d) -> nn.Conv1d:
    size, padding = conv.kernel_size[0], int(conv.padding[0])
    stock = nn.Conv1d(conv.in_channels, conv.out_channels, size, padding=padding, groups=conv.groups, device="meta")
    stock.weight = nn.Parameter(conv.weight.detach().clone())
    stock.bias = conv.bias
    return stock
