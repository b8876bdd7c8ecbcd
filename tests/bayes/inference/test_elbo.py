"""The loss of Bayesian networks: its KL, other priors, and an exact posterior."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from tests.bayes.cases import batch, networks, small
from weightspace import bayes


@pytest.mark.parametrize("density", [1.0, 0.3])
def test_the_loss_is_cross_entropy_and_tempered_kl_of_live_weights(density: float) -> None:
    network = networks(small(), 2, density, temperature=0.3)
    x, y = batch(2)
    with pyro.validation_enabled(True):
        torch.manual_seed(0)
        stock = TraceMeanField_ELBO().differentiable_loss(network.model, network.guide, x, y, 100)
    torch.manual_seed(0)
    own = bayes.MeanFieldELBO().differentiable_loss(network.model, network.guide, x, y, 100)
    torch.testing.assert_close(own, stock)
    torch.manual_seed(0)
    with pyro.poutine.trace() as trace:
        network.guide(x, y, 100)
    drawn = trace.trace.nodes["weights"]["value"][:, 0]
    logits = network.outputs(drawn, x)
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum") * 100 / 16
    posterior = torch.distributions.Normal(network.mu, network.std)
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(own, losses + 0.3 * kl)
    assert network.mu.shape[1] == int(density * 72 + 0.5) + 11, "biases are live, pruned weights are not"


def test_the_analytic_kl_is_the_mean_of_sampled_ones() -> None:
    network = networks(small(), 1, 0.5)
    x, y = batch(1)
    zero = lambda logits: dist.Categorical(logits=0 * logits)  # noqa: E731  (the likelihood is a constant then)
    network.likelihood = zero
    exact = bayes.MeanFieldELBO().loss(network.model, network.guide, x, y, 16)
    torch.manual_seed(0)
    drawn = torch.tensor([Trace_ELBO().loss(network.model, network.guide, x, y, 16) for _ in range(400)])
    assert abs(drawn.mean() - exact) < 4 * drawn.std() / 20
    assert drawn.std() > 0.1, "a sampled KL is noisy, the analytic one is not"


def test_the_likelihood_of_other_priors_is_theirs() -> None:
    x, y = batch(2)
    for prior in (bayes.Centred(0.2), bayes.ScaleMixture(), bayes.Horseshoe(0.3)):
        network = networks(small(), 2, 0.5, prior=prior)
        losses: list[torch.Tensor] = []
        gradients: list[tuple[torch.Tensor, ...]] = []
        parameters = [p for p in network.parameters() if p.numel()]
        for elbo in (bayes.MeanFieldELBO(), TraceMeanField_ELBO()):
            torch.manual_seed(0)
            losses.append(elbo.differentiable_loss(network.model, network.guide, x, y, 100))
            gradients.append(torch.autograd.grad(losses[-1], parameters))
        torch.testing.assert_close(losses[0], losses[1])
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)
        assert all(g.any() for g in gradients[0])
    centred = networks(small(), 1, 0.5, prior=bayes.Centred(0.2))
    prior = centred.prior.distribution(centred.centre[:, None])
    assert torch.equal(prior.base_dist.loc[:, 0], centred.mu)


def test_a_linear_gaussian_model_recovers_the_exact_posterior() -> None:
    """Mean field is exact where inputs are orthogonal."""
    random = torch.Generator().manual_seed(0)
    x = torch.linalg.qr(torch.randn(40, 3, generator=random)).Q * 40**0.5
    noise = 0.5
    y = x @ torch.tensor([0.5, -1.0, 2.0]) + noise * torch.randn(40, generator=random)
    module = nn.Linear(3, 1, bias=False)
    network = bayes.BayesianNetwork(
        module,
        torch.zeros(1, 3),
        torch.full((1, 3), 0.3),
        likelihood=lambda out: dist.Normal(out[..., 0], noise),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    elbo = bayes.MeanFieldELBO(num_particles=8)
    torch.manual_seed(0)
    for step in range(600):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / 600)
        optimizer.zero_grad()
        elbo.differentiable_loss(network.model, network.guide, x[None], y[None], 40).backward()
        optimizer.step()
    precision = x.T @ x / noise**2 + torch.eye(3)
    exact = torch.linalg.solve(precision, x.T @ y / noise**2)
    torch.testing.assert_close(network.mu[0].detach(), exact, atol=0.02, rtol=0)
    torch.testing.assert_close(network.std[0].detach(), precision.inverse().diagonal().sqrt(), atol=0.025, rtol=0)
