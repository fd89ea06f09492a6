"""Small PyTorch modules as people write them, each with what every parameter is, by hand; imported where torch is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch  # type: ignore[import-not-found]
from torch import nn  # type: ignore[import-not-found]
from torch.nn import functional as F  # type: ignore[import-not-found]  # noqa: N812

VOCABULARY, CONTEXT, BATCH, LAYERS = 13, 6, 2, 2


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(7, width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 5)
        )

    def forward(self, x: Any) -> Any:
        return self.layers(x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Any) -> Any:
        batch, time, width = x.shape
        parts = self.c_attn(self.ln_1(x)).split(width, dim=2)
        q, k, v = (each.view(batch, time, self.heads, width // self.heads).transpose(1, 2) for each in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(batch, time, width))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class GPT(nn.Module):
    """nanoGPT's shape: heads of size 4, or a fixed number of them that grow."""

    def __init__(self, width: int, tied: bool = False, heads: int | None = None) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, width), nn.Embedding(CONTEXT, width)
        self.h = nn.ModuleList([Block(width, heads or width // 4) for _ in range(LAYERS)])
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)
        if tied:
            self.wte.weight = self.lm_head.weight

    def forward(self, tokens: Any) -> Any:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class Encoder(nn.Module):
    """torch's own nn.TransformerEncoder, with a class in the end; its causal mask is a buffer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, width // 4, 2 * width, dropout=0.0, batch_first=True)
        self.table = nn.Embedding(VOCABULARY, width)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.out = nn.Linear(width, 3)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT))

    def forward(self, tokens: Any) -> Any:
        return self.out(self.encoder(self.table(tokens), mask=self.mask).mean(dim=1))


class Residual(nn.Module):
    def __init__(self, fan_in: int, fan_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(fan_out), nn.BatchNorm2d(fan_out)
        self.down = nn.Conv2d(fan_in, fan_out, 1, stride, bias=False) if stride != 1 else nn.Identity()

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.down(x))


class ResNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(Residual(width, width), Residual(width, 2 * width, 2))
        self.fc = nn.Linear(2 * width, 5)

    def forward(self, x: Any) -> Any:
        x = self.blocks(F.relu(self.bn(self.stem(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class UNet(nn.Module):
    """Down, up by a transposed convolution, and a skip that is joined to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.GroupNorm(4, width)
        self.down = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join, self.last = nn.Conv2d(2 * width, width, 3, padding=1), nn.Conv2d(width, 3, 1)

    def forward(self, x: Any) -> Any:
        skip = F.silu(self.norm(self.first(x)))
        y = self.up(F.silu(self.down(skip)))
        return self.last(F.silu(self.join(torch.cat([skip, y], dim=1))))


def tokens(_: int) -> Any:
    return torch.randint(0, VOCABULARY, (BATCH, CONTEXT))


def images(_: int) -> Any:
    return torch.randn(BATCH, 3, 8, 8)


@dataclass(frozen=True)
class Case:
    """A module; patterns of what is a readout and what feeds on it: the first that fits, else hidden for matrices."""

    build: Callable[[int], Any]
    example: Callable[[int], Any]
    roles: Mapping[str, str]
    multipliers: Mapping[str, str] = field(default_factory=dict)
    """Module by exponent of every product that needs a multiplier."""

    def role(self, name: str, shape: tuple[int, ...]) -> str:
        """By hand: vectors and first layers are embeddings, the last is the readout, the rest hidden."""
        found = next((role for pattern, role in self.roles.items() if fnmatchcase(name, pattern)), None)
        return found or ("hidden" if len(shape) > 1 else "embedding")


GPT_ROLES = {"w?e.weight": "embedding", "lm_head.weight": "readout"}
CASES = {
    "mlp": Case(MLP, lambda _: torch.randn(8, 7), {"layers.0.weight": "embedding", "layers.5.weight": "readout"}),
    "gpt": Case(GPT, tokens, GPT_ROLES),
    "gpt_tied": Case(lambda width: GPT(width, tied=True), tokens, GPT_ROLES, {"lm_head": "1"}),
    "gpt_heads": Case(lambda width: GPT(width, heads=2), tokens, GPT_ROLES, {"h.0": "1/2", "h.1": "1/2"}),
    "encoder": Case(Encoder, tokens, {"table.weight": "embedding", "out.weight": "readout"}),
    "resnet": Case(ResNet, images, {"stem.weight": "embedding", "fc.weight": "readout"}),
    "unet": Case(UNet, images, {"first.weight": "embedding", "last.weight": "readout"}),
}
