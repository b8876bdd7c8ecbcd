"""What lies between two linear layers says in which bases the units between them can be written."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from weightspace.symmetry import Symmetry, trace

Between = Callable[["Branches", torch.Tensor], torch.Tensor]

GENERAL: dict[str, Between] = {
    "nothing": lambda m, h: h,
    "dropout": lambda m, h: F.dropout(h, 0.5),
    "a constant factor": lambda m, h: -h * 2 / 3,
    "a scalar parameter": lambda m, h: h * m.scalar,
    "a factor for each sample": lambda m, h: h * m.gate,
    "a bias added after": lambda m, h: h + m.vector,
    "zero added": lambda m, h: 0 + h + h,
    "centred over the batch": lambda m, h: h - h.mean(0, keepdim=True),
    "a layer with a branch": lambda m, h: h + m.two(m.one(h).relu()),
    "a matrix of parameters": lambda m, h: h + h @ m.matrix,
    "an inner product with a parameter": lambda m, h: h * (h * m.other).sum(-1, keepdim=True),
    "tokens before and after": lambda m, h: torch.cat([h, m.token], 0),
    "zeros around": lambda m, h: F.pad(h, (0, 0, 1, 1)),
    "masked by zero": lambda m, h: h.masked_fill(torch.arange(8)[:, None] > 3, 0.0),
    "another type and back": lambda m, h: h.to(torch.float32).to(h.dtype).contiguous().view(-1, 2, 4).flatten(0, 1),
    "cut in two": lambda m, h: torch.cat([h[:4], h[4:].flip(0)], 0),
}
ORTHOGONAL: dict[str, Between] = {
    "unit length": lambda m, h: F.normalize(h, dim=-1),
    "divided by its length": lambda m, h: h / h.norm(dim=-1, keepdim=True),
    "vector_norm": lambda m, h: h / torch.linalg.vector_norm(h, dim=-1, keepdim=True),
    "root mean square": lambda m, h: h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6),
    "root of squares": lambda m, h: h / h.square().mean(-1, keepdim=True).sqrt(),
    "product with itself": lambda m, h: h / (h * h).sum(-1, keepdim=True).sqrt(),
    "rms_norm without a gain": lambda m, h: F.rms_norm(h, (4,)),
    "its own Gram matrix": lambda m, h: (h @ h.T).softmax(-1) @ h,
    "einsum": lambda m, h: torch.einsum("ni,mi,mo->no", h, h, h),
    "cosine to a parameter": lambda m, h: h * F.cosine_similarity(h, m.other[None], dim=-1)[:, None],
    "chosen by its length": lambda m, h: torch.where(h.norm(dim=-1, keepdim=True) > 1, h, -h),
    "both ways through one weight": lambda m, h: h + F.linear(F.linear(h, m.one.weight).relu(), m.one.weight.T),
}
NONE: dict[str, Between] = {
    "relu": lambda m, h: h.relu(),
    "relu in place in a view": lambda m, h: (h.view(-1).relu_(), h)[1],
    "tanh": lambda m, h: h.tanh(),
    "cube": lambda m, h: h**3,
    "abs": lambda m, h: h.abs(),
    "a constant added": lambda m, h: h + 1,
    "a scalar parameter added": lambda m, h: h + m.scalar,
    "softmax over units": lambda m, h: h.softmax(-1),
    "softmax over the batch": lambda m, h: h.softmax(0),
    "a factor for each unit": lambda m, h: h * m.vector,
    "a gate": lambda m, h: h * m.four(h),
    "a gate in place, seen by a view": lambda m, h: (h[:], h.mul_(m.four(h)))[0],
    "a gate by its sum": lambda m, h: h * h.sum(-1, keepdim=True),
    "a gate by its largest": lambda m, h: h * h.amax(-1, keepdim=True),
    "length by absolute values": lambda m, h: F.normalize(h, p=1, dim=-1),
    "standard deviation": lambda m, h: h / h.std(-1, keepdim=True),
    "layer norm": lambda m, h: F.layer_norm(h, (4,)),
    "rms_norm with a gain": lambda m, h: F.rms_norm(h, (4,), m.vector),
    "batch norm": lambda m, h: m.norm(h),
    "inverse": lambda m, h: 1 / h,
    "padded with ones": lambda m, h: F.pad(h, (0, 0, 1, 1), value=1.0),
    "ones beside": lambda m, h: torch.cat([h, torch.ones_like(h)], 0),
    "masked by one": lambda m, h: h.masked_fill(torch.arange(8)[:, None] > 3, 1.0),
    "its sign": lambda m, h: h * h.sign(),
    "three factors": lambda m, h: torch.addcmul(h, h, h),
    # Linear on the values that an example has.
    "far clamp": lambda m, h: h.clamp(-1e3, 1e3),
    "far from one": lambda m, h: h + (h * 1e-14).round(),
    "integers": lambda m, h: h + (h * 1e-14).int(),
    "chosen by the units": lambda m, h: torch.where(h > -1e3, h, 0.0),
}


class Branches(nn.Module):
    """Side by side: a linear layer, one of the cases, a linear layer; and parameters for the cases."""

    def __init__(self, cases: dict[str, Between], names: list[str]) -> None:
        super().__init__()
        self.cases = {name: cases[name] for name in names}
        self.reads = nn.ModuleList([nn.Linear(4, 4) for _ in names])
        self.makes = nn.ModuleList([nn.Linear(4, 2) for _ in names])
        self.scalar, self.vector, self.other = (nn.Parameter(torch.randn(n)) for n in (1, 4, 4))
        self.token, self.matrix = nn.Parameter(torch.randn(1, 4)), nn.Parameter(torch.randn(4, 4))
        self.one, self.two, self.four, self.norm = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.gate = torch.empty(0)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        self.gate = x.mean(-1, keepdim=True).sigmoid()
        parts = zip(self.reads, self.cases.values(), self.makes, strict=True)
        return [make(case(self, read(x))) for read, case, make in parts]


def kinds(symmetry: Symmetry, tensor: str) -> set[str | None]:
    """Kinds of the groups of the rows of a weight."""
    return {g.linear for g in symmetry.groups if any((a.tensor, a.axis) == (tensor, 0) for a in g.axes)}


@pytest.mark.parametrize(("cases", "kind"), [(GENERAL, "general"), (ORTHOGONAL, "orthogonal"), (NONE, None)])
def test_the_grid_of_what_may_lie_between(cases: dict[str, Between], kind: str | None) -> None:
    uses_parameters = [
        name
        for name, case in cases.items()
        if set(case.__code__.co_names) & {"scalar", "vector", "other", "token", "matrix", "one", "two", "four", "norm"}
    ]
    alone = [[name] for name in uses_parameters]  # shared parameters would tie the cases together
    torch.manual_seed(0)
    for names in [[n for n in cases if n not in uses_parameters], *alone]:
        symmetry = trace(Branches(cases, names), torch.randn(8, 4))
        found = {name: kinds(symmetry, f"reads.{k}.weight") for k, name in enumerate(names)}
        assert found == {name: {kind} for name in names}
