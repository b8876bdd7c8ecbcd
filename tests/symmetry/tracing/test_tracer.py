"""Unusual modules are traced, or refused by name."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from tests.symmetry.examples import (
    Cumulated,
    Net,
    X,
    net,
)
from weightspace.errors import InputError
from weightspace.symmetry import trace


def test_a_buffer_that_is_replaced_in_training_moves_with_its_units() -> None:
    def replace(self: Net, h: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.statistic = h.mean(0).detach()
        return h

    symmetry = trace(net(replace), X)
    assert "statistic" in {a.tensor for g in symmetry.groups for a in g.axes}


class Cast(nn.Module):
    """A norm in float32, as language models have."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.to(torch.float32)
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)
        return self.weight * y.to(x.dtype)


ACCEPTED: dict[str, Callable[[], nn.Module]] = {
    "a scalar parameter": Net,
    "a cast to float32": lambda: nn.Sequential(nn.Linear(4, 6), Cast(), nn.Linear(6, 2)),
    "a power with the tensor as exponent": lambda: net(lambda _, h: 2**h),
    "a maximum over samples": lambda: net(lambda _, h: h - h.max(0).values),
    "any over units": lambda: net(lambda _, h: h * (h > 0).any(1)[:, None]),
    "stacks of grouped convolutions": lambda: nn.Sequential(
        nn.Unflatten(1, (4, 1, 1)),
        nn.Conv2d(4, 8, 1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 1, groups=4),
        nn.ReLU(),
        nn.Conv2d(12, 12, 1, groups=4),
        nn.ReLU(),
        nn.Conv2d(12, 4, 1),
        nn.Flatten(),
    ),
    "grouped convolutions of different groups": lambda: nn.Sequential(
        nn.Unflatten(1, (4, 1, 1)),
        nn.Conv2d(4, 12, 1),
        nn.ReLU(),
        nn.Conv2d(12, 12, 1, groups=6),
        nn.ReLU(),
        nn.Conv2d(12, 12, 1, groups=3),
        nn.ReLU(),
        nn.Conv2d(12, 4, 1),
        nn.Flatten(),
    ),
    "a grouped convolution in front of the output": lambda: nn.Sequential(
        nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1, groups=2), nn.Flatten()
    ),
    "an ensemble in one tensor": lambda: Ensemble(),
    "results written into a given tensor": lambda: net(written),
}


# Of these some axes stay, which is said.
INCOMPLETE = {"grouped convolutions of different groups", "a grouped convolution in front of the output"}

# Units that could move only inside the blocks of an axis whose blocks are fixed are left in place.
LITTLE = {"a grouped convolution in front of the output"}


class Ensemble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.w = nn.Linear(4, 6), nn.Parameter(torch.randn(3, 6, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.matmul(self.a(x), self.w).mean(0)


@pytest.mark.parametrize("name", ACCEPTED)
def test_unusual_modules_are_traced(name: str) -> None:
    torch.manual_seed(0)
    least = 0.0 if name in LITTLE else 0.3
    said = pytest.warns(UserWarning, match="no permutation moves") if name in INCOMPLETE else nullcontext()
    with said:
        assert trace(ACCEPTED[name](), X, fix_unknown=True).coverage >= least


class Broken(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("nothing")


def written(self: Net, h: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(h)
    torch.amax(h, 0, out=self.statistic)
    return out + h


REFUSED: dict[str, tuple[Callable[[], nn.Module], object]] = {
    "a roll over all axes": (lambda: net(lambda _, h: h.roll(1)), X),
    "a lazy layer": (lambda: nn.Sequential(nn.LazyLinear(6), nn.Linear(6, 2)), X[:0]),
    "a wrong shape": (Net, X[:, :3]),
    "a wrong kind of input": (Net, X.long()),
    "no samples for a norm": (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)), X[:1]),
    "an error of the module's own": (Broken, X),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_traced_is_refused_with_a_message(name: str) -> None:
    make, example = REFUSED[name]
    with pytest.raises(InputError):
        trace(make(), example)


def test_a_wrong_trace_names_itself_and_can_be_left_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    from weightspace.symmetry.tracing import shape_rules
    from weightspace.symmetry.tracing.rules import same

    # A rule that is wrong: it says that a cumulative sum treats units alike.
    monkeypatch.setitem(shape_rules.RULES, torch.ops.aten.cumsum, same)
    with pytest.raises(
        InputError, match=r"tracing Cumulated led to a symmetry that does not stand the proof.*fix_unknown"
    ):
        trace(Cumulated(), X)
    with pytest.warns(UserWarning, match="did not stand the proof"):
        assert trace(Cumulated(), X, fix_unknown=True).groups == ()


def test_writes_into_parts_of_tensors_are_reported() -> None:
    def pieces(self: Net, h: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(6, 6)
        out[:, :3] = h[:, :3]
        out[:, 3:] = h[:, 3:]
        return out

    with pytest.warns(UserWarning, match="left in place: a write"):
        trace(net(pieces), X)
