"""A ticket as torch.nn.utils.prune has it, and back."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import weightspace as ws


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def recurrent() -> nn.Module:
    return nn.LSTM(3, 4, batch_first=True)


CASES = {"convolution": (convolution, (5, 1, 4, 4)), "tied": (Tied, (5, 4)), "recurrent": (recurrent, (5, 2, 3))}


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name: str) -> None:
    build, shape = CASES[name]
    networks = ws.from_state_dict(build(), build)
    pattern = ws.Unstructured(0.5)
    masks = pattern.mask(networks.weights.abs(), networks.layout)
    ticket = networks.replace(weights=networks.weights * masks, masks=masks)
    module, plain = ws.tickets.to_torch_prune(ticket[0]), ticket.module(0)
    assert prune.is_pruned(module)
    x = torch.randn(shape)
    expected, found = plain.eval()(x), module.eval()(x)
    for a, b in zip(ws.runtime.trees.tensors(expected), ws.runtime.trees.tensors(found), strict=True):
        assert torch.equal(a, b)
    with pytest.warns(UserWarning, match="prune"):
        again = ws.from_state_dict(module, build)
    assert torch.equal(again.masks, ticket.masks)
    assert torch.equal(again.weights, ticket.weights)
    assert not torch.equal(again.masks, networks.masks)  # the control


def test_training_keeps_the_zeros() -> None:
    networks = ws.from_state_dict(Tied(), Tied)
    masks = networks.masks.clone()
    masks[:, 0] = False
    module = ws.tickets.to_torch_prune(networks.replace(weights=networks.weights * masks, masks=masks)[0])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    module(torch.randn(6, 4)).square().sum().backward()
    before = module.first.weight.detach().clone()
    optimizer.step()
    module(torch.randn(1, 4))
    assert module.first.weight[0, 0] == module.second.weight[0, 0] == 0
    assert not torch.equal(module.first.weight, before)
    prune.remove(module.first, "weight")
    assert (module.first.weight == 0).sum() == 1


def test_a_dense_network_has_no_masks() -> None:
    assert not prune.is_pruned(ws.tickets.to_torch_prune(ws.from_state_dict(Tied(), Tied)[0]))
