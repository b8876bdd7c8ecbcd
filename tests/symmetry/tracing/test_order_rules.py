"""Operators in which the order along an axis counts; experts chosen by data."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.symmetry import prove, trace


class Between(nn.Module):
    """3 - 8 - 2, in three positions, with something between."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.b, self.kind = nn.Linear(3, 8), nn.Linear(8, 2), kind

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        if self.kind == "sort":
            h = h.sort(-2)[0]
        if self.kind == "topk":
            h = h.topk(2, 1)[0]
        if self.kind == "cumsum":
            h = h.cumsum(1)
        if self.kind == "argmax":
            h = h * h.argmax(1, keepdim=True)
        if self.kind == "units":
            h = h.cumsum(-1)
        return self.b(h)


@pytest.mark.parametrize("kind", ["sort", "topk", "cumsum", "argmax"])
def test_an_order_of_positions_leaves_units_alone(kind: str) -> None:
    assert [g.size for g in trace(Between(kind), torch.randn(4, 3, 3)).groups] == [8]


def test_an_order_of_units_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"aten.cumsum.*an order of units"):
        trace(Between("units"), torch.randn(4, 3, 3))


class Experts(nn.Module):
    """Each row goes to the expert that its first input says."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 16)
        self.up, self.down = (nn.Parameter(torch.randn(2, 16, 16) * 0.3) for _ in range(2))
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        order = (x[:, 0] > 0).sort().indices
        ends = torch.cumsum(torch.stack([(x[:, 0] <= 0).sum(), (x[:, 0] > 0).sum()]), 0).to(torch.int32)
        h = torch.nn.functional.grouped_mm(self.first(x)[order], self.up, offs=ends)
        return self.last(torch.nn.functional.grouped_mm(torch.relu(h), self.down, offs=ends))


def test_what_cannot_run_in_float64_is_proven_in_float32_and_says_so() -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        symmetry = trace(Experts(), torch.randn(12, 4))
    assert sorted(g.size for g in symmetry.groups) == [16, 16, 16]
    assert {(a.tensor, a.axis) for g in symmetry.groups for a in g.axes} >= {("up", 1), ("up", 2), ("down", 1)}
    messages = [str(w.message) for w in said]
    assert sum("does not run in float64" in m and "up to 0.0001 of their scale" in m for m in messages) == 1
    assert any("no permutation moves up[0] (2), down[0] (2)" in m for m in messages)


def test_a_wrong_table_fails_in_float32_too() -> None:
    class Weighted(Experts):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (self.up.sum(0) * torch.arange(16.0)[:, None]).sum() * 0.01

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        symmetry = trace(Experts(), torch.randn(12, 4))
    with pytest.warns(UserWarning, match="float64"), pytest.raises(InputError, match="does not fit"):
        prove(symmetry, Weighted(), torch.randn(12, 4))
