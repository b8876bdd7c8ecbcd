"""Rows chosen by indices that are inputs, such as the edges of a graph."""

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
