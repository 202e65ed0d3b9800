"""Training steps of the reference speaker network: in plain PyTorch, and auricle's of the same shape.

Both get the same random frames, 128 per clip as the reference trains, and the same head; a step is forward, loss,
backward and optimiser step. The reference runs in float32, ours as `auricle train` does: in bfloat16 where the
processor supports it natively. Rounds alternate, so that a machine that slows down affects both.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from auricle.models import device
from auricle.models.families.conformer import Options
from auricle.models.families.conformer import network as conformer
from auricle.models.layers.heads import build_head, soft_targets
from auricle.models.options import HeadOptions, ModelSpec
from benchmarks._environment import Screen

BANDS, FRAMES, SPEAKERS = 40, 128, 600
WIDTH, BLOCKS, HEADS, FACTOR, EXPANSION, KERNEL, DROPOUT = 512, 6, 8, 4, 2, 15, 0.1


class PlainBlock(nn.Module):
    """A conformer block (Gulati et al. 2020) of the reference's shape, from torch's own modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = self._feed_forward(), self._feed_forward()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, dropout=DROPOUT, batch_first=True)
        self.convolution_norm = nn.LayerNorm(WIDTH)
        inner = EXPANSION * WIDTH
        self.convolution = nn.Sequential(
            nn.Conv1d(WIDTH, 2 * inner, 1),
            nn.GLU(1),
            nn.Conv1d(inner, inner, KERNEL, padding=KERNEL // 2, groups=inner),
            nn.BatchNorm1d(inner),
            nn.SiLU(),
            nn.Conv1d(inner, WIDTH, 1),
            nn.Dropout(DROPOUT),
        )
        self.norm = nn.LayerNorm(WIDTH)

    @staticmethod
    def _feed_forward() -> nn.Sequential:
        return nn.Sequential(
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, FACTOR * WIDTH),
            nn.SiLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(FACTOR * WIDTH, WIDTH),
            nn.Dropout(DROPOUT),
        )

    def forward(self, values: Tensor) -> Tensor:
        values = values + 0.5 * self.first(values)
        normed = self.attention_norm(values)
        values = values + self.attention(normed, normed, normed, need_weights=False)[0]
        values = values + self.convolution(self.convolution_norm(values).transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.norm(values + 0.5 * self.second(values))
        return out


class Plain(nn.Module):
    """The reference network: a linear layer, six blocks, self-attentive pooling, a head with a margin."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Linear(BANDS, WIDTH)
        self.blocks = nn.Sequential(*(PlainBlock() for _ in range(BLOCKS)))
        self.score = nn.Linear(WIDTH, 1)
        self.head = build_head(HeadOptions(kind="am-softmax", margin=0.3, scale=15.0), WIDTH, SPEAKERS)

    def forward(self, frames: Tensor, labels: Tensor) -> Tensor:
        values = self.blocks(self.front(frames.transpose(1, 2)))
        pooled = (values * self.score(values).softmax(1)).sum(1)
        return self.head.loss(self.head(pooled), soft_targets(labels, SPEAKERS))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=16, help="clips in a step (default: 16)")
    parser.add_argument("--steps", type=int, default=4, help="steps in a round (default: 4)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each side (default: 5)")


def run(options: argparse.Namespace, screen: Screen) -> None:
    """Train both, alternating, and print steps per second."""
    screen.machine()
    torch.manual_seed(0)
    labels = tuple(str(number) for number in range(SPEAKERS))
    ours = conformer.build(Options(size="reference"), ModelSpec(100, 1, labels, BANDS))
    plain = Plain()
    frames, speakers = torch.randn(options.batch, BANDS, FRAMES), torch.randint(SPEAKERS, (options.batch,))
    bf16 = device.native_bf16()

    def our_loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss: Tensor = ours(frames, labels=speakers).loss
        return loss

    steps = {
        "plain PyTorch, float32": _step(plain, lambda: plain(frames, speakers)),
        f"auricle, {'bf16' if bf16 else 'float32'}": _step(ours, our_loss),
    }
    seconds: dict[str, list[float]] = {side: [] for side in steps}
    for number in range(options.rounds + 1):
        for side, step in steps.items():
            start = time.perf_counter()
            for _ in range(options.steps):
                step()
            if number:  # the first round is a warm-up
                seconds[side].append((time.perf_counter() - start) / options.steps)
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    sizes = {name: sum(weight.numel() for weight in model.parameters()) for name, model in (("p", plain), ("o", ours))}
    screen.say(
        f"{options.batch} clips of {FRAMES} frames; {sizes['p'] / 1e6:.1f} and {sizes['o'] / 1e6:.1f} M weights."
    )
    rows: list[tuple[str, ...]] = [("side", "steps/s", "clips/s")]
    for side, median in medians.items():
        rows.append((side, f"{1 / median:.2f}", f"{options.batch / median:.1f}"))
        screen.record("conformer", side=side, steps_per_second=1 / median)
    screen.table(rows)
    reference_seconds, our_seconds = medians.values()
    screen.result("conformer", "ratio", reference_seconds / our_seconds)


def _step(model: nn.Module, loss_of: Callable[[], Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        loss_of().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step
