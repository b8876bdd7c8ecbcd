"""Noise of regressions: what it starts from, where it goes, and a posterior that is known exactly."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weightspace as ws
from weightspace import bayes
from weightspace.bayes.inference.noise_scale import noise_of
from weightspace.errors import InputError


@pytest.fixture(scope="module")
def linear() -> tuple[ws.Task, torch.Tensor, torch.Tensor]:
    """A linear network with noise 0.5 around its outputs; inputs and targets that it is trained on."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=random) @ torch.tensor([[1.0, 0.6, 0.0], [0.0, 1.0, 0.3], [0.2, 0.0, 1.0]])
    y = x @ torch.tensor([0.5, -1.0, 2.0]) + 0.5 * torch.randn(200, generator=random)
    task = ws.tasks.from_tensors(
        "linear",
        x,
        y[:, None],
        lambda: nn.Linear(3, 1, bias=False),
        recipe=ws.Recipe("80it", batch_size=140, optimizer=ws.Adam(lr=0.05), schedule="cosine"),
        loss=F.mse_loss,
    )
    return task, task.train.x, task.train.y[:, 0]


@pytest.fixture(scope="module")
def start(linear) -> ws.Collection:
    """Two networks near the least squares, whose noise starts too high."""
    task, x, y = linear
    near = torch.linalg.lstsq(x, y[:, None]).solution[:, 0] + torch.tensor([[0.3], [-0.3]])
    return ws.Collection(
        task.architecture.layout(), near, architecture=task.architecture, records=[{"seed": 0}, {"seed": 1}]
    )


QUIET = bayes.Variational(temperature=1.0, std=0.1, estimator="local")


def test_the_mean_field_of_a_linear_network_is_the_exact_one(linear, start: ws.Collection) -> None:
    """Of correlated weights: the exact mean, and standard deviations 1 / sqrt(diagonal of the precision)."""
    task, x, y = linear
    found = replace(QUIET, noise_std=0.5).fit(start[:1], task)
    precision = x.T @ x / 0.5**2 + torch.eye(3)
    exact = torch.linalg.solve(precision, x.T @ y / 0.5**2)
    std = precision.diagonal().rsqrt()
    assert ((found.weights[0] - exact).abs() < 0.3 * std).all()
    torch.testing.assert_close(found.extras["std"][0], std, rtol=0.1, atol=0)
    assert (precision.inverse().diagonal().sqrt() / std).max() > 1.15, "the marginals of the exact posterior are wider"
    assert found.records[0]["noise_std"] == 0.5


def test_noise_is_learned_of_each_network_by_itself(linear, start: ws.Collection) -> None:
    task, x, y = linear
    residual = (y - x @ torch.linalg.lstsq(x, y[:, None]).solution[:, 0]).square().mean().sqrt().item()
    found = QUIET.fit(start, task)
    for record in found.records:
        assert record["noise_std"] == pytest.approx(residual, rel=0.1)
    alone = QUIET.fit(start[1:], task)
    assert alone.records[0]["noise_std"] == pytest.approx(found.records[1]["noise_std"], rel=1e-4)
    predicted = bayes.predict_values(found, task.test.x, 20, seed=1)
    inside = ((predicted.mean - task.test.y).abs() < 1.645 * predicted.stddev).float().mean()
    assert 0.75 <= inside <= 1.0, "about nine of ten targets lie in intervals of 90 %"


def test_a_step_makes_the_variance_a_running_mean_of_squared_residuals() -> None:
    noise = bayes.NoiseScale(torch.tensor([3.0, 0.2]), torch.tensor([0.01, 0.01]), learned=True)
    residuals = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    before = noise.std.detach().square()
    (100 / 40 * -torch.distributions.Normal(0.0, noise.std[:, None]).log_prob(residuals).sum()).backward()
    noise.learn(100)
    expected = 0.95 * before + 0.05 * residuals.square().mean(1)
    torch.testing.assert_close(noise.std.detach().square(), expected)
    assert noise.log_std.grad is None
    known = bayes.NoiseScale.fixed(0.3, 2)
    known.learn(100)
    assert known.std.tolist() == pytest.approx([0.3, 0.3])
    exact = bayes.NoiseScale(torch.tensor([0.0]), torch.tensor([0.01]), learned=True)
    assert exact.std.item() == pytest.approx(0.01), "a fit without residuals keeps some noise"


def test_noise_starts_from_the_residuals_of_the_networks(linear) -> None:
    task, x, y = linear
    weights = torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.0, 0.0]])
    outputs = (x @ weights.T).T[..., None]
    found = noise_of(task, outputs, None).std
    torch.testing.assert_close(found, (outputs[..., 0] - y).square().mean(1).sqrt())
    assert found[1] > 2 * found[0]


def test_impossible_noise_is_refused(linear, adam: ws.Task) -> None:
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        for settings in (bayes.Variational, bayes.GateSearch):
            with pytest.raises(InputError, match="noise_std must be.*it is learned"):
                settings(noise_std=wrong)
    with pytest.raises(InputError, match=r"noise_std is the noise of a regression.*Classes"):
        bayes.Variational(noise_std=1.0).fit(ws.collect(adam, 1, seed=0), adam)
    assert "noise_std" not in bayes.Variational().to_json(), "settings of version 0.1 are written as then"
    assert bayes.Variational(noise_std=1.0).to_json()["noise_std"] == 1.0
