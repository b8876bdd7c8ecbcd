"""Units of odd activations can change sign, others cannot; the proof notices every mistake."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weightspace as ws
from tests.symmetry.examples import Recurrent
from weightspace.errors import InputError
from weightspace.symmetry import Axis, Group, Symmetry, prove, trace
from weightspace.symmetry.tracing import tracer

ODD = {
    "tanh": torch.tanh,
    "sine": torch.sin,
    "erf": torch.erf,
    "softsign": F.softsign,
    "hardtanh": F.hardtanh,
    "asinh": torch.asinh,
    "atan": torch.atan,
    "tanhshrink": F.tanhshrink,
    "softshrink": F.softshrink,
    "hardshrink": F.hardshrink,
    "cube": lambda x: x**3,
    "product": lambda x: x * x.abs(),
    "identity": lambda x: x,
    "dropout": nn.Dropout(0.5),
}
NOT_ODD = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "cosine": torch.cos,
    "hardtanh between other bounds": lambda x: F.hardtanh(x, -1, 2),
    "square": torch.square,
    "shifted tanh": lambda x: torch.tanh(x + 1),
    "snake": lambda x: x + torch.sin(x) ** 2,
    "abs": torch.abs,
    # Odd on the values that an example has.
    "far bound": lambda x: torch.where(x > 1e3, 1e3, x),
    "far minimum": lambda x: torch.minimum(x, torch.tensor(1e3)),
    "far clamp": lambda x: x.clamp(max=1e3),
}


class Chain(nn.Module):
    """Linear layers with these activations between them."""

    def __init__(self, activations: dict) -> None:
        super().__init__()
        self.activations = activations
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(len(activations) + 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, activation in zip(self.layers, self.activations.values(), strict=False):
            x = activation(layer(x))
        return self.layers[-1](x)


def traced(module: nn.Module, *shape: int) -> Symmetry:
    torch.manual_seed(0)
    return trace(module, torch.randn(shape))


@pytest.mark.parametrize(("activations", "odd"), [(ODD, True), (NOT_ODD, False)])
def test_the_grid_of_activations(activations: dict, odd: bool) -> None:
    torch.manual_seed(0)
    symmetry = traced(Chain(activations), 16, 4)
    found = {name: group.odd for name, group in zip(activations, symmetry.groups, strict=True)}
    assert found == dict.fromkeys(activations, odd)
    assert [g.homogeneous for g in symmetry.groups] == [
        n in ("relu", "abs", "identity", "dropout") for n in activations
    ]


@pytest.mark.parametrize("affine", [True, False])
def test_a_flip_moves_through_batch_norm_with_its_statistics(affine: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5, affine=affine), nn.Tanh(), nn.Linear(5, 2))
    (group,) = traced(module, 8, 3).groups
    assert group.odd
    flipped = {axis.tensor for axis in group.incoming}
    assert flipped == ({"1.weight", "1.bias"} if affine else {"0.weight", "0.bias", "1.running_mean"})


def test_pooling_recurrence_and_residual_branches() -> None:
    torch.manual_seed(0)
    for pool, odd in ((nn.AvgPool2d(2), True), (nn.MaxPool2d(2), False)):
        module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), pool, nn.Flatten(), nn.Linear(12, 2))
        assert [g.odd for g in traced(module, 4, 2, 6, 6).groups] == [odd]
    assert [g.odd for g in traced(Recurrent(nn.RNN(4, 5), 5), 3, 2, 4).groups] == [True]


def test_flips_are_a_group_that_leaves_the_function_alone() -> None:
    torch.manual_seed(0)
    module = Chain({name: f for name, f in ODD.items() if name != "dropout"}).eval()
    x = torch.randn(7, 4)
    symmetry = trace(module, torch.randn(16, 4))
    layout = symmetry.layout
    vector = layout.pack(module.state_dict())
    random = torch.Generator().manual_seed(1)
    one, two = symmetry.random_signs(random), symmetry.random_signs(random)
    both = {name: sign * two[name] for name, sign in one.items()}
    assert torch.equal(symmetry.flip(symmetry.flip(vector, one), one), vector)
    assert torch.equal(symmetry.flip(symmetry.flip(vector, one), two), symmetry.flip(vector, both))
    batched = symmetry.flip(torch.stack([vector, vector]), {n: torch.stack([one[n], two[n]]) for n in one})
    assert torch.equal(batched, torch.stack([symmetry.flip(vector, one), symmetry.flip(vector, two)]))
    expected = module(x)
    module.load_state_dict(layout.unpack(symmetry.flip(vector, one)))
    assert not torch.equal(symmetry.flip(vector, one), vector)
    torch.testing.assert_close(module(x), expected)
    # A flip goes with the units: first flipped, then moved, or moved and flipped in their new places.
    order = symmetry.random(random)
    moved = {name: sign[order[name]] for name, sign in one.items()}
    assert torch.equal(
        symmetry.permute(symmetry.flip(vector, one), order), symmetry.flip(symmetry.permute(vector, order), moved)
    )


def tanh() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def test_a_group_that_is_wrongly_called_odd_is_refused_by_name() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    symmetry = traced(module, 16, 4)
    assert [g.odd for g in symmetry.groups] == [False, True]
    prove(symmetry, module, torch.randn(16, 4))
    wrong = replace(symmetry, groups=tuple(replace(g, odd=True) for g in symmetry.groups))
    with pytest.raises(InputError, match=r"groups '0'\).*odd"):
        prove(wrong, module, torch.randn(16, 4))


def test_an_axis_that_does_not_change_sign_is_noticed() -> None:
    module = tanh()
    bias = Axis("0.bias", 0)
    group = Group("units", 3, (Axis("0.weight", 0), bias), (Axis("2.weight", 1),), odd=True)
    layout = ws.Layout.of(module)
    prove(Symmetry(layout, (group,)), module, torch.randn(8, 4))
    without = replace(group, incoming=group.incoming[:1], following=(bias,))
    with pytest.raises(InputError, match="groups 'units'"):
        prove(Symmetry(layout, (without,)), module, torch.randn(8, 4))


def test_only_odd_groups_can_be_flipped_and_no_child_is_one() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    symmetry = traced(module, 8, 4)
    with pytest.raises(InputError, match="not odd"):
        symmetry.flip(torch.zeros(symmetry.layout.size), {"0": torch.ones(3)})
    parent = Group("p", 3, (Axis("0.weight", 0),), ())
    with pytest.raises(InputError, match="neither homogeneous nor odd"):
        Symmetry(ws.Layout.of(tanh()), (parent, Group("c", 3, (), (Axis("2.weight", 1),), parent="p", odd=True)))


def test_odd_is_written_only_where_it_is_true() -> None:
    symmetry = traced(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), 8, 4)
    written = symmetry.to_json()
    assert ["odd" in group for group in written["groups"]] == [True, False]
    assert Symmetry.from_json(written, symmetry.layout) == symmetry


def test_units_that_are_odd_on_one_example_only_are_not_called_odd() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.tanh(self.a(x))
            return self.b(-h if h.sum() > 0 else h)

    for seed in range(4):
        torch.manual_seed(seed)
        assert [g.odd for g in trace(Branching(), torch.randn(6, 4)).groups] == [False]


def test_the_tracer_excludes_what_is_surely_not_odd_before_anything_is_tried() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2))
    assert tracer.run(module, torch.randn(8, 4), fix_unknown=False).units.unflippable
    assert not tracer.run(tanh(), torch.randn(8, 4), fix_unknown=False).units.unflippable
