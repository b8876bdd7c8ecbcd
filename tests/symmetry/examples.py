"""Modules that tests of symmetry and alignment share."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import weightspace as ws
from weightspace.networks.calling import call
from weightspace.runtime.copies import copied
from weightspace.runtime.double import doubled
from weightspace.symmetry import Symmetry, trace


def architecture(sizes: list[int]) -> ws.Architecture:
    return ws.Architecture("MLP", {"sizes": [5, *sizes, 4]})


@cache
def derived(sizes: tuple[int, ...]) -> Symmetry:
    arch = ws.Architecture("MLP", {"sizes": list(sizes)})
    return trace(arch.build_seeded(0), arch.example(16))


def derive(arch: ws.Architecture) -> Symmetry:
    if arch.name == "MLP":
        return derived(tuple(arch.arguments["sizes"]))
    return trace(arch.build_seeded(0), arch.example(16))


class Attention(nn.Module):
    """Packed projections, heads by view, scaled dot-product attention."""

    def __init__(self, rotary: bool = False, shared_norm: bool = False) -> None:
        super().__init__()
        self.start, self.qkv, self.out, self.end = (
            nn.Linear(5, 12),
            nn.Linear(12, 36),
            nn.Linear(12, 12),
            nn.Linear(12, 2),
        )
        self.norm = nn.LayerNorm(4) if shared_norm else nn.Identity()
        self.rotary = rotary

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.start(x)
        n, t, width = x.shape
        q, k, v = (part.view(n, t, 3, 4).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        q, k = self.norm(q), self.norm(k)
        if self.rotary:
            angle = torch.arange(t)[:, None] * torch.tensor([1.0, 0.1])
            cos, sin = (f(angle).repeat(1, 2) for f in (torch.cos, torch.sin))
            q, k = (z * cos + torch.cat([-z[..., 2:], z[..., :2]], -1) * sin for z in (q, k))
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, width)
        return self.end(x + self.out(h))


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.end = layer, nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.layer(x)[0][-1])


class Indexed(nn.Module):
    """A residual connection through a constant permutation of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.register_buffer("order", torch.tensor([1, 0, 3, 2, 5, 4]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x).relu()
        return self.c(h + self.b(h[:, self.order]).relu())


class Shuffled(nn.Module):
    """ShuffleNet's channel shuffle between two grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x).relu()
        n, _, height, width = h.shape
        h = h.view(n, 2, 4, height, width).transpose(1, 2).reshape(n, 8, height, width)
        return self.c(self.b(h).relu())


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.c = nn.Linear(4, 6), nn.Linear(4, 5), nn.BatchNorm1d(11), nn.Linear(11, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.norm(torch.cat([self.a(x), self.b(x)], 1)).relu())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.table(words)))


class Auxiliary(nn.Module):
    """A second output in training mode only, as in GoogLeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.extra = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        h = self.a(x).relu()
        return (self.b(h), self.extra(h)) if self.training else self.b(h)


def chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


IMAGES = (2, 3, 8, 8)


# Name: module, shape of the example, number of groups, groups that have a parent, least coverage.
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int, float]] = {
    "conv, flatten, linear": (lambda: ws.models.LeNet5(), (2, 1, 28, 28), 4, 0, 0.99),
    "batch norm": (lambda: chain(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)), IMAGES, 1, 0,
    0.9), "residual": (lambda: ws.models.ResNet20(width=0.25), (2, 3, 16, 16), 12, 0, 0.99),
    "residual, padded shortcuts": (lambda: ws.models.ResNet20(width=0.25, shortcut="pad"), (2, 3, 16, 16), 12, 0, 0.99),
    "transposed": (
        lambda: chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)),
        IMAGES, 2, 0, 0.9,
    ),
    "grouped": (
        lambda: chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 4, 3)),
        IMAGES, 3, 2, 0.9,
    ),
    "depthwise": (
        lambda: chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 3)),
        IMAGES, 1, 0, 0.9,
    ),
    "depthwise, multiplied": (
        lambda: chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 24, 3, groups=8), nn.ReLU(), nn.Conv2d(24, 4, 3)),
        IMAGES, 2, 1, 0.9,
    ),
    "group norm": (lambda: chain(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 4, 3)), IMAGES, 2, 1,
    0.9), "depthwise and group norm": (
        lambda: chain(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.GroupNorm(4, 8), nn.Conv2d(8, 4, 3)),
        IMAGES, 2, 1, 0.9,
    ),
    "layer norm": (lambda: chain(nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 2)), (6, 5), 1, 0, 0.9),
    "gated": (lambda: chain(nn.Linear(5, 12), nn.GLU(), nn.Linear(6, 2)), (6, 5), 1, 0, 0.9),
    "PReLU": (lambda: chain(nn.Linear(5, 12), nn.PReLU(12), nn.Linear(12, 2)), (6, 5), 1, 0, 0.9),
    "pixel shuffle": (lambda: chain(nn.Conv2d(3, 16, 3), nn.PixelShuffle(2), nn.Conv2d(4, 2, 3)), IMAGES, 1, 0, 0.9),
    "concatenation": (Joined, (6, 4), 2, 0, 0.9),
    "constant index": (Indexed, (6, 4), 1, 0, 0.9),
    "channel shuffle": (Shuffled, IMAGES, 3, 2, 0.9),
    "attention": (Attention, (2, 7, 5), 4, 2, 0.99),
    "attention, rotary": (lambda: Attention(rotary=True), (2, 7, 5), 3, 1, 0.99),
    "attention, a norm shared by heads": (lambda: Attention(shared_norm=True), (2, 7, 5), 4, 1, 0.99),
    "vision transformer": (lambda: ws.models.ViT(width=12, depth=2, heads=3, patch=8), (2, 3, 32, 32), 9, 4, 0.99),
    "transformer, tied embedding": (Tied, (2, 6), 5, 2, 0.99),
    "LSTM": (lambda: Recurrent(nn.LSTM(4, 6, 2), 6), (5, 2, 4), 2, 0, 0.99),
    "LSTM, both ways": (lambda: Recurrent(nn.LSTM(4, 5, bidirectional=True), 10), (5, 2, 4), 2, 0, 0.99),
    "LSTM, projected": (lambda: Recurrent(nn.LSTM(4, 6, proj_size=3), 3), (5, 2, 4), 2, 0, 0.9),
    "GRU": (lambda: Recurrent(nn.GRU(4, 6), 6), (5, 2, 4), 1, 0, 0.95),
    "auxiliary output in training": (Auxiliary, (6, 4), 1, 0, 0.9),
}  # fmt: skip


