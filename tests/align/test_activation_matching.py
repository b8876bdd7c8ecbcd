"""Matching by the responses of units."""

import pytest
import torch
from torch import nn

import weightspace as ws
from tests.align.examples import gated
from weightspace.align import (
    ActivationMatching,
)
from weightspace.errors import InputError


def test_activation_matching_recovers_planted_permutations(dense: ws.Collection, task: ws.Task) -> None:
    fitted = ActivationMatching().fit(dense, task.train.x[:200])
    random = torch.Generator().manual_seed(0)
    planted = fitted.symmetry.random(random)
    copy = dense[[0]].replace(weights=fitted.symmetry.permute(dense.weights[0], planted)[None])
    assert torch.equal(fitted.transform(copy).weights, dense.weights[:1])


def test_activations_of_units_that_no_layer_puts_out_are_refused() -> None:
    arch = ws.Architecture.of(gated)
    states = [arch.build_seeded(i).state_dict() for i in range(2)]
    layout = arch.layout()
    networks = ws.Collection(layout, torch.stack([layout.pack(s) for s in states]), architecture=arch)
    with pytest.raises(InputError, match="output of no layer"):
        ActivationMatching().fit(networks, torch.randn(20, 2, 4))


def test_activations_of_a_layer_norm_over_images() -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.LayerNorm((8, 4, 8)), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3), nn.Flatten()
        )

    arch = ws.Architecture.of(build)
    layout = arch.layout()
    x = torch.randn(20, 3, 6, 10, generator=torch.Generator().manual_seed(0))
    vector = layout.pack(arch.build_seeded(0).state_dict())
    vector = vector + 0.1 * torch.randn(vector.shape, generator=torch.Generator().manual_seed(1))
    networks = ws.Collection(layout, vector[None], architecture=arch)
    fitted = ActivationMatching().fit(networks, x)
    planted = fitted.symmetry.random(torch.Generator().manual_seed(2))
    moved = networks.replace(weights=fitted.symmetry.permute(vector, planted)[None])
    assert torch.equal(fitted.transform(moved).weights, networks.weights)
