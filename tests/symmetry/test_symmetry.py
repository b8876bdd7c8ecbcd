"""Symmetries: derived by tracing, proven, group laws, hand-written ones."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import weightspace as ws
from tests.conftest import outputs
from weightspace.errors import InputError, LayoutMismatch
from weightspace.symmetry import Axis, Group, Symmetry, prove, trace

hidden = st.lists(st.integers(3, 7), min_size=1, max_size=3)


def architecture(sizes: list[int]) -> ws.Architecture:
    return ws.Architecture("MLP", {"sizes": [5, *sizes, 4]})


@cache
def derived(sizes: tuple[int, ...]) -> Symmetry:
    arch = ws.Architecture("MLP", {"sizes": list(sizes)})
    return trace(arch.build_seeded(0), arch.example(16))


def derive(arch: ws.Architecture) -> Symmetry:
    if arch.name == "MLP":
        return derived(tuple(arch.arguments["sizes"]))
    return trace(arch.build_seeded(0), arch.example(16))


def network(arch: ws.Architecture, seed: int = 0) -> torch.Tensor:
    # Normal weights and many inputs (below), so that no unit is silent on all of them.
    random = torch.Generator().manual_seed(seed)
    return torch.randn(arch.layout().size, dtype=torch.float64, generator=random)


def function(arch: ws.Architecture, vector: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    module = arch.build().double()
    module.load_state_dict(ws.Layout.of(module).unpack(vector))
    with torch.no_grad():
        return module(x)


class Attention(nn.Module):
    """Packed projections, heads by view, scaled dot-product attention."""

    def __init__(self, rotary: bool = False, shared_norm: bool = False) -> None:
        super().__init__()
        self.start, self.qkv, self.out, self.end = (
            nn.Linear(5, 12),
            nn.Linear(12, 36),
            nn.Linear(12, 12),
            nn.Linear(12, 2),
        )
        self.norm = nn.LayerNorm(4) if shared_norm else nn.Identity()
        self.rotary = rotary

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.start(x)
        n, t, width = x.shape
        q, k, v = (part.view(n, t, 3, 4).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        q, k = self.norm(q), self.norm(k)
        if self.rotary:
            angle = torch.arange(t)[:, None] * torch.tensor([1.0, 0.1])
            cos, sin = (f(angle).repeat(1, 2) for f in (torch.cos, torch.sin))
            q, k = (z * cos + torch.cat([-z[..., 2:], z[..., :2]], -1) * sin for z in (q, k))
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, width)
        return self.end(x + self.out(h))


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.end = layer, nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.layer(x)[0][-1])


class Indexed(nn.Module):
    """A residual connection through a constant permutation of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.register_buffer("order", torch.tensor([1, 0, 3, 2, 5, 4]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x).relu()
        return self.c(h + self.b(h[:, self.order]).relu())


class Shuffled(nn.Module):
    """ShuffleNet's channel shuffle between two grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x).relu()
        n, _, height, width = h.shape
        h = h.view(n, 2, 4, height, width).transpose(1, 2).reshape(n, 8, height, width)
        return self.c(self.b(h).relu())


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.c = nn.Linear(4, 6), nn.Linear(4, 5), nn.BatchNorm1d(11), nn.Linear(11, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.norm(torch.cat([self.a(x), self.b(x)], 1)).relu())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.table(words)))


class Auxiliary(nn.Module):
    """A second output in training mode only, as in GoogLeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.extra = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        h = self.a(x).relu()
        return (self.b(h), self.extra(h)) if self.training else self.b(h)


def chain(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


IMAGES = (2, 3, 8, 8)
# Name: module, shape of the example, number of groups, groups that have a parent, least coverage.
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int, float]] = {
    "conv, flatten, linear": (lambda: ws.models.LeNet5(), (2, 1, 28, 28), 4, 0, 0.99),
    "batch norm": (lambda: chain(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)), IMAGES, 1, 0, 0.9),
    "residual": (lambda: ws.models.ResNet20(width=0.25), (2, 3, 16, 16), 12, 0, 0.99),
    "residual, padded shortcuts": (lambda: ws.models.ResNet20(width=0.25, shortcut="pad"), (2, 3, 16, 16), 12, 0, 0.99),
    "transposed": (
        lambda: chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)),
        IMAGES, 2, 0, 0.9,
    ),
    "grouped": (
        lambda: chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 4, 3)),
        IMAGES, 3, 2, 0.9,
    ),
    "depthwise": (
        lambda: chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 3)),
        IMAGES, 1, 0, 0.9,
    ),
    "depthwise, multiplied": (
        lambda: chain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 24, 3, groups=8), nn.ReLU(), nn.Conv2d(24, 4, 3)),
        IMAGES, 2, 1, 0.9,
    ),
    "group norm": (lambda: chain(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 4, 3)), IMAGES, 2, 1, 0.9),
    "depthwise and group norm": (
        lambda: chain(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.GroupNorm(4, 8), nn.Conv2d(8, 4, 3)),
        IMAGES, 2, 1, 0.9,
    ),
    "layer norm": (lambda: chain(nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 2)), (6, 5), 1, 0, 0.9),
    "gated": (lambda: chain(nn.Linear(5, 12), nn.GLU(), nn.Linear(6, 2)), (6, 5), 1, 0, 0.9),
    "PReLU": (lambda: chain(nn.Linear(5, 12), nn.PReLU(12), nn.Linear(12, 2)), (6, 5), 1, 0, 0.9),
    "pixel shuffle": (lambda: chain(nn.Conv2d(3, 16, 3), nn.PixelShuffle(2), nn.Conv2d(4, 2, 3)), IMAGES, 1, 0, 0.9),
    "concatenation": (Joined, (6, 4), 2, 0, 0.9),
    "constant index": (Indexed, (6, 4), 1, 0, 0.9),
    "channel shuffle": (Shuffled, IMAGES, 3, 2, 0.9),
    "attention": (Attention, (2, 7, 5), 4, 2, 0.99),
    "attention, rotary": (lambda: Attention(rotary=True), (2, 7, 5), 3, 1, 0.99),
    "attention, a norm shared by heads": (lambda: Attention(shared_norm=True), (2, 7, 5), 5, 0, 0.9),
    "vision transformer": (lambda: ws.models.ViT(width=12, depth=2, heads=3, patch=8), (2, 3, 32, 32), 9, 4, 0.99),
    "transformer, tied embedding": (Tied, (2, 6), 5, 2, 0.99),
    "LSTM": (lambda: Recurrent(nn.LSTM(4, 6, 2), 6), (5, 2, 4), 2, 0, 0.99),
    "LSTM, both ways": (lambda: Recurrent(nn.LSTM(4, 5, bidirectional=True), 10), (5, 2, 4), 2, 0, 0.99),
    "LSTM, projected": (lambda: Recurrent(nn.LSTM(4, 6, proj_size=3), 3), (5, 2, 4), 2, 0, 0.9),
    "GRU": (lambda: Recurrent(nn.GRU(4, 6), 6), (5, 2, 4), 1, 0, 0.95),
    "auxiliary output in training": (Auxiliary, (6, 4), 1, 0, 0.9),
}  # fmt: skip


