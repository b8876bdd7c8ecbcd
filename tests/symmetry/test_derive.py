"""Symmetries derived by tracing."""

import pytest
import torch
from torch import nn

import weightspace as ws
from tests.symmetry.examples import (
    MODULES,
    Cumulated,
    derive,
    example,
)
from weightspace.errors import InputError
from weightspace.symmetry import trace


@pytest.mark.parametrize("name", MODULES)
def test_traced_symmetries_are_proven_and_complete(name: str) -> None:
    make, _, groups, children, coverage = MODULES[name]
    torch.manual_seed(0)
    symmetry = trace(make(), example(name))  # proves it, or raises
    assert len(symmetry.groups) == groups
    assert sum(g.parent is not None for g in symmetry.groups) == children
    assert symmetry.coverage >= coverage


def test_only_units_that_can_be_rescaled_are_homogeneous() -> None:
    tanh = ws.Architecture.of(lambda: nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2)))
    symmetry = derive(tanh)
    assert [group.homogeneous for group in symmetry.groups] == [False]
    with pytest.raises(InputError, match="not homogeneous"):
        symmetry.scale(torch.zeros(symmetry.layout.size), {symmetry.groups[0].name: torch.ones(3)})
    normed = trace(MODULES["batch norm"][0](), example("batch norm"))
    (group,) = normed.groups
    # Behind a norm its scale and shift are what can be traded against the next weights.
    assert group.homogeneous
    assert [a.tensor for a in group.incoming] == ["1.weight", "1.bias"]
    assert [a.tensor for a in group.outgoing] == ["3.weight"]


def test_layers_used_twice_are_tied() -> None:
    same = nn.Linear(3, 3)
    module = nn.Sequential(nn.Linear(4, 3), same, nn.ReLU(), same, nn.Linear(3, 2))
    (group,) = trace(module, torch.randn(6, 4)).groups
    assert {(a.tensor, a.axis) for a in group.axes} >= {("1.weight", 0), ("1.weight", 1)}


class Branching(Cumulated):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        return self.b(h.cumsum(1) if h.sum() > 1e9 else h)  # on the other way


class Sorted(Cumulated):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x).sort(1).values)


def test_what_cannot_be_traced_is_refused_by_name_or_left_fixed() -> None:
    x = torch.randn(6, 4)
    with pytest.raises(InputError, match=r"aten.cumsum .*fix_unknown=True.*by hand"):
        trace(Cumulated(), x)
    with pytest.warns(UserWarning, match="left in place: aten.cumsum"):
        assert trace(Cumulated(), x, fix_unknown=True).groups == ()
    with pytest.raises(InputError, match=r"aten.sort"):
        trace(Sorted(), x)
    with pytest.raises(InputError, match=r"aten.cumsum"):
        trace(Branching(), x)


def test_outputs_and_inputs_stay_where_they_are() -> None:
    module = nn.Linear(4, 3)
    assert trace(module, torch.randn(6, 4)).groups == ()
    assert trace(nn.LSTM(4, 6), torch.randn(5, 2, 4)).groups == ()  # its units are the output


def test_tracing_leaves_the_module_as_it_was() -> None:
    module = MODULES["batch norm"][0]()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    trace(module.eval(), example("batch norm"))
    assert not module.training
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())


class Shifted(nn.Module):
    """A constant tells the hidden units apart."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.a(x) + torch.arange(6.0)))


def test_axes_that_nothing_moves_are_named_unless_they_are_inputs_or_outputs() -> None:
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match=r"no permutation moves a.weight\[0\] \(6\), b.weight\[1\] \(6\) of Shifted"):
        assert trace(Shifted(), torch.randn(6, 4)).coverage == 0
    trace(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)), torch.randn(6, 4))  # warnings are errors here
    trace(nn.Linear(4, 2), torch.randn(6, 4))
