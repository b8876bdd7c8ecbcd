"""Query heads of one head of keys and values: copies, which move beside the units that they share."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import weightspace as ws
from tests.symmetry.examples import outputs_of_a_copy
from weightspace.errors import InputError
from weightspace.symmetry import Axis, Group, Symmetry, trace


class Grouped(nn.Module):
    """Attention with fewer heads of keys and values than of queries."""

    def __init__(self, how: str, heads: int = 4, kv: int = 2) -> None:
        super().__init__()
        self.how, self.heads, self.kv = how, heads, kv
        self.q, self.k, self.v = nn.Linear(5, 3 * heads), nn.Linear(5, 3 * kv), nn.Linear(5, 3 * kv)
        self.out = nn.Linear(3 * heads, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (w(x).view(n, t, -1, 3).transpose(1, 2) for w in (self.q, self.k, self.v))
        repeats = self.heads // self.kv
        if self.how == "repeat_interleave":
            k, v = (z.repeat_interleave(repeats, 1) for z in (k, v))
        if self.how == "expand":
            k, v = (z[:, :, None].expand(n, self.kv, repeats, t, 3).reshape(n, self.heads, t, 3) for z in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.how == "enable_gqa")
        return self.out(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("how", ["repeat_interleave", "expand", "enable_gqa"])
def test_query_heads_are_copies_inside_their_head_of_keys(how: str) -> None:
    torch.manual_seed(0)
    module, x = Grouped(how), torch.randn(3, 6, 5)
    symmetry = trace(module, x)
    assert [(g.name, g.size, g.parent) for g in symmetry.groups] == [
        ("q blocks", 2, None),
        ("q", 3, "q blocks"),
        ("q copies", 2, "q blocks"),
        ("v", 3, "q blocks"),
    ]
    assert symmetry.shared == {("q.weight", 0), ("q.bias", 0), ("out.weight", 1)}
    before, after = outputs_of_a_copy(symmetry, module, x)
    torch.testing.assert_close(after, before)


def test_one_head_of_keys_for_all_queries() -> None:
    torch.manual_seed(0)
    module, x = Grouped("enable_gqa", kv=1), torch.randn(3, 6, 5)
    symmetry = trace(module, x)
    assert sorted((g.size, g.parent) for g in symmetry.groups) == [(3, None), (3, None), (4, None)]
    before, after = outputs_of_a_copy(symmetry, module, x)
    torch.testing.assert_close(after, before)


def test_exchanged_query_heads_are_aligned_to_distance_zero() -> None:
    torch.manual_seed(0)
    module, x = Grouped("repeat_interleave"), torch.randn(3, 6, 5)
    symmetry = trace(module, x)
    vector = symmetry.layout.pack(module.state_dict())
    exchanged = symmetry.identity() | {"q copies": torch.tensor([[1, 0], [0, 1]])}
    everything = symmetry.random(torch.Generator().manual_seed(1))
    copies = [symmetry.permute(vector, orders) for orders in (exchanged, everything)]
    architecture = ws.Architecture.of(lambda: Grouped("repeat_interleave"))
    networks = ws.Collection(symmetry.layout, torch.stack([vector, *copies]), architecture=architecture)
    matching = ws.WeightMatching(symmetry=symmetry, balance=False, population=ws.align.Star(0))
    aligned = matching.fit(networks, example=x).transform(networks).weights
    assert not torch.equal(networks.weights[0], networks.weights[1])
    assert torch.equal(aligned, aligned[:1].expand_as(aligned))


def test_compositions_and_inverses_of_copies() -> None:
    symmetry = trace(Grouped("expand"), torch.randn(3, 6, 5))
    vector = torch.randn(symmetry.layout.size)
    first, then = (symmetry.random(torch.Generator().manual_seed(k)) for k in (1, 2))
    twice = symmetry.permute(symmetry.permute(vector, first), then)
    assert torch.equal(symmetry.permute(vector, symmetry.compose(first, then)), twice)
    assert torch.equal(symmetry.permute(symmetry.permute(vector, first), symmetry.inverse(first)), vector)


class Told(Grouped):
    """One query head is scaled by itself, so that it is no copy of another."""

    def forward(self, x: Tensor) -> Tensor:
        self.how = "none"
        n, t, _ = x.shape
        q, k, v = (w(x).view(n, t, -1, 3).transpose(1, 2) for w in (self.q, self.k, self.v))
        k, v = (z.repeat_interleave(2, 1) for z in (k, v))
        q = q * torch.tensor([1.0, 2.0, 1.0, 2.0])[:, None, None]
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_query_heads_that_differ_stay_in_place() -> None:
    torch.manual_seed(0)
    symmetry = trace(Told("none"), torch.randn(3, 6, 5))
    assert not [g for g in symmetry.groups if g.name.endswith("copies")]
    assert {g.size for g in symmetry.groups} == {3}


def test_groups_that_only_overlap_are_refused() -> None:
    layout = ws.Layout.of(nn.Linear(5, 6, bias=False))
    rows = Group("rows", 2, (Axis("weight", 0, (0, 1, 2, 3, 4, 5)),), ())
    columns = Group("columns", 3, (Axis("weight", 0, (0, 3, 1, 4, 2, 5)),), ())
    assert Symmetry(layout, (rows, columns)).shared == {("weight", 0)}
    with pytest.raises(InputError, match="is in 'rows' and in 'columns'"):
        Symmetry(layout, (rows, Group("columns", 3, (Axis("weight", 0, (0, 1, 2, 3, 4, 5)),), ())))
