"""Linear groups are mixed by matrices: the laws, what is left unchanged, and what the proof and the checks refuse."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

import weightspace as ws
from tests.symmetry.examples import Attention
from weightspace.errors import InputError
from weightspace.symmetry import Axis, Group, Symmetry, mixing, prove

Case = tuple[nn.Module, Symmetry]
RANDOM = torch.Generator().manual_seed(0)
X = torch.randn(6, 5, 4, generator=RANDOM)


class Bottleneck(nn.Module):
    """4 - 3 - 2, linear; with `normed`, the units' length is one."""

    def __init__(self, normed: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.normed = nn.Linear(4, 3), nn.Linear(3, 2), normed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        return self.b(h / h.norm(dim=-1, keepdim=True) if self.normed else h)


class Heads(nn.Module):
    """Attention without softmax, weights (heads, inputs, units): each head has an order and a basis of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = (nn.Parameter(torch.randn(2, 4, 3) / 2) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k = (torch.einsum("bti,hiu->bhtu", x, w) for w in (self.q, self.k))
        return (q @ k.mT).softmax(-1).sum(1)


def bottleneck(linear: str = "general", *, normed: bool = False) -> tuple[nn.Module, Symmetry]:
    torch.manual_seed(0)
    module = Bottleneck(normed)
    makes, reads = (Axis("a.weight", 0), Axis("a.bias", 0)), (Axis("b.weight", 1),)
    group = Group("units", 3, makes, reads, linear=linear, dual=reads if linear == "general" else ())
    return module, Symmetry(ws.Layout.of(module), (group,))


def heads() -> tuple[nn.Module, Symmetry]:
    torch.manual_seed(0)
    module = Heads()
    q, k = Axis("q", 2, within=0), Axis("k", 2, within=0)
    groups = (
        Group("heads", 2, (Axis("q", 0), Axis("k", 0)), ()),
        Group("units", 3, (q, k), (), parent="heads", linear="general", dual=(k,)),
    )
    return module, Symmetry(ws.Layout.of(module), groups)


def packed() -> tuple[nn.Module, Symmetry]:
    """Queries, keys and values in one weight."""
    torch.manual_seed(0)
    module = Attention()
    parts = [tuple(range(12 * part, 12 * part + 12)) for part in range(3)]

    def both(part: int) -> tuple[Axis, Axis]:
        return Axis("qkv.weight", 0, parts[part]), Axis("qkv.bias", 0, parts[part])

    groups = (
        Group("heads", 3, (), ()),
        Group("qk", 4, both(0) + both(1), (), parent="heads", linear="general", dual=both(1)),
        Group("v", 4, both(2), (Axis("out.weight", 1),), parent="heads", linear="general",
              dual=(Axis("out.weight", 1),)),
    )  # fmt: skip
    return module, Symmetry(ws.Layout.of(module), groups)


CASES: dict[str, Callable[[], Case]] = {"bottleneck": bottleneck, "heads": heads, "packed": packed}


@pytest.mark.parametrize("name", CASES)
def test_mixing_is_a_group_that_leaves_the_function_alone(name: str) -> None:
    module, symmetry = CASES[name]()
    module = module.double().eval()
    x = torch.randn(3, 6, 5, dtype=torch.float64) if name == "packed" else X.double()
    vector = symmetry.layout.pack(module.state_dict())
    random = torch.Generator().manual_seed(1)
    one, two = symmetry.random_matrices(random), symmetry.random_matrices(random)
    mixed = symmetry.mix(vector, one)
    assert not torch.allclose(mixed, vector, atol=1e-2)
    close = {"rtol": 0, "atol": 1e-10}
    torch.testing.assert_close(symmetry.mix(mixed, mixing.inverse(one)), vector, **close)
    torch.testing.assert_close(symmetry.mix(mixed, two), symmetry.mix(vector, mixing.compose(one, two)), **close)
    both = symmetry.mix(torch.stack([vector, vector]), {n: torch.stack([one[n], two[n]]) for n in one})
    torch.testing.assert_close(both, torch.stack([mixed, symmetry.mix(vector, two)]), **close)
    torch.testing.assert_close(symmetry.mix(torch.stack([vector] * 2), one)[1], mixed, **close)
    orders = symmetry.random(random)
    moved = mixing.reorder(symmetry.by_name, one, orders)
    torch.testing.assert_close(
        symmetry.permute(mixed, orders), symmetry.mix(symmetry.permute(vector, orders), moved), **close
    )
    expected = module(x)
    module.load_state_dict(symmetry.layout.unpack(mixed))
    torch.testing.assert_close(module(x), expected, **close)
    prove(symmetry, module, x)


def test_a_permutation_is_a_mixing_by_its_matrix() -> None:
    _, symmetry = bottleneck("orthogonal")
    vector = torch.arange(1.0, symmetry.layout.size + 1)
    order = {"units": torch.tensor([2, 0, 1])}
    assert torch.equal(symmetry.permute(vector, order), symmetry.mix(vector, {"units": torch.eye(3)[order["units"]]}))


def test_random_matrices_are_well_conditioned_and_of_either_sign() -> None:
    for linear, largest in (("general", 2.0), ("orthogonal", 1.0)):
        _, symmetry = bottleneck(linear)
        drawn = torch.stack([symmetry.random_matrices(RANDOM)["units"] for _ in range(50)])
        values = torch.linalg.svdvals(drawn)
        assert values.max() <= largest + 1e-9
        assert values.min() >= 1 / largest - 1e-9
        assert 10 < (torch.linalg.det(drawn) > 0).sum() < 40


def test_each_mistake_in_a_linear_group_is_refused_by_name() -> None:
    module, symmetry = bottleneck()
    (group,) = symmetry.groups
    wrong = {
        "transposed action": replace(group, dual=()),
        "dual on one axis too many": replace(group, dual=group.axes),
        "a bias left out": replace(group, incoming=group.incoming[:1]),
        "a missing axis": replace(group, outgoing=(), dual=()),
    }
    for case in wrong.values():
        with pytest.raises(InputError, match="groups 'units'.*linear"):
            prove(replace(symmetry, groups=(case,)), module, X)
    normed, orthogonal = bottleneck("orthogonal", normed=True)
    prove(orthogonal, normed, X)
    with pytest.raises(InputError, match="groups 'units'"):
        prove(symmetry, normed, X)
    relu = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    group = Group("units", 3, (Axis("0.weight", 0), Axis("0.bias", 0)), (Axis("2.weight", 1),))
    prove(Symmetry(ws.Layout.of(relu), (group,)), relu, X)
    for some in (replace(group, linear="orthogonal"), replace(group, linear="general", dual=group.outgoing)):
        with pytest.raises(InputError, match="groups 'units'"):
            prove(Symmetry(ws.Layout.of(relu), (some,)), relu, X)


def test_matrices_that_may_not_mix_a_group_are_refused_with_the_remedy() -> None:
    _, symmetry = bottleneck()
    vector = torch.zeros(symmetry.layout.size)
    for matrix, message in (
        (torch.zeros(3, 3), "singular"),
        (torch.full((3, 3), torch.nan), "singular or not finite"),
        (torch.eye(4), r"expected floating point numbers of shape \(3, 3\)"),
        (torch.eye(3).expand(2, 3, 3), "expected floating point"),
        (torch.eye(3, dtype=torch.int64), "floating point"),
    ):
        with pytest.raises(InputError, match=message):
            symmetry.mix(vector, {"units": matrix})
    with pytest.raises(InputError, match="no group is called 'other'"):
        symmetry.mix(vector, {"other": torch.eye(3)})
    with pytest.raises(InputError, match="masks"):
        symmetry.mix(vector.bool(), {"units": torch.eye(3)})
    _, orthogonal = bottleneck("orthogonal")
    with pytest.raises(InputError, match=r"not orthogonal.*polar"):
        orthogonal.mix(vector, {"units": 2 * torch.eye(3)})
    plain = replace(symmetry, groups=(replace(symmetry.groups[0], linear=None, dual=()),))
    assert plain.linear == ()
    with pytest.raises(InputError, match="cannot be mixed, only reordered"):
        plain.mix(vector, {"units": torch.eye(3)})


def test_groups_that_contradict_themselves_are_refused() -> None:
    _, symmetry = bottleneck()
    (group,) = symmetry.groups
    with pytest.raises(InputError, match="none of 'general'"):
        replace(group, linear="unitary")
    with pytest.raises(InputError, match="dual axes"):
        replace(group, linear="orthogonal")
    with pytest.raises(InputError, match="dual axes"):
        replace(group, dual=(Axis("a.weight", 1),))
    _, nested = heads()
    parent, child = nested.groups
    with pytest.raises(InputError, match="hold others"):
        replace(nested, groups=(replace(parent, linear="orthogonal"), child))


def test_kinds_are_named_and_written_only_where_they_are_not_the_default() -> None:
    _, symmetry = bottleneck()
    (group,) = symmetry.groups
    assert group.kinds == ("permutation", "general linear")
    assert replace(group, odd=True, homogeneous=True, linear="orthogonal", dual=()).kinds == (
        "permutation",
        "sign",
        "positive scale",
        "orthogonal",
    )
    assert "(permutation, general linear)" in str(symmetry)
    written = symmetry.to_json()
    assert written["groups"][0]["linear"] == "general"
    assert written["groups"][0]["dual"] == [["b.weight", 1, None, None]]
    assert Symmetry.from_json(written, symmetry.layout) == symmetry
    plain = replace(symmetry, groups=(replace(group, linear=None, dual=()),))
    assert not {"linear", "dual"} & plain.to_json()["groups"][0].keys()
    assert Symmetry.from_json(plain.to_json(), plain.layout) == plain


def test_buffers_are_mixed_like_weights_in_the_type_that_they_have() -> None:
    module = Bottleneck()
    direction = torch.randn(3)
    module.register_buffer("direction", direction)
    makes, reads = (Axis("a.weight", 0), Axis("a.bias", 0), Axis("direction", 0)), (Axis("b.weight", 1),)
    symmetry = Symmetry(ws.Layout.of(module), (Group("units", 3, makes, reads, linear="general", dual=reads),))
    matrices = symmetry.random_matrices(RANDOM)
    mixed = symmetry.mix_buffers({"direction": direction}, matrices)["direction"]
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, (matrices["units"] @ direction.double()).float())