def example(name: str) -> torch.Tensor:
    shape = MODULES[name][1]
    random = torch.Generator().manual_seed(1)
    if name == "transformer, tied embedding":
        return torch.randint(20, shape, generator=random)
    return torch.randn(shape, generator=random)


@pytest.mark.parametrize("name", MODULES)
def test_traced_symmetries_are_proven_and_complete(name: str) -> None:
    make, _, groups, children, coverage = MODULES[name]
    torch.manual_seed(0)
    symmetry = trace(make(), example(name))  # proves it, or raises
    assert len(symmetry.groups) == groups
    assert sum(g.parent is not None for g in symmetry.groups) == children
    assert symmetry.coverage >= coverage


@pytest.mark.parametrize("name", MODULES)
def test_leaving_out_any_axis_of_a_traced_symmetry_is_noticed(name: str) -> None:
    make = MODULES[name][0]
    torch.manual_seed(0)
    module = make()
    x = example(name)
    symmetry = trace(module, x)
    group = max(symmetry.groups, key=lambda g: len(g.axes))
    checked = 0
    for axis in group.axes[:4]:
        if "bias" in axis.tensor and "qkv" in axis.tensor:
            continue  # attention's key bias has no influence, and shares its tensor with others
        if axis.tensor in {b.name for b in symmetry.layout.buffers}:
            continue  # a missing buffer is refused by Symmetry itself
        less = Group(
            group.name, group.size, tuple(a for a in group.incoming if a != axis),
            tuple(a for a in group.outgoing if a != axis), False, tuple(a for a in group.following if a != axis), group.parent,
        )  # fmt: skip
        wrong = Symmetry(symmetry.layout, tuple(less if g is group else g for g in symmetry.groups), symmetry.fixed)
        with pytest.raises(InputError, match="does not fit"):
            prove(wrong, module, x, controls=False)
        checked += 1
    assert checked


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


class Cumulated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x).cumsum(1))


class Branching(Cumulated):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        return self.b(-h if h.sum() > 0 else h)


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
    with pytest.raises(InputError, match=r"control flow that depends on data"):
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
        layout, torch.stack([layout.pack(s) for s in states]), architecture=arch,
        buffers={b.name: torch.stack([s[b.name] for s in states]) for b in layout.buffers},
    )  # fmt: skip
    symmetry = Symmetry(layout, (group,))
    with pytest.raises(InputError, match="must be proven"):
        ws.WeightMatching(symmetry=symmetry).fit(networks)
    x = torch.randn(7, 4)
    for matching in (ws.WeightMatching(symmetry=symmetry), ws.WeightMatching()):
        aligned = matching.fit(networks, example=x).transform(networks)
        torch.testing.assert_close(outputs(aligned, x), outputs(networks, x), rtol=1e-5, atol=1e-5)
        assert not torch.equal(aligned.buffers["1.running_mean"], networks.buffers["1.running_mean"])
