"""What a weight is worth to its layer's outputs."""

import pytest
import torch
from torch import nn

import weightspace as ws
from tests.sparse.examples import collected, matrix
from weightspace import sparse


def test_input_scores_are_what_pruning_costs_the_outputs() -> None:
    # Columns of a Hadamard matrix do not correlate: what a mask leaves out adds up to the error, row by row.
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    hadamard = torch.kron(torch.kron(signs, signs), signs)
    x = hadamard * torch.arange(1.0, 9.0)  # inputs of other sizes
    networks = collected(lambda: nn.Linear(8, 3), 2)
    scores = sparse.input_scores(networks, x)
    mask = ws.NM(2, 4).mask(scores, networks.layout)
    pruned = networks.replace(weights=networks.weights * mask, masks=mask)
    for i in range(2):
        with torch.no_grad():
            error = (networks.module(i)(x) - pruned.module(i)(x)).square().mean(0).sum()
        assert error.item() == pytest.approx(scores[i][~mask[i]].sum().item(), rel=1e-5)
        alike = x + 3  # correlated inputs: the sum is not the error
        with torch.no_grad():
            error = (networks.module(i)(alike) - pruned.module(i)(alike)).square().mean(0).sum()
        left = sparse.input_scores(networks[i : i + 1], alike)[0][~mask[i]].sum()
        assert error.item() != pytest.approx(left.item(), rel=0.01)


@pytest.mark.parametrize("groups", [1, 2])
def test_input_scores_of_convolutions_are_by_channel(groups: int) -> None:
    networks = collected(
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3, groups=groups, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)),
        1,
    )
    weight = networks.layout.tensors(networks.weights)["0.weight"][0]
    x = matrix(600, 4 * 16, 0, normal=True).reshape(600, 4, 4, 4) * torch.arange(1.0, 5.0)[:, None, None]
    found = networks.layout.tensors(sparse.input_scores(networks, x))["0.weight"][0]
    for output in range(6):
        for channel in range(4 // groups):
            read = channel + (output // 3) * (4 // groups) if groups == 2 else channel
            own = weight[output, channel].square() * x[:, read].square().mean()
            torch.testing.assert_close(found[output, channel], own, rtol=1e-4, atol=1e-7)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(10 * self.a(input=x)) + self.b(2 * x)


def test_a_weight_used_again_is_worth_the_sum_of_its_uses() -> None:
    networks, x = collected(Tied, 1), matrix(50, 4, 0, normal=True)
    module = networks.module(0)
    with torch.no_grad():
        reads = [x, 10 * module.a(x), 2 * x]
    expected = networks.weights.reshape(4, 4).square() * sum(read.square().mean(0) for read in reads)
    torch.testing.assert_close(sparse.input_scores(networks, x).reshape(4, 4), expected, rtol=1e-4, atol=1e-6)
