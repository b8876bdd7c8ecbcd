"""The proof notices every mistake in a table."""

import numpy as np
import pytest
import torch
from torch import nn

import weightspace as ws
from tests.symmetry.examples import (
    MODULES,
    Net,
    X,
    architecture,
    derive,
    example,
    net,
)
from weightspace.errors import InputError
from weightspace.symmetry import Axis, Group, Symmetry, proof, prove, trace
from weightspace.symmetry.probe import Probe
from weightspace.symmetry.proof import _cycles, prove_on


@pytest.mark.parametrize("name", MODULES)
def test_leaving_out_any_axis_of_a_traced_symmetry_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_culprits", lambda *_: [])  # many passes, and not what is tested here
    make = MODULES[name][0]
    torch.manual_seed(0)
    module = make()
    x = example(name)
    symmetry = trace(module, x)
    group = max(symmetry.groups, key=lambda g: len(g.axes))
    probe = Probe(symmetry.layout, module, x)
    checked = 0
    for axis in group.axes[:4]:
        if "bias" in axis.tensor and "qkv" in axis.tensor:
            continue  # attention's key bias has no influence, and shares its tensor with others
        if axis.tensor in {b.name for b in symmetry.layout.buffers}:
            continue  # a missing buffer is refused by Symmetry itself
        less = Group(
            group.name,
            group.size,
            tuple(a for a in group.incoming if a != axis),
            tuple(a for a in group.outgoing if a != axis),
            False,
            tuple(a for a in group.following if a != axis),
            group.parent,
        )
        wrong = Symmetry(symmetry.layout, tuple(less if g is group else g for g in symmetry.groups), symmetry.fixed)
        with pytest.raises(InputError, match="does not fit"):
            prove_on(probe, wrong, controls=False)
        checked += 1
    assert checked


def test_a_table_that_forgets_an_axis_or_scales_what_cannot_be_scaled_is_refused(dense: ws.Collection) -> None:
    right = derive(dense.architecture)
    x = torch.randn(5, 64)
    first, second = right.groups
    no_bias = Symmetry(right.layout, (Group("a", first.size, first.incoming[:1], first.outgoing), second))
    with pytest.raises(InputError, match="does not fit MLP"):
        ws.WeightMatching(symmetry=no_bias).fit(dense, example=x)
    tanh = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    (group,) = trace(tanh, torch.randn(5, 4)).groups
    scaled = Symmetry(ws.Layout.of(tanh), (Group("a", 3, group.incoming, group.outgoing, homogeneous=True),))
    with pytest.raises(InputError, match="homogeneous"):
        prove(scaled, tanh, torch.randn(5, 4))


def test_a_wrong_table_does_not_pass_the_proof() -> None:
    arch = architecture([6, 6])
    right = derive(arch)
    prove(right, arch.build_seeded(0), torch.randn(16, 5))
    first, second = right.groups
    swapped = (
        Group("a", 6, first.incoming, second.outgoing),
        Group("b", 6, second.incoming, first.outgoing),
    )
    wrong = Symmetry(right.layout, swapped)
    with pytest.raises(InputError, match=r"does not fit MLP.*groups 'a', 'b'"):
        prove(wrong, arch.build_seeded(0), torch.randn(16, 5))


def test_a_blind_proof_is_refused() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(InputError, match="blind"):
        trace(module, torch.zeros(2, 4))


def wrong(symmetry: Symmetry, without: str) -> Symmetry:
    groups = tuple(
        Group(
            g.name,
            g.size,
            tuple(a for a in g.incoming if a.tensor != without),
            tuple(a for a in g.outgoing if a.tensor != without),
            g.homogeneous,
            (),
            g.parent,
        )
        for g in symmetry.groups
    )
    return Symmetry(symmetry.layout, groups, ("statistic",))


def test_updated_statistics_are_compared_although_units_can_be_rescaled() -> None:
    def track(self: Net, h: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.statistic.copy_(h.amax(0))
        return h

    module = net(track)
    symmetry = trace(module, X)
    assert "statistic" in {a.tensor for g in symmetry.groups for a in g.axes}
    (group,) = (g for g in symmetry.groups if g.size == 6)
    table = Group("units", 6, (Axis("a.weight", 0), Axis("a.bias", 0)), (Axis("b.weight", 1),), homogeneous=True)
    with pytest.raises(InputError, match="does not fit"):
        prove(Symmetry(symmetry.layout, (table,), ("statistic",)), module, X)
    assert group.size == 6


def test_proofs_move_every_unit_by_permutations_that_are_not_their_own_inverse() -> None:
    symmetry = trace(ws.models.MLP((4, 2, 5, 3, 2)), X)
    for seed in range(20):
        for group in symmetry.groups:
            p = _cycles(symmetry, torch.Generator().manual_seed(seed))[group.name]
            assert (p != torch.arange(group.size)).all()
            assert group.size == 2 or not torch.equal(p, p.argsort())


def test_infinite_outputs_neither_hide_an_error_nor_make_one() -> None:
    class Masked(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            assert isinstance(out, torch.Tensor)
            return out.masked_fill(torch.tensor([[True, False]]), -torch.inf)

    module = Masked()
    symmetry = trace(module, X)
    assert len(symmetry.groups) == 1
    with pytest.raises(InputError, match="does not fit"):
        prove(wrong(symmetry, "a.bias"), module, X)


class Draws(nn.Module):
    """Draws from a distribution around its outputs, or notes a draw without using it."""

    def __init__(self, used: float) -> None:
        super().__init__()
        self.a, self.b, self.used = nn.Linear(4, 6), nn.Linear(6, 2), used

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = self.b(torch.relu(self.a(x)))
        return mean + self.used * (torch.distributions.Normal(mean, 1.0, validate_args=False).rsample() - mean)


def test_networks_that_draw_random_numbers_are_refused_if_it_matters() -> None:
    symmetry = trace(Draws(0.0), X)
    assert len(symmetry.groups) == 1
    with pytest.raises(InputError, match=r"draws random numbers in evaluation mode \(aten.normal_ in the module's own"):
        trace(Draws(1.0), X)
    with pytest.raises(InputError, match="draws random numbers in evaluation mode: it computes no one function"):
        prove(symmetry, Draws(1.0), X)


def test_numpy_noise_in_training_is_told_apart_from_a_wrong_table() -> None:
    noise = np.random.default_rng(0)

    def masked(self: Net, h: torch.Tensor) -> torch.Tensor:
        return h * torch.from_numpy(noise.random(h.shape)) if self.training else h

    with pytest.raises(InputError, match="something else each time"):
        trace(net(masked), X)