def example(name: str) -> torch.Tensor:
    shape = MODULES[name][1]
    random = torch.Generator().manual_seed(1)
    if name == "transformer, tied embedding":
        return torch.randint(20, shape, generator=random)
    return torch.randn(shape, generator=random)


class Cumulated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x).cumsum(1))


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """4 - 6 - 2; subclasses change what lies between."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("statistic", torch.zeros(6))
        self.gate = nn.Parameter(torch.tensor(1.0))

    def inside(self, h: torch.Tensor) -> torch.Tensor:
        return h

    def forward(self, x: torch.Tensor) -> object:
        return self.b(self.gate * self.inside(self.a(x).relu()))


def net(inside: Callable[[Net, torch.Tensor], torch.Tensor]) -> Net:
    return type("Variant", (Net,), {"inside": inside})()


def outputs_of_a_copy(symmetry: Symmetry, module: nn.Module, x: Any) -> tuple[Any, Any]:
    """What a module and a randomly permuted copy of it return, in float64."""
    first, x = copied(module).double().eval(), doubled(x)
    second, layout = copied(first), symmetry.layout
    orders = symmetry.random(torch.Generator().manual_seed(3))
    state = {name: t for name, t in first.state_dict().items() if name in {e.name for e in layout.entries}}
    second.load_state_dict(symmetry.move(state, orders), strict=False)
    with torch.no_grad():
        return call(first, x), call(second, x)
