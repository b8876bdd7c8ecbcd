"""Likelihoods by what outputs mean: densities and gradients against torch's losses, scaled by the number of samples."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn
from torch.nn import functional as F

from weightspace import bayes
from weightspace.bayes.inference.likelihoods import divergence, observed
from weightspace.errors import InputError
from weightspace.networks.outputs import Binary, Classes, LossOnly, Regression

NOISE = torch.tensor([0.5, 2.0])  # of two networks
N, BATCH = 2, 5


def random(*shape: int) -> torch.Tensor:
    return torch.randn(N, BATCH, *shape, generator=torch.Generator().manual_seed(len(shape)))


def normal(values: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    std = NOISE.reshape(-1, *[1] * (y.ndim - 1))
    return 0.5 * ((values - y) / std).square() + std.log() + 0.5 * math.log(2 * math.pi)


LABELS = torch.tensor([[0, 2, 1, 1, 0], [1, 1, 2, 0, 0]])
TOKENS = torch.tensor([[[0, 2, -100, 1], [1, -100, -100, 2], [0, 0, 0, 0], [1, 2, 1, 2], [2, 2, 0, 1]]] * N)
FLAGS = (random(4) > 0).float()
# Kind, outputs, targets, and the negative log-likelihood (n, batch), by torch's own losses.
CASES = {
    "one label": (Classes(), random(3), LABELS, lambda o, y: F.cross_entropy(o.mT, y, reduction="none")),
    "positions": (
        Classes(),
        random(4, 3),
        TOKENS,
        lambda o, y: F.cross_entropy(o.permute(0, 3, 1, 2), y, reduction="none").sum(-1),
    ),
    "classes on axis 1": (
        Classes(axis=-2),
        random(3, 4),
        TOKENS,
        lambda o, y: F.cross_entropy(o.movedim(2, 1), y, reduction="none").sum(-1),
    ),
    "one logit": (
        Binary(),
        random(1),
        FLAGS[..., 0],
        lambda o, y: F.binary_cross_entropy_with_logits(o[..., 0], y, reduction="none"),
    ),
    "several labels": (
        Binary(),
        random(4),
        FLAGS.long(),
        lambda o, y: F.binary_cross_entropy_with_logits(o, y.float(), reduction="none").sum(-1),
    ),
    "probabilities": (
        Binary(probabilities_given=True),
        random(4).sigmoid(),
        FLAGS,
        lambda o, y: F.binary_cross_entropy(o, y, reduction="none").sum(-1),
    ),
    "a value": (Regression(), random(1), random(), lambda o, y: normal(o[..., 0], y)),
    "an image": (Regression(), random(2, 3), random(3, 2).mT, lambda o, y: normal(o, y).flatten(2).sum(2)),
    "a named output": (
        Regression(output="mean", target="1"),
        {"other": random(7), "mean": random(2)},
        (random(), random(2) + 1),
        lambda o, y: normal(o["mean"], y[1]).sum(-1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_densities_and_gradients_are_those_of_torchs_losses(name: str) -> None:
    kind, outputs, y, loss = CASES[name]
    leaf = kind.predictions(outputs) if isinstance(outputs, dict) else outputs
    leaf.requires_grad_()
    distribution, values = observed(kind, outputs, y, NOISE)
    assert distribution.batch_shape == (N, BATCH)
    found, expected = -distribution.log_prob(values), loss(outputs, y)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(part.sum(), leaf)[0] for part in (found, expected)]
    torch.testing.assert_close(*gradients)
    assert gradients[0].any()


def test_positions_that_are_ignored_have_no_gradient() -> None:
    logits = random(4, 3).requires_grad_()
    distribution, values = observed(Classes(), logits, TOKENS)
    (gradient,) = torch.autograd.grad(distribution.log_prob(values).sum(), logits)
    ignored = TOKENS == -100
    assert not gradient[ignored].any()
    assert (gradient[~ignored] != 0).all()


def test_probabilities_that_have_rounded_to_one_stay_finite() -> None:
    distribution, values = observed(Binary(probabilities_given=True), torch.ones(1, 2), torch.ones(1, 2))
    assert distribution.log_prob(values).isfinite().all()


@pytest.mark.parametrize("name", ["one label", "several labels", "an image"])
def test_divergences_are_torchs_own_and_zero_for_equal_predictions(name: str) -> None:
    kind, outputs, y, _ = CASES[name]
    sparse, dense = outputs.detach(), outputs.detach() + 0.5 * random(*outputs.shape[2:]).flip(1)
    pair = [observed(kind, part, y, NOISE)[0] for part in (sparse, dense)]
    found = divergence(kind, sparse, dense, y, NOISE)
    torch.testing.assert_close(found, torch.distributions.kl_divergence(*pair))
    assert (found > 0).all()
    assert divergence(kind, sparse, sparse, y, NOISE).abs().max() < 1e-6


@pytest.mark.parametrize("outputs", [Classes(), Binary(), Regression()])
def test_the_elbo_counts_each_sample_once_and_the_batch_for_the_whole_split(outputs) -> None:
    """The loss is (samples / batch) * sum of negative log-likelihoods + T * KL, by stock Pyro too."""
    module = nn.Linear(4, 3)
    random_numbers = torch.Generator().manual_seed(0)
    noise = bayes.NoiseScale.fixed(0.7, 2) if isinstance(outputs, Regression) else None
    network = bayes.BayesianNetwork(
        module,
        torch.randn(2, 15, generator=random_numbers),
        torch.full((2, 15), 0.1),
        temperature=0.3,
        likelihood=outputs,
        noise=noise,
    )
    x = random(4)
    y = {Classes: LABELS, Binary: FLAGS[..., :3], Regression: random(3).flip(0)}[type(outputs)]
    losses = []
    for elbo in (bayes.MeanFieldELBO(), TraceMeanField_ELBO()):
        torch.manual_seed(0)
        with pyro.validation_enabled(True):
            losses.append(elbo.differentiable_loss(network.model, network.guide, x, y, 100))
    torch.testing.assert_close(losses[0], losses[1])
    torch.manual_seed(0)
    with pyro.poutine.trace() as trace:
        network.guide(x, y, 100)
    drawn = network.outputs(trace.trace.nodes["weights"]["value"][:, 0], x)
    by_hand = {
        Classes: lambda: F.cross_entropy(drawn.flatten(0, 1), y.flatten(), reduction="sum"),
        Binary: lambda: F.binary_cross_entropy_with_logits(drawn, y, reduction="sum"),
        Regression: lambda: -torch.distributions.Normal(drawn, 0.7).log_prob(y).sum(),
    }[type(outputs)]()
    posterior = torch.distributions.Normal(network.mu, network.std)
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(losses[0], 100 / BATCH * by_hand + 0.3 * kl)


def test_outputs_without_a_known_likelihood_are_refused() -> None:
    with pytest.raises(InputError, match=r"LossOnly\(\) have none that is known.*outputs=Classes\(\), Binary\(\)"):
        observed(LossOnly(), random(1), random())
    module, weights = nn.Linear(2, 1), torch.zeros(1, 3)
    for wrong in ({"likelihood": Regression()}, {"noise": bayes.NoiseScale.fixed(1.0)}):
        with pytest.raises(InputError, match="a regression, and nothing else, has noise"):
            bayes.BayesianNetwork(module, weights, torch.ones(1, 3), **wrong)
    own = bayes.BayesianNetwork(
        module, weights, torch.ones(1, 3), likelihood=lambda out: dist.Poisson(out[..., 0].exp())
    )
    x, y = torch.ones(1, 4, 2), torch.ones(1, 4)
    assert math.isfinite(bayes.MeanFieldELBO().loss(own.model, own.guide, x, y, 4))
