"""Synaptic flow is refused where values do not pass in proportion, and nowhere else."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace.errors import InputError
from weightspace.training.conversion import initial


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.layer(x.flatten(1)), -1)


def ending_in(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), *layers, nn.Linear(8, 10))


REFUSED = {
    "layer 3 takes a log-softmax": lambda: nn.Sequential(
        ending_in()[0], nn.Linear(64, 10), nn.ReLU(), nn.LogSoftmax(-1)
    ),
    "layer 2 takes a softmax": lambda: ending_in(nn.Softmax(-1)),
    "layer 2 takes a sigmoid": lambda: ending_in(nn.Sigmoid()),
    "layer 2 takes a tanh": lambda: ending_in(nn.Tanh()),
    "layer 2 takes a GELU": lambda: ending_in(nn.GELU()),
    "layer 2 takes a SiLU": lambda: ending_in(nn.SiLU()),
    "layer 2 takes a hardtanh": lambda: ending_in(nn.ReLU6(inplace=True)),
    "the network takes a log-softmax": Functional,
}


def start(factory) -> tuple[ws.Collection, ws.Task]:
    task = replace(ws.tasks.digits(hidden=(8,)), architecture=ws.Architecture.of(factory))
    return initial(task.architecture, [{"seed": 0}]), task


@pytest.mark.parametrize("message", REFUSED)
def test_what_bounds_values_is_refused_by_name(message: str) -> None:
    networks, task = start(REFUSED[message])
    with pytest.raises(InputError, match=message):
        ws.tickets.SynFlow()(networks, task)
    with pytest.raises(InputError, match=message):
        ws.tickets.effective_masks(networks, (64,))


@pytest.mark.parametrize("layer", [nn.ReLU, nn.LeakyReLU, lambda: nn.BatchNorm1d(8), lambda: nn.Dropout(0.5)])
def test_what_passes_values_on_is_not(layer) -> None:
    networks, task = start(lambda: ending_in(layer()))
    assert (ws.tickets.SynFlow()(networks, task)[:, networks.layout.prunable] >= 0).all()
    assert ws.tickets.effective_density(networks, (64,)).item() == 1.0
