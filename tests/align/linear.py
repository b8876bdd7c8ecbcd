"""Networks with units that can be mixed, their tables by hand, and copies hidden by every kind of symmetry."""

from collections.abc import Callable
from functools import cache

import torch
from torch import nn

import weightspace as ws
from tests.symmetry.examples import Attention
from weightspace.symmetry import Axis, Group, Symmetry

A = Axis


def adapter() -> nn.Module:
    """The two factors of a low-rank update."""
    return nn.Sequential(nn.Linear(6, 3, bias=False), nn.Linear(3, 5, bias=False))


def bottleneck() -> nn.Module:
    """Odd units, then a basis of their own, then homogeneous ones."""
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def deep() -> nn.Module:
    """Linear groups that meet."""
    return nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 5))


def unit(name: str, size: int, makes: int, reads: int, **kinds: bool | str) -> Group:
    """The units between two layers of a Sequential."""
    reader = A(f"{reads}.weight", 1)
    dual = (reader,) if kinds.get("linear") == "general" else ()
    return Group(name, size, (A(f"{makes}.weight", 0), A(f"{makes}.bias", 0)), (reader,), dual=dual, **kinds)  # type: ignore[arg-type]


def heads(stream: str | None) -> tuple[Group, ...]:
    """The table of `Attention`: three heads of four units."""

    def rows(part: int) -> tuple[Axis, Axis]:
        index = tuple(range(12 * part, 12 * part + 12))
        return A("qkv.weight", 0, index), A("qkv.bias", 0, index)

    out = A("out.weight", 1)
    return (
        Group(
            "stream",
            12,
            (A("start.weight", 0), A("start.bias", 0), A("out.weight", 0), A("out.bias", 0)),
            (A("qkv.weight", 1), A("end.weight", 1)),
            linear=stream,
        ),
        Group("heads", 3, (), ()),
        Group("qk", 4, (*rows(0), *rows(1)), (), parent="heads", linear="general", dual=rows(1)),
        Group("vo", 4, rows(2), (out,), parent="heads", linear="general", dual=(out,)),
    )


TABLES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[Group, ...]]] = {
    "adapter": (
        adapter,
        (8, 6),
        (Group("r", 3, (A("0.weight", 0),), (A("1.weight", 1),), linear="general", dual=(A("1.weight", 1),)),),
    ),
    "bottleneck": (
        bottleneck,
        (8, 6),
        (
            unit("odd", 4, 0, 2, odd=True),
            unit("r", 3, 2, 3, linear="general", odd=True, homogeneous=True),
            unit("relu", 5, 3, 5, homogeneous=True),
        ),
    ),
    "deep": (deep, (8, 6), (unit("a", 4, 0, 1, linear="general"), unit("b", 4, 1, 2, linear="general"))),
    "attention": (Attention, (4, 3, 5), heads(None)),
    "attention, rotated stream": (Attention, (4, 3, 5), heads("orthogonal")),
}


@cache
def population(
    name: str, count: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[ws.Collection, Symmetry, torch.Tensor]:
    """Random networks, their symmetry, and inputs."""
    make, shape, groups = TABLES[name]
    architecture = ws.Architecture.of(lambda: make().to(dtype))
    layout = architecture.layout()
    random = torch.Generator().manual_seed(0)
    base, own = torch.randn(count + 1, layout.size, generator=random, dtype=torch.float64).split([1, count])
    networks = ws.Collection(layout, (base + 0.5 * own).to(dtype), architecture=architecture)
    return networks, Symmetry(layout, groups), torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)


def hidden(networks: ws.Collection, symmetry: Symmetry, *kinds: str, seed: int = 1) -> ws.Collection:
    """The same functions under random elements of these kinds, all if none is named; extras move along."""
    random = torch.Generator().manual_seed(seed)
    vectors = {"weights": networks.weights} | networks.extras
    moved: dict[str, list[torch.Tensor]] = {name: [] for name in vectors}

    def wanted(kind: str) -> bool:
        return not kinds or kind in kinds

    for i in range(len(networks)):
        order = symmetry.random(random) if wanted("permutation") else symmetry.identity()
        signs = symmetry.random_signs(random) if wanted("sign") else {}
        matrices = symmetry.random_matrices(random)
        matrices = {g.name: matrices[g.name] for g in symmetry.linear if wanted(str(g.linear))}
        scales = {g.name: torch.rand(g.size, generator=random) + 0.5 for g in symmetry.groups if g.homogeneous}
        for name, rows in vectors.items():
            row = symmetry.scale(rows[i], scales) if wanted("scale") else rows[i]
            row = symmetry.flip(symmetry.mix(row.double(), matrices), signs)
            moved[name].append(symmetry.permute(row, order).to(rows.dtype))
    extras = {name: torch.stack(moved[name]) for name in networks.extras}
    return networks.replace(weights=torch.stack(moved["weights"]), extras=extras)


def outputs(networks: ws.Collection, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([networks[i].module().eval()(x) for i in range(len(networks))]).detach()
