"""Estimators with less noise: the same mean, seeds of their own."""

import pytest
import torch
from torch import nn

import weightspace as ws
from tests.bayes.cases import small
from weightspace import bayes
from weightspace.errors import InputError


def conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))


@pytest.mark.parametrize("build", [small, conv])
@pytest.mark.parametrize("estimator", ["local", "flipout"])
def test_estimators_agree_with_drawn_weights_in_mean_and_have_less_noise(build, estimator) -> None:
    """Pre-activations of one layer have the same mean and variance; samples of a batch no longer share their noise."""
    module = nn.Sequential(build()[0])
    layout = ws.Layout.of(module)
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(1, layout.size, generator=random)
    std = 0.3 * torch.rand(1, layout.size, generator=random) + 0.1
    shape = (1, 1, 4, 4) if build is conv else (1, 6)
    x = torch.randn(shape, generator=random).expand(1, 4000, *shape[1:])  # one input, many times
    network = bayes.BayesianNetwork(module, weights, std, estimator=estimator)
    plain = bayes.BayesianNetwork(module, weights, std)
    with torch.no_grad():
        draws = torch.stack([weights[0] + std[0] * torch.randn(layout.size, generator=random) for _ in range(4000)])
        exact = torch.cat([plain.outputs(w[None].gather(1, plain.live), x[:, :1]) for w in draws], dim=1)[0]
        torch.manual_seed(0)
        if estimator == "local":
            found = network._noisy_outputs(network.mu, x)[0]
        else:  # many draws of the weights, one sample each, then one draw and many samples
            found = torch.cat(
                [network._noisy_outputs(w[None].gather(1, network.live), x[:, :1]) for w in draws], dim=1
            )[0]
        one = network._noisy_outputs(draws[:1].gather(1, network.live), x)[0]
        shared = plain.outputs(draws[:1].gather(1, plain.live), x)[0]
    torch.testing.assert_close(found.mean(0), exact.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(found.std(0), exact.std(0), atol=0.08, rtol=0.05)
    assert one.std(0).mean() > 0.05, "samples of a batch have noise of their own"
    assert shared.std(0).max() < 1e-5, "with one draw of the weights equal samples have equal outputs"


@pytest.mark.parametrize("estimator", ["local", "flipout"])
def test_estimators_train_with_seeds_of_their_own(estimator, adam: ws.Task, tickets: ws.Collection) -> None:
    settings = bayes.Variational(estimator=estimator)
    together = settings.fit(tickets[:2], adam)
    alone = settings.fit(tickets[1:2], adam)
    torch.testing.assert_close(alone.weights[0], together.weights[1], rtol=1e-3, atol=1e-4)
    assert torch.equal(settings.fit(tickets[:2], adam).weights, together.weights)
    assert together.records[1]["metrics"]["validation_loss"] == pytest.approx(
        alone.records[0]["metrics"]["validation_loss"], rel=1e-3
    )
    assert not together.weights[~together.masks].any()


def test_local_reparameterisation_needs_an_analytic_kl() -> None:
    module = small()
    layout = ws.Layout.of(module)
    ones = torch.ones(1, layout.size)
    with pytest.raises(InputError, match="normal prior"):
        bayes.BayesianNetwork(module, ones, ones, prior=bayes.ScaleMixture(), estimator="local")
    with pytest.raises(InputError, match="'weights', 'local' or 'flipout'"):
        bayes.BayesianNetwork(module, ones, ones, estimator="none")  # pyright: ignore[reportArgumentType]
