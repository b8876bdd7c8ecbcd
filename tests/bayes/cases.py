"""Small Bayesian networks."""

import torch
from torch import nn

import weightspace as ws
from weightspace import bayes


def networks(module: nn.Module, n: int, density: float, **settings) -> bayes.BayesianNetwork:
    layout = ws.Layout.of(module)
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(n, layout.size, generator=random)
    masks = ws.Unstructured(density).mask(weights.abs(), layout)
    std = 0.1 * torch.rand(n, layout.size, generator=random) + 0.05
    return bayes.BayesianNetwork(module, weights * masks, std, masks=masks, **settings)


def batch(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.randn(n, 16, 6, generator=random), torch.randint(3, (n, 16), generator=random)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
