"""Weights of several axes, as einsum takes them: units have an order of their own in each head."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.symmetry.examples import outputs_of_a_copy
from weightspace.errors import InputError
from weightspace.symmetry import Symmetry, prove, trace


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.3)


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = parameter(5, 7), parameter(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bo,oj->bj", torch.relu(torch.einsum("bi,io->bo", x, self.a)), self.b)


class Heads(nn.Module):
    """A linear map into heads of units and back, with a bias (heads, units)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bias, self.b = parameter(4, 5, 3), parameter(4, 3), parameter(4, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bhk,hkj->bj", torch.tanh(torch.einsum("bi,hik->bhk", x, self.a) + self.bias), self.b)


class HeadsInTheMiddle(nn.Module):
    """Weights (inputs, heads, units)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = parameter(5, 4, 3), parameter(4, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bhk,hkj->bj", torch.tanh(torch.einsum("bi,ihk->bhk", x, self.a)), self.b)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (parameter(*shape) for shape in [(4, 5, 3)] * 3 + [(4, 3, 2)])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bld,hdk->bhlk", x, w) for w in (self.q, self.k, self.v))
        a = torch.softmax(torch.einsum("bhqk,bhlk->bhql", q, k), -1)
        return torch.einsum("bhqk,hkd->bqd", torch.einsum("bhql,bhlk->bhqk", a, v), self.o)


class Experts(nn.Module):
    """A soft mixture of experts."""

    def __init__(self) -> None:
        super().__init__()
        self.g, self.a, self.b = nn.Linear(5, 4), parameter(4, 5, 6), parameter(4, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(torch.einsum("bi,eio->beo", x, self.a))
        return torch.einsum("beo,eoi,be->bi", h, self.b, torch.softmax(self.g(x), -1))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[tuple[int, bool]]]] = {
    "units": (MLP, (6, 5), [(7, False)]),
    "heads": (Heads, (6, 5), [(4, False), (3, True)]),
    "heads in the middle": (HeadsInTheMiddle, (6, 5), [(4, False), (3, True)]),
    "attention": (Attention, (3, 6, 5), [(4, False), (3, True), (3, True)]),
    "experts": (Experts, (6, 5), [(4, False), (6, True)]),
}


@pytest.mark.parametrize("name", CASES)
def test_units_of_weights_of_several_axes_are_found_in_their_heads(name: str) -> None:
    make, shape, groups = CASES[name]
    torch.manual_seed(0)
    module, x = make(), torch.randn(shape)
    symmetry = trace(module, x)
    assert [(g.size, g.parent is not None) for g in symmetry.groups] == groups
    assert symmetry.coverage == 1
    before, after = outputs_of_a_copy(symmetry, module, x)
    torch.testing.assert_close(after, before)


def test_units_of_heads_permuted_on_one_side_change_the_output() -> None:
    torch.manual_seed(0)
    module, x = Heads(), torch.randn(6, 5)
    symmetry = trace(module, x)
    heads, units = symmetry.groups
    one_sided = type(units)(units.name, units.size, (), units.axes[:1], parent=heads.name)
    with pytest.raises(InputError, match="does not fit"):
        prove(Symmetry(symmetry.layout, (heads, one_sided)), module, x)
