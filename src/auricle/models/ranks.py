"""The processes that train one model together: which of them this is, and what they exchange.

`torchrun` starts them and gives each a number, its rank. Each has a device of its own; on processors they exchange over
gloo, between GPUs over NCCL. A process that was not started so is the only one, and exchanges nothing.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from auricle.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

# The first rank may decode for days before it trains; a rank that ends is noticed at once, by its connection.
PATIENCE = timedelta(days=30)
# Gradients that are summed at once, in values.
BUCKET = 8 << 20


# What torchrun tells a process about itself. Libraries that read it would divide the work again.
_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")
_joined: tuple[int, int] | None = None


def started() -> int:
    """How many processes `torchrun` started; 1 without it."""
    return _joined[1] if _joined is not None else int(os.environ.get("WORLD_SIZE", "1"))


def number() -> int:
    """This process's rank; the first, 0, decides, writes and reports."""
    return _joined[0] if _joined is not None else int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many processes train together: 1 until they have joined."""
    return 1 if _joined is None else _joined[1]


def join() -> None:
    """Meet the other processes. Each sees the GPU of its place on its machine alone."""
    global _joined
    local = int(os.environ.get("LOCAL_RANK", "0"))
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[local % len(visible)] if visible else str(local)
    import torch
    import torch.distributed as ranks

    ranks.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    _joined = (ranks.get_rank(), ranks.get_world_size())
    for name in _VARIABLES:
        os.environ.pop(name, None)


def leave() -> None:
    """End the connection."""
    global _joined
    import torch.distributed as ranks

    _joined = None
    if ranks.is_initialized():
        ranks.destroy_process_group()


def meet() -> None:
    """Wait until every rank is here."""
    import torch

    all_reduce(torch.zeros(1))


def broadcast(value: Any = None) -> Any:
    """The value that the first rank gives, at every rank: anything that can be pickled."""
    if count() == 1:
        return value
    import torch.distributed as ranks

    given = [value]
    with _connected():
        ranks.broadcast_object_list(given, src=0)
    return given[0]


def all_reduce(tensor: "Tensor") -> "Tensor":
    """The tensor, after it became the sum over all ranks; no gradient flows through it."""
    if count() > 1:
        import torch.distributed as ranks

        with _connected():
            ranks.all_reduce(tensor)
    return tensor


def sum_gradients(weights: Sequence[Any]) -> None:
    """Sum the gradients of weights over all ranks; a rank whose clips gave a weight none adds zero."""
    import torch

    used = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.float32)
    summed = [weight for weight, given in zip(weights, all_reduce(used).tolist(), strict=True) if given]
    for weight in summed:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    bucket: list[Tensor] = []
    for weight in (*summed, None):
        if bucket and (weight is None or sum(map(torch.Tensor.numel, bucket)) + weight.numel() > BUCKET):
            flat = all_reduce(torch.cat([gradient.reshape(-1) for gradient in bucket]))
            for gradient, total in zip(bucket, torch.split(flat, [one.numel() for one in bucket]), strict=True):
                gradient.copy_(total.view_as(gradient))
            bucket = []
        if weight is not None:
            bucket.append(weight.grad)


class _connected:
    """Turns a lost connection into a RunError that says how to go on."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError):
            raise RunError(
                "Another process of this training ended, and so it ends. Completed epochs are saved: run the same "
                "command again with --resume."
            ) from error
