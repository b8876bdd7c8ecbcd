"""Tables of symmetry: group laws, masks, scales, what does not fit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import weightspace as ws
from tests.fixtures import outputs
from tests.symmetry.examples import (
    MODULES,
    architecture,
    derive,
    example,
)
from weightspace.errors import InputError, LayoutMismatch
from weightspace.symmetry import Axis, Group, Symmetry, trace

hidden = st.lists(st.integers(3, 7), min_size=1, max_size=3)


def network(arch: ws.Architecture, seed: int = 0) -> torch.Tensor:
    # Normal weights and many inputs (below), so that no unit is silent on all of them.
    random = torch.Generator().manual_seed(seed)
    return torch.randn(arch.layout().size, dtype=torch.float64, generator=random)


def function(arch: ws.Architecture, vector: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    module = arch.build().double()
    module.load_state_dict(ws.Layout.of(module).unpack(vector))
    with torch.no_grad():
        return module(x)


@pytest.mark.parametrize("name", MODULES)
def test_group_laws_of_traced_symmetries(name: str) -> None:
    torch.manual_seed(0)
    symmetry = trace(MODULES[name][0](), example(name))
    random = torch.Generator().manual_seed(2)
    vector = torch.randn(3, symmetry.layout.size, generator=random)
    p, q = symmetry.random(random), symmetry.random(random)
    assert torch.equal(symmetry.permute(vector, symmetry.identity()), vector)
    assert torch.equal(symmetry.permute(symmetry.permute(vector, p), symmetry.inverse(p)), vector)
    twice = symmetry.permute(symmetry.permute(vector, p), q)
    assert torch.equal(twice, symmetry.permute(vector, symmetry.compose(p, q)))
    assert not torch.equal(twice, symmetry.permute(symmetry.permute(vector, q), p))
    assert Symmetry.from_json(symmetry.to_json(), symmetry.layout) == symmetry
    for group in symmetry.groups:
        assert group.name in str(symmetry)


@given(hidden, st.integers(0, 100))
def test_permuting_all_axes_leaves_the_function_unchanged_one_axis_alone_does_not(sizes: list[int], seed: int) -> None:
    arch = architecture(sizes)
    symmetry = derive(arch)
    vector = network(arch, seed)
    x = torch.randn(200, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    permutations = {g.name: torch.arange(g.size).roll(1) for g in symmetry.groups}
    before = function(arch, vector, x)
    torch.testing.assert_close(
        function(arch, symmetry.permute(vector, permutations), x), before, rtol=1e-12, atol=1e-12
    )
    for group in symmetry.groups:
        for axis in group.axes:
            one_sided = Symmetry(symmetry.layout, (Group(group.name, group.size, (axis,), ()),))
            changed = function(arch, one_sided.permute(vector, permutations), x)
            assert (changed - before).abs().max() > 1e-6 * before.abs().max()


@given(hidden, st.integers(0, 100))
def test_masks_move_with_their_weights(sizes: list[int], seed: int) -> None:
    symmetry = derive(architecture(sizes))
    random = torch.Generator().manual_seed(seed)
    weights = torch.randn(symmetry.layout.size, generator=random)
    mask = torch.rand(symmetry.layout.size, generator=random) < 0.4
    p = symmetry.random(random)
    moved = symmetry.permute(mask, p)
    assert moved.dtype == torch.bool
    assert torch.equal(symmetry.permute(weights * mask, p), symmetry.permute(weights, p) * moved)


@given(hidden, st.integers(0, 100))
def test_scaling_homogeneous_units_leaves_the_function_unchanged(sizes: list[int], seed: int) -> None:
    arch = architecture(sizes)
    symmetry = derive(arch)
    assert all(group.homogeneous for group in symmetry.groups)
    random = torch.Generator().manual_seed(seed)
    vector = network(arch, seed)
    scales = {g.name: torch.rand(g.size, dtype=torch.float64, generator=random) * 3 + 0.1 for g in symmetry.groups}
    x = torch.randn(9, 5, dtype=torch.float64, generator=random)
    scaled = symmetry.scale(vector, scales)
    torch.testing.assert_close(function(arch, scaled, x), function(arch, vector, x), rtol=1e-10, atol=1e-12)
    negative = {name: -scale for name, scale in scales.items()}  # the control: ReLU is not odd
    assert not torch.allclose(function(arch, symmetry.scale(vector, negative), x), function(arch, vector, x))


def test_tables_that_do_not_fit_the_layout_are_refused() -> None:
    layout = architecture([6]).layout()
    with pytest.raises(LayoutMismatch, match=r"7 units.*axis 0 of tensor '1\.weight'"):
        Symmetry(layout, (Group("a", 7, (Axis("1.weight", 0),), ()),))
    with pytest.raises(LayoutMismatch, match="'nothing'"):
        Symmetry(layout, (Group("a", 6, (Axis("nothing", 0),), ()),))
    with pytest.raises(LayoutMismatch, match="axis 0 of tensor"):
        Symmetry(layout, (Group("a", 3, (Axis("1.weight", 0, (0, 1, 9)),), ()),))
    with pytest.raises(InputError, match="is in 'a' and in 'b'"):
        Symmetry(layout, tuple(Group(name, 6, (Axis("1.weight", 0),), ()) for name in "ab"))
    with pytest.raises(InputError, match="must come before"):
        Symmetry(layout, (Group("a", 3, (Axis("1.weight", 0),), (), parent="b"),))
    normed = ws.Layout.of(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    with pytest.raises(InputError, match="'1.running_mean' is on no group's axis"):
        Symmetry(normed, (Group("a", 3, (Axis("0.weight", 0),), ()),))


def test_blocks_and_tiles_say_where_a_unit_lies() -> None:
    assert Axis.blocks("w", 1, units=2, block=3).index == (0, 1, 2, 3, 4, 5)
    assert Axis.tiles("w", 0, units=3, tiles=2).index == (0, 3, 1, 4, 2, 5)


def test_a_hand_written_symmetry_moves_batchnorm_statistics() -> None:
    def build() -> nn.Module:
        module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
        nn.init.normal_(module[1].weight)
        nn.init.normal_(module[1].bias)
        module[1].running_mean.normal_()
        module[1].running_var.uniform_(0.5, 2)
        return module

    arch = ws.Architecture.of(build)
    names = ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")
    group = Group("units", 5, tuple(Axis(name, 0) for name in names), (Axis("3.weight", 1),))
    states = [arch.build_seeded(i).state_dict() for i in range(4)]
    layout = arch.layout()
    networks = ws.Collection(
        layout,
        torch.stack([layout.pack(s) for s in states]),
        architecture=arch,
        buffers={b.name: torch.stack([s[b.name] for s in states]) for b in layout.buffers},
    )
    symmetry = Symmetry(layout, (group,))
    with pytest.raises(InputError, match="must be proven"):
        ws.WeightMatching(symmetry=symmetry).fit(networks)
    x = torch.randn(7, 4)
    for matching in (ws.WeightMatching(symmetry=symmetry), ws.WeightMatching()):
        aligned = matching.fit(networks, example=x).transform(networks)
        torch.testing.assert_close(outputs(aligned, x), outputs(networks, x), rtol=1e-5, atol=1e-5)
        assert not torch.equal(aligned.buffers["1.running_mean"], networks.buffers["1.running_mean"])
