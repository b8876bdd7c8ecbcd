"""Rows chosen by indices that are inputs, such as the edges of a graph."""

import warnings

import torch
from torch import Tensor, nn

from tests.symmetry.examples import outputs_of_a_copy
from weightspace.symmetry import trace


class GraphConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return self.b(torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]))


def test_units_of_nodes_move_while_edges_stay() -> None:
    torch.manual_seed(0)
    module, x = GraphConvolution(), (torch.randn(6, 5), torch.randint(6, (2, 20)))
    symmetry = trace(module, x)
    assert [g.size for g in symmetry.groups] == [7]
    before, after = outputs_of_a_copy(symmetry, module, x)
    torch.testing.assert_close(after, before)


def test_heads_of_values_that_are_repeated_and_flattened_stay_heads() -> None:
    class Eager(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.v, self.o = nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(12, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.tanh(self.a(x))
            b, t, _ = h.shape
            v = self.v(h).view(b, t, 2, 3).transpose(1, 2)
            v = v[:, :, None].expand(b, 2, 2, t, 3).reshape(b, 4, t, 3)  # each head of values for two heads of queries
            weight = torch.softmax(torch.arange(4.0)[:, None, None] * torch.eye(t), -1).expand(b, 4, t, t)
            return self.o((weight @ v).transpose(1, 2).reshape(b, t, 12))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        symmetry = trace(Eager(), torch.randn(2, 5, 3))
    assert [g.size for g in symmetry.groups] == [8, 3, 3]
