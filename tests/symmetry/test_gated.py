"""A part of what makes a gated unit changes sign and size with it; the gates follow, and are found not to."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weightspace as ws
from tests.symmetry.examples import Recurrent
from weightspace.align import ActivationMatching, Star
from weightspace.errors import InputError
from weightspace.symmetry import Symmetry, prove, trace

Activation = Callable[[torch.Tensor], torch.Tensor]


class Gated(nn.Module):
    """Gates and values from two layers, or from the two halves of one."""

    def __init__(self, activation: Activation = F.silu, *, fused: bool = False) -> None:
        super().__init__()
        self.gate, self.end, self.activation = nn.Linear(4, 12 if fused else 6), nn.Linear(6, 3), activation
        self.value = None if fused else nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.gate(x).chunk(2, -1) if self.value is None else (self.gate(x), self.value(x))
        return self.end(self.activation(a) * b)


def traced(module: nn.Module, *shape: int) -> Symmetry:
    torch.manual_seed(0)
    return trace(module, torch.randn(shape))


def collection(build: Callable[[], nn.Module], count: int) -> ws.Collection:
    layout = ws.Layout.of(build())
    vectors = [layout.pack(build().state_dict()) for _ in range(count)]
    return ws.Collection(layout, torch.stack(vectors), architecture=ws.Architecture.of(build))


@pytest.mark.parametrize("fused", [False, True])
def test_the_value_of_a_gated_unit_can_have_any_size_and_sign(fused: bool) -> None:
    (group,) = traced(Gated(fused=fused), 8, 4).groups
    assert group.odd
    assert group.homogeneous
    expected = [("gate.weight", range(6, 12)), ("gate.bias", range(6, 12))]
    if fused:
        assert [(a.tensor, range(a.index[0], a.index[-1] + 1)) for a in group.incoming if a.index] == expected
        assert [a.index for a in group.following] == [tuple(range(6))] * 2
    else:
        assert [a.tensor for a in group.incoming] == ["value.weight", "value.bias"]
        assert [a.tensor for a in group.following] == ["gate.weight", "gate.bias"]


def test_what_is_not_gated_stays_as_it_was() -> None:
    class Sum(Gated):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.end(F.silu(self.gate(x)) + self.value(x))

    class Both(Gated):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.end(F.silu(self.gate(x)) * F.silu(self.value(x)))

    for build in (Sum, Both):
        (group,) = traced(build(), 8, 4).groups
        assert group.kinds == ("permutation",)
        assert not group.following
    module = Gated()
    symmetry = traced(module, 8, 4)
    (group,) = symmetry.groups
    wrong = replace(group, incoming=(*group.incoming, *group.following), following=())
    with pytest.raises(InputError, match="odd"):
        prove(replace(symmetry, groups=(wrong,)), module, torch.randn(8, 4))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_the_candidate_of_a_recurrent_cell_changes_sign_with_its_units(kind: type[nn.RNNBase]) -> None:
    (group,) = traced(Recurrent(kind(4, 5), 5), 3, 2, 4).groups
    assert group.kinds == ("permutation", "sign")
    assert all(a.index == tuple(range(10, 15)) for a in group.incoming)
    tiles = 4 if kind is nn.LSTM else 3
    assert all(a.index is not None and len(a.index) == 5 * (tiles - 1) for a in group.following)


@pytest.mark.parametrize("build", [Gated, lambda: Recurrent(nn.LSTM(4, 5), 5), lambda: Gated(fused=True)])
def test_a_planted_element_is_found(build: Callable[[], nn.Module]) -> None:
    shape = (8, 4) if isinstance(build(), Gated) else (3, 2, 4)
    torch.manual_seed(0)
    x = torch.randn(shape)
    symmetry = trace(build(), x)
    networks = collection(build, 2)
    random = torch.Generator().manual_seed(1)
    vector, signs = networks.weights[0], symmetry.random_signs(random)
    scales = {g.name: torch.rand(g.size, generator=random) + 0.5 for g in symmetry.groups if g.homogeneous}
    copy = symmetry.permute(symmetry.flip(symmetry.scale(vector, scales), signs), symmetry.random(random))
    both = networks.replace(weights=torch.stack([vector, copy]))
    torch.testing.assert_close(both[1].module()(x), both[0].module()(x))
    fitted = ws.WeightMatching(population=Star(0)).fit_proven(both, symmetry, device="cpu")
    aligned = fitted.transform(both, device="cpu").weights
    torch.testing.assert_close(aligned[1], aligned[0])
    other = fitted.transform(networks, device="cpu").weights
    assert (other[1] - other[0]).norm() > 0.5


def test_activations_of_gates_say_nothing_of_signs() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    symmetry = trace(Gated(), x)
    networks = collection(Gated, 1)
    random = torch.Generator().manual_seed(1)
    moved = symmetry.permute(symmetry.flip(networks.weights[0], symmetry.random_signs(random)), symmetry.random(random))
    both = ws.Collection(networks.layout, torch.stack([networks.weights[0], moved]), architecture=networks.architecture)
    aligned = ActivationMatching(symmetry=symmetry).fit(both, x).transform(both, device="cpu").weights
    assert torch.equal(aligned[1], aligned[0])
