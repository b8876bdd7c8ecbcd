import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from weightspace.symmetry.chain import prove

import weightspace as ws
from tests.conftest import outputs
from weightspace.errors import InputError, LayoutMismatch
from weightspace.symmetry import Axis, Group, Symmetry, derive

hidden = st.lists(st.integers(2, 7), min_size=1, max_size=3)


def architecture(sizes: list[int]) -> ws.Architecture:
    return ws.Architecture("MLP", {"sizes": [5, *sizes, 4]})


def network(arch: ws.Architecture, seed: int = 0) -> torch.Tensor:
    # Normal weights and many inputs (below), so that no unit is silent on all of them.
    random = torch.Generator().manual_seed(seed)
    return torch.randn(arch.layout().size, dtype=torch.float64, generator=random)


def function(arch: ws.Architecture, vector: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    module = arch.build().double()
    module.load_state_dict(ws.Layout.of(module).unpack(vector))
    with torch.no_grad():
        return module(x)


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
def test_group_laws(sizes: list[int], seed: int) -> None:
    symmetry = derive(architecture(sizes))
    random = torch.Generator().manual_seed(seed)
    vector = torch.randn(3, symmetry.layout.size, generator=random)
    p, q = symmetry.random(random), symmetry.random(random)
    assert torch.equal(symmetry.permute(vector, symmetry.identity()), vector)
    inverse = {name: permutation.argsort() for name, permutation in p.items()}
    assert torch.equal(symmetry.permute(symmetry.permute(vector, p), inverse), vector)
    both = {name: p[name][q[name]] for name in p}
    assert torch.equal(symmetry.permute(symmetry.permute(vector, p), q), symmetry.permute(vector, both))


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


def test_other_activations_are_derived_but_not_scaled() -> None:
    arch = ws.Architecture.of(lambda: nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2)))
    symmetry = derive(arch)
    prove(symmetry, arch, torch.randn(4, 5))
    assert [group.homogeneous for group in symmetry.groups] == [False]
    with pytest.raises(InputError, match="not homogeneous"):
        symmetry.scale(torch.zeros(symmetry.layout.size), {"units 0": torch.ones(3)})


def test_networks_without_a_rule_are_refused_by_name() -> None:
    normed = ws.Architecture.of(lambda: nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2)))
    with pytest.raises(InputError, match=r"layer '1' is a LayerNorm.*by hand"):
        derive(normed)
    with pytest.raises(InputError, match=r"not an nn.Sequential.*align=None"):
        derive(ws.Architecture.of(lambda: nn.GRU(3, 3)))
    with pytest.raises(InputError, match="layer .0. is a Conv2d"):
        derive(ws.Architecture.of(lambda: nn.Sequential(nn.Conv2d(1, 1, 1))))


def test_layers_used_twice_are_seen() -> None:
    act = nn.Tanh()
    shared = ws.Architecture.of(lambda: nn.Sequential(nn.Linear(4, 3), act, nn.Linear(3, 3), act, nn.Linear(3, 2)))
    assert [group.homogeneous for group in derive(shared).groups] == [False, False]
    same = nn.Linear(3, 3)
    with pytest.raises(InputError, match="layer '1' is used twice"):
        derive(ws.Architecture.of(lambda: nn.Sequential(nn.Linear(4, 3), same, nn.ReLU(), same, nn.Linear(3, 2))))


def test_a_table_that_forgets_an_axis_or_scales_what_cannot_be_scaled_is_refused(dense: ws.Collection) -> None:
    right = derive(dense.architecture)
    x = torch.randn(5, 64)
    first, second = right.groups
    no_bias = Symmetry(right.layout, (Group("a", first.size, first.incoming[:1], first.outgoing), second))
    with pytest.raises(InputError, match="does not fit MLP"):
        ws.WeightMatching(symmetry=no_bias, example=x).fit(dense)
    tanh = ws.Architecture.of(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)))
    (group,) = derive(tanh).groups
    scaled = Symmetry(tanh.layout(), (Group("a", 3, group.incoming, group.outgoing, homogeneous=True),))
    with pytest.raises(InputError, match="homogeneous"):
        prove(scaled, tanh, torch.randn(5, 4))


def test_a_wrong_table_does_not_pass_the_proof() -> None:
    arch = architecture([6, 6])
    right = derive(arch)
    prove(right, arch, torch.randn(3, 5))
    first, second = right.groups
    swapped = (
        Group("a", 6, first.incoming, second.outgoing),
        Group("b", 6, second.incoming, first.outgoing),
    )
    wrong = Symmetry(right.layout, swapped)
    with pytest.raises(InputError, match="does not fit MLP"):
        prove(wrong, arch, torch.randn(3, 5))


def test_tables_that_do_not_fit_the_layout_are_refused() -> None:
    layout = architecture([6]).layout()
    with pytest.raises(LayoutMismatch, match=r"7 units.*axis 0 of tensor '1\.weight'"):
        Symmetry(layout, (Group("a", 7, (Axis("1.weight", 0),), ()),))
    with pytest.raises(LayoutMismatch, match="'nothing'"):
        Symmetry(layout, (Group("a", 6, (Axis("nothing", 0),), ()),))
    with pytest.raises(InputError, match="is in 'a' and in 'b'"):
        Symmetry(layout, tuple(Group(name, 6, (Axis("1.weight", 0),), ()) for name in "ab"))
    normed = ws.Layout.of(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    with pytest.raises(InputError, match="'1.running_mean' is on no group's axis"):
        Symmetry(normed, (Group("a", 3, (Axis("0.weight", 0),), ()),))


def test_a_table_is_data() -> None:
    symmetry = derive(architecture([6, 3]))
    assert Symmetry.from_json(symmetry.to_json(), symmetry.layout) == symmetry
    assert "1.weight[0], 1.bias[0] -> 3.weight[1]" in str(symmetry)


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
        layout, torch.stack([layout.pack(s) for s in states]), architecture=arch,
        buffers={b.name: torch.stack([s[b.name] for s in states]) for b in layout.buffers},
    )  # fmt: skip
    symmetry = Symmetry(layout, (group,))
    with pytest.raises(InputError, match="must be proven"):
        ws.WeightMatching(symmetry=symmetry).fit(networks)
    x = torch.randn(7, 4)
    matching = ws.WeightMatching(symmetry=symmetry, example=x)
    aligned = matching.fit(networks).transform(networks)
    torch.testing.assert_close(outputs(aligned, x), outputs(networks, x), rtol=1e-6, atol=1e-6)
    assert not torch.equal(aligned.buffers["1.running_mean"], networks.buffers["1.running_mean"])
