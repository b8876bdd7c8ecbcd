"""Posteriors beyond the mean field: Pyro's guides and NUTS against what is known exactly."""

from dataclasses import replace
from functools import partial

import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoLaplaceApproximation, AutoLowRankMultivariateNormal
from torch import nn

import weightspace as ws
from weightspace import bayes
from weightspace.errors import InputError

NOISE = 0.5


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Correlated inputs, a linear target with normal noise, and the exact posterior's mean and covariance."""
    random = torch.Generator().manual_seed(0)
    mix = torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.5, 0.3], [0.2, 0.0, 1.0]])
    x = torch.randn(60, 3, generator=random) @ mix
    y = x @ torch.tensor([0.5, -1.0, 2.0]) + NOISE * torch.randn(60, generator=random)
    precision = x.T @ x / NOISE**2 + torch.eye(3)
    return x, y, torch.linalg.solve(precision, x.T @ y / NOISE**2), precision.inverse()


def network() -> bayes.BayesianNetwork:
    return bayes.BayesianNetwork(
        nn.Linear(3, 1, bias=False),
        torch.zeros(1, 3),
        torch.full((1, 3), 0.1),
        likelihood=lambda out: dist.Normal(out[..., 0], NOISE),
    )


def test_nuts_draws_from_the_exact_posterior(data) -> None:
    x, y, mean, covariance = data
    found = bayes.nuts_draws(network(), x, y, draws=200, warm_up=50, seed=1)
    std = covariance.diagonal().sqrt()
    assert ((found.mean(0) - mean).abs() < 5 * std / 100**0.5).all()
    torch.testing.assert_close(found.std(0), std, rtol=0.25, atol=0)
    assert not (mean.abs() < 5 * std / 100**0.5).all(), "draws around zero would not pass"
    few = [bayes.nuts_draws(network(), x, y, draws=3, warm_up=3, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(few[0], few[1])
    assert not torch.equal(few[0], few[2])


@pytest.mark.parametrize("make", [AutoLaplaceApproximation, partial(AutoLowRankMultivariateNormal, rank=3)])
def test_guides_with_covariance_find_correlations_that_the_mean_field_cannot(data, make) -> None:
    x, y, mean, covariance = data
    found = bayes.guide_draws(network(), make, x, y, draws=1000, steps=800, lr=0.03, batch_size=100, seed=0)
    std = covariance.diagonal().sqrt()
    torch.testing.assert_close(found.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(found.std(0), std, rtol=0.25, atol=0)
    exact = covariance / std / std[:, None]
    assert exact[0, 1] < -0.5, "the problem has a correlation to find"
    assert (torch.corrcoef(found.T) - exact).abs().max() < 0.2


def test_all_posteriors_are_tempered_alike() -> None:
    """One weight: the cold posterior has precision (x^T x / noise^2) / T + 1."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(4, 1, generator=random)
    y = 0.5 * x[:, 0]
    temperature = 0.1
    exact = (x.square().sum().item() / NOISE**2 / temperature + 1) ** -0.5

    def cold() -> bayes.BayesianNetwork:
        return bayes.BayesianNetwork(
            nn.Linear(1, 1, bias=False),
            torch.zeros(1, 1),
            torch.full((1, 1), 0.2),
            temperature=temperature,
            likelihood=lambda out: dist.Normal(out[..., 0], NOISE),
        )

    laplace = bayes.guide_draws(cold(), AutoLaplaceApproximation, x, y, draws=500, steps=100, lr=0.05, batch_size=4)
    chain = bayes.nuts_draws(cold(), x, y, draws=150, warm_up=50, seed=1)
    network = cold()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    torch.manual_seed(0)
    for _ in range(300):
        optimizer.zero_grad()
        bayes.MeanFieldELBO(num_particles=8).differentiable_loss(
            network.model, network.guide, x[None], y[None], 4
        ).backward()
        optimizer.step()
    assert laplace.std().item() == pytest.approx(exact, rel=0.1)
    assert chain.std().item() == pytest.approx(exact, rel=0.3)
    assert network.std.item() == pytest.approx(exact, rel=0.15)


def test_posteriors_of_tickets_keep_their_masks(task: ws.Task, tickets: ws.Collection) -> None:
    some = replace(task, train=ws.Split(task.train.x[:100], task.train.y[:100]))
    make = partial(AutoLowRankMultivariateNormal, rank=2)
    found = bayes.WithGuide(make, draws=3, steps=5).sample(tickets[:2], some, seed=0)
    assert len(found) == 6
    assert torch.equal(found.masks, tickets.masks[[0, 0, 0, 1, 1, 1]])
    assert not found.weights[~found.masks].any()
    drawn = bayes.Nuts(draws=2, warm_up=1, depth=2).sample(tickets[:1], some, seed=0)
    assert not drawn.weights[~drawn.masks].any()
    assert not torch.equal(drawn.weights[0], drawn.weights[1])


def test_two_networks_at_once_are_refused(data) -> None:
    x, y, *_ = data
    two = bayes.BayesianNetwork(nn.Linear(3, 1, bias=False), torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(InputError, match="one network at a time, got 2"):
        bayes.nuts_draws(two, x, y, draws=1, warm_up=1)
    local = bayes.BayesianNetwork(nn.Linear(3, 1), torch.zeros(1, 4), torch.ones(1, 4), estimator="local")
    with pytest.raises(InputError, match="estimator 'weights'"):
        bayes.nuts_draws(local, x, y, draws=1, warm_up=1)


@pytest.mark.parametrize("method", [bayes.WithGuide(AutoLaplaceApproximation), bayes.Nuts()], ids=["WithGuide", "Nuts"])
def test_methods_of_the_cpu_refuse_a_card_by_name(method, task: ws.Task, dense: ws.Collection) -> None:
    name = type(method).__name__
    with pytest.raises(InputError, match=f"{name} runs on the CPU only, got device 'cuda'.*'auto'.*Variational"):
        method.sample(dense[:1], task, device="cuda")
