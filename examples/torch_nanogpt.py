"""A small GPT in plain PyTorch on real bytes: the best rate over widths, with plain AdamW and as prescribed.

python -m examples.torch_nanogpt            # 64, 128, 256, 512: the table in docs/pytorch.md, from torch_nanogpt.csv
verify prescribe examples.torch_nanogpt:build --framework torch --base-width 64 --width 512 --optimizer adamw
"""

import argparse
import csv
import math
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found]
from torch import nn  # type: ignore[import-not-found]
from torch.nn import functional as F  # type: ignore[import-not-found]  # noqa: N812

import verify
from verify.torch import from_torch

CONTEXT, BATCH, LAYERS, HEAD = 16, 16, 2, 32
TEXT = torch.frombuffer(bytearray(Path(argparse.__file__).read_bytes()), dtype=torch.uint8)


class Block(nn.Module):
    """Attention and an MLP, each added to the stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Any) -> Any:
        """The stream with both added."""
        shape = (*x.shape[:2], -1, HEAD)
        q, k, v = (each.reshape(shape).transpose(1, 2) for each in self.qkv(self.norm(x)).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Bytes to the logits of the next."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(256, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(LAYERS)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, tokens: Any) -> Any:
        """Logits at every place."""
        x = self.table(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.norm(self.blocks(x)))


def batch(step: int) -> Any:
    """Windows of the text; the last byte of each is only a target."""
    starts = torch.randint(0, len(TEXT) - CONTEXT - 1, (BATCH, 1), generator=torch.Generator().manual_seed(step))
    return TEXT[starts + torch.arange(CONTEXT + 1)].long()


def build(width: int) -> GPT:
    """The module at a width."""
    return GPT(width)


def example(_: int) -> Any:
    """What its forward takes, by step."""
    return lambda step: batch(step)[:, :-1]


def train(setup: str, width: int, rate: float, seed: int, steps: int, scaling: Any) -> float:
    """The mean loss over the last fifth of the steps, in nats; NaN where it diverged."""
    torch.manual_seed(seed)
    model = build(width)
    at = scaling.at(width if setup == "prescribed" else scaling.base_width)
    if setup == "prescribed":
        at.rescale_(model)
    (optimizer,) = at.optimizers(model, rate, 0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10) * (1 - step / steps))
    last = []
    for step in range(steps):
        data = batch(steps * seed + step)
        loss = F.cross_entropy(model(data[:, :-1]).flatten(0, 1), data[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        last.append(loss.item())
        if not math.isfinite(last[-1]):
            return math.nan
    return sum(last[-steps // 5 :]) / len(last[-steps // 5 :])


def main() -> None:
    """Every set-up, width, rate and seed, a row each; a file that is there goes on where it was."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--widths", default="64,128,256,512")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("examples/torch_nanogpt.csv"))
    given = parser.parse_args()
    widths = [int(each) for each in given.widths.split(",")]
    make = from_torch(build, example)
    scaling = verify.prescribe(make, base_width=widths[0], width=widths[-1], optimizer="adamw").torch()
    known = set()
    if given.out.exists():
        known = {tuple(row[:4]) for row in csv.reader(given.out.open(encoding="utf-8"))}
    with given.out.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not known:
            writer.writerow(["setup", "width", "lr", "seed", "loss"])
        for seed in range(given.seeds):
            for width in widths:
                for setup in ("own", "prescribed"):
                    for power in range(-10, -3):
                        key = (setup, str(width), repr(2.0**power), str(seed))
                        if key not in known:
                            loss = train(setup, width, 2.0**power, seed, given.steps, scaling)
                            writer.writerow([*key, f"{loss:.5f}"])
                            file.flush()


if __name__ == "__main__":
    main()
