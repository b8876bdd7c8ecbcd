"""Bayesian networks: their layers, live weights and refusals."""

import pytest
import torch
from torch import nn

import weightspace as ws
from tests.bayes.cases import batch, networks, small
from weightspace import bayes
from weightspace.errors import InputError


def test_layers_that_cannot_be_bayesian_are_named() -> None:
    module = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(4, 3))
    layout = ws.Layout.of(module)
    with pytest.raises(InputError, match=r"layer 0 is a Embedding.*deterministic=\('0',\)"):
        bayes.bayesian_positions(module, layout)
    found = bayes.bayesian_positions(module, layout, deterministic=("0",))
    assert not found[layout.slices["0.weight"]].any()
    assert found[layout.slices["2.weight"]].all()
    norms = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    layout = ws.Layout.of(norms)
    assert not bayes.bayesian_positions(norms, layout)[layout.slices["1.weight"]].any()


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"temperature": 0.0}, {"std": -1.0}):
        with pytest.raises(InputError):
            bayes.Variational(**wrong)
    with pytest.raises(InputError, match="std must be"):
        bayes.Normal(0.0)
    with pytest.raises(InputError, match="half_width"):
        bayes.Band(1.5)
    module = small()
    layout = ws.Layout.of(module)
    weights = torch.randn(2, layout.size)
    uneven = torch.ones(2, layout.size, dtype=torch.bool)
    uneven[0, 0] = False
    with pytest.raises(InputError, match="equally many"):
        bayes.BayesianNetwork(module, weights * uneven, torch.ones(2, layout.size), masks=uneven)
    with pytest.raises(InputError, match="positive and finite"):
        bayes.BayesianNetwork(module, weights, torch.zeros(2, layout.size))


def test_a_step_of_training_leaves_nothing_behind(adam: ws.Task, tickets: ws.Collection) -> None:
    """The KL is weighted by the warm-up inside a step, and by the temperature alone outside."""
    network = networks(small(), 2, 0.5, temperature=0.5)
    x, y = batch(2)

    def loss() -> torch.Tensor:
        torch.manual_seed(0)
        return bayes.MeanFieldELBO().differentiable_loss(network.model, network.guide, x, y, 100)

    before = loss()
    with network.training_step(kl_share=0.1, noise_seeds=[1, 2]):
        inside = loss()
    assert inside < before
    assert torch.equal(loss(), before)
    with pytest.raises(KeyboardInterrupt), network.training_step(kl_share=0.1, noise_seeds=[1, 2]):
        raise KeyboardInterrupt
    assert torch.equal(loss(), before)
    assert network.temperature == 0.5
    later = bayes.Variational().start(tickets[:1], adam, after=ws.Step(iterations=7))
    assert later.step == 7


def test_networks_that_would_go_wrong_silently_are_refused(adam: ws.Task) -> None:
    dropping = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 3))
    size = ws.Layout.of(dropping).size
    with pytest.raises(InputError, match="layer 1 is a dropout"):
        bayes.BayesianNetwork(dropping, torch.zeros(1, size), torch.ones(1, size))

    class Scaled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 0.1 * super().forward(input)

    own = nn.Sequential(Scaled(6, 3))
    bayes.BayesianNetwork(own, torch.zeros(1, 21), torch.ones(1, 21))
    with pytest.raises(InputError, match="forward of its own"):
        bayes.BayesianNetwork(own, torch.zeros(1, 21), torch.ones(1, 21), estimator="local")
    with pytest.raises(InputError, match="no seed"):
        bayes.BayesianIMP().find_levels(ws.collect(adam, 1).replace(records=[{}]), adam)
    with pytest.raises(InputError, match="threshold"):
        bayes.Inclusion(0.0)


def test_tied_weights_have_one_posterior() -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    module[2].weight = module[0].weight
    layout = ws.Layout.of(module)
    network = bayes.BayesianNetwork(module, torch.randn(1, layout.size), bayes.initial_std(module, layout)[None])
    assert network.mu.shape[1] == 36 + 12
    x = torch.randn(1, 5, 6)
    weight = layout.tensors(network.vectors(network.mu)[0])["0.weight"]
    bias = [layout.tensors(network.vectors(network.mu)[0])[f"{i}.bias"] for i in (0, 2)]
    expected = (x[0] @ weight.T + bias[0]).relu() @ weight.T + bias[1]
    torch.testing.assert_close(network.outputs(network.mu, x)[0], expected)
