"""Heads, adapters and bottlenecks: which of their units can be mixed, and on which axes inversely."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.symmetry.examples import Attention
from weightspace.symmetry import Symmetry, trace


class Grouped(nn.Module):
    """Four heads of queries, two of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(6, 16), nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(16, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start, self.layer, self.end = (
            nn.Linear(5, 8),
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Linear(8, 2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.start(x).relu()
        return self.end(self.layer(h, h, h, need_weights=False)[0].relu())


class Adapter(nn.Module):
    """LoRA beside a layer, or added to its weight."""

    def __init__(self, merged: bool) -> None:
        super().__init__()
        self.base, self.end, self.merged = nn.Linear(6, 5), nn.Linear(5, 2), merged
        self.a, self.b = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.randn(5, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.merged:
            return self.end(F.linear(x, self.base.weight + 0.5 * (self.b @ self.a), self.base.bias).relu())
        return self.end((self.base(x) + 0.5 * F.linear(F.linear(x, self.a), self.b)).relu())


class Shared(nn.Module):
    """One weight for queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.end = nn.Linear(6, 4), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.both(x)
        return self.end((h @ h.mT).softmax(-1) @ x)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.end = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3), nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(F.adaptive_avg_pool2d(self.b(self.a(x)), 2).flatten(1))


SEQUENCE = (3, 7, 5)
STREAM = "start.weight[0], start.bias[0], out.weight[0], out.bias[0]"
# Module, example, and its linear groups: kind, parent or none, primal axes, dual axes.
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[tuple[str, bool, str, str]]]] = {
    "multi-head attention": (Packed, SEQUENCE, [
        ("general", True, "layer.in_proj_weight[0, 0:8], layer.in_proj_bias[0, 0:8]",
         "layer.in_proj_weight[0, 8:16], layer.in_proj_bias[0, 8:16]"),
        ("general", True, "layer.in_proj_weight[0, 16:24], layer.in_proj_bias[0, 16:24]", "layer.out_proj.weight[1]"),
    ]),
    "heads by hand and a stream without norms": (Attention, SEQUENCE, [
        ("general", False, STREAM, "qkv.weight[1], end.weight[1]"),
        ("general", True, "qkv.weight[0, 0:12], qkv.bias[0, 0:12]", "qkv.weight[0, 12:24], qkv.bias[0, 12:24]"),
        ("general", True, "qkv.weight[0, 24:36], qkv.bias[0, 24:36]", "out.weight[1]"),
    ]),
    "rotary positions": (lambda: Attention(rotary=True), SEQUENCE, [
        ("general", False, STREAM, "qkv.weight[1], end.weight[1]"),
        ("general", True, "qkv.weight[0, 24:36], qkv.bias[0, 24:36]", "out.weight[1]"),
    ]),
    "fewer heads of keys": (Grouped, (3, 5, 6), [
        ("general", True, "q.weight[0, 16 positions in 15 runs], q.bias[0, 16 positions in 15 runs]",
         "k.weight[0], k.bias[0]"),
        ("general", True, "v.weight[0], v.bias[0]", "o.weight[1, 16 positions in 15 runs]"),
    ]),
    "an adapter beside": (lambda: Adapter(merged=False), (8, 6), [("general", False, "a[0]", "b[1]")]),
    "an adapter added": (lambda: Adapter(merged=True), (8, 6), [("general", False, "a[0]", "b[1]")]),
    "one weight for queries and keys": (Shared, (3, 5, 6), [("orthogonal", False, "both.weight[0], both.bias[0]", "")]),
    "convolutions": (Convolutions, (3, 2, 7, 7), [
        ("general", False, "a.weight[0], a.bias[0]", "b.weight[1]"),
        ("general", False, "b.weight[0], b.bias[0]", "end.weight[1, 0:12]"),
    ]),
}  # fmt: skip


def traced(name: str) -> tuple[nn.Module, Symmetry]:
    make, shape, _ = CASES[name]
    torch.manual_seed(0)
    module, x = make().eval(), torch.randn(shape)
    return module, trace(module, x)


def test_linear_groups_and_their_axes() -> None:
    for name, (_, _, expected) in CASES.items():
        _, symmetry = traced(name)
        found = {
            (str(g.linear), g.parent is not None, *(", ".join(map(str, side)) for side in (g.primal, g.dual)))
            for g in symmetry.linear
        }
        assert found == set(expected), name


def test_products_of_the_factors_stay() -> None:
    module, symmetry = traced("an adapter beside")
    vector = symmetry.layout.pack(module.state_dict()).double()
    before = symmetry.layout.tensors(vector)
    after = symmetry.layout.tensors(symmetry.mix(vector, symmetry.random_matrices(torch.Generator().manual_seed(1))))
    assert not torch.allclose(before["a"], after["a"], atol=0.1)
    torch.testing.assert_close(after["b"] @ after["a"], before["b"] @ before["a"])
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name not in ("a", "b"))


def test_grouped_convolutions_in_a_row_have_a_table() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(4, 6, 1, groups=2), nn.Conv1d(6, 4, 1, groups=2), nn.ReLU(), nn.Conv1d(4, 3, 1))
    with pytest.warns(UserWarning, match=r"no permutation moves 0.weight\[0\]"):
        symmetry = trace(module, torch.randn(3, 4, 7))
    assert symmetry.groups
    assert not symmetry.linear


def test_the_permutation_part_of_a_table_is_as_before() -> None:
    _, symmetry = traced("heads by hand and a stream without norms")
    group = symmetry.by_name["qkv"]
    assert [axis.tensor for axis in group.incoming] == ["qkv.weight", "qkv.bias"]  # queries and keys on one axis
    assert group.incoming[0].index is not None
    assert len(group.incoming[0].index) == 24
    assert group.dual[0].lies_in(group.incoming[0])
    assert group.primal[0].lies_in(group.incoming[0])
    written = Symmetry.from_json(symmetry.to_json(), symmetry.layout)
    assert written == symmetry
