"""Does a flow know more than a Gaussian? On planted codes, with densities that are known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

import weightspace as ws
from weightspace.flow import FittedFlow, measure_knowledge
from weightspace.flow.energy import energy_test
from weightspace.flow.simple_densities import best_of_each_kind
from weightspace.report.knowledge import CodeDensity, FlowKnowledge

MODEL = ws.FlowMatching(width=32, blocks=2, steps=200, batch_size=128, lr=3e-3, ema=0.99, validation_fraction=0.25)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(n: int) -> torch.Tensor:
    mixing = torch.tensor([[2.0, 0.0], [1.0, 0.5]])
    return torch.randn(n, 2, generator=random(0)) @ mixing.T + torch.tensor([1.0, -3.0])


def two_moons(n: int) -> torch.Tensor:
    angle, side = torch.rand(n, generator=random(1)) * math.pi, torch.arange(n) % 2
    x = torch.where(side == 0, angle.cos(), 1 - angle.cos())
    y = torch.where(side == 0, angle.sin(), 0.5 - angle.sin())
    return torch.stack([x, y], 1) + 0.08 * torch.randn(n, 2, generator=random(2))


def mixture(n: int) -> torch.Tensor:
    side = torch.randint(2, (n, 1), generator=random(3)) * 2.0 - 1
    return side * torch.tensor([2.0, 2.0, 0.0]) + 0.3 * torch.randn(n, 3, generator=random(4))


def known_of(codes: torch.Tensor, model: ws.FlowMatching = MODEL) -> FlowKnowledge:
    held_out, seen = model.divided(len(codes), 0)
    return measure_knowledge(model.fit(codes, seed=0), codes[seen], codes[held_out])


@pytest.mark.parametrize(
    ("codes", "outcome"), [(gaussian(800), "fail"), (two_moons(800), "pass"), (mixture(800), "pass")]
)
def test_the_verdict_on_planted_codes(codes: torch.Tensor, outcome: str) -> None:
    known = known_of(codes)
    assert known.verdict.outcome == outcome, known.verdict.words
    assert ("sampling a Gaussian would do" in known.verdict.words) == (outcome == "fail")
    assert [one.name for one in known.densities] == ["flow", "Gaussian", "Gaussian mixture", "kernel density"]
    assert known.divergence == "exact"
    gauss = known.tests[1]
    assert gauss.name == "Gaussian"
    assert (gauss.p < 0.05) == (outcome == "pass")  # the control: the Gaussian's samples are told where it is wrong
    assert [row[0] for row in known.table.rows[1:]] == [one.name for one in known.densities]


def test_few_codes_leave_it_open() -> None:
    known = known_of(two_moons(32))
    assert known.held_out == 8
    assert known.verdict.outcome == "open"
    assert "fewer than 10" in known.verdict.words


def test_what_has_no_density_is_said() -> None:
    codes = two_moons(100)
    flow = MODEL.fit(torch.cat([codes, torch.ones(100, 1)], 1))
    known = measure_knowledge(flow, torch.cat([codes, torch.ones(100, 1)], 1), torch.randn(20, 3))
    assert known.verdict.outcome == "open"
    assert "the same in all networks" in known.verdict.words
    assert [one.name for one in known.tests] == ["flow"]


def test_the_verdict_follows_its_interval() -> None:
    def verdict(low: float, high: float, held_out: int = 30) -> str:
        gauss = CodeDensity("Gaussian", "", 0.0, 0.0, 0.0, (low + high) / 2, low, high)
        densities = [CodeDensity("flow", "", 0.0, 0.0, 0.0), gauss]
        return FlowKnowledge(90, held_out, "x", 16, "exact", densities, []).verdict.outcome

    assert [verdict(0.1, 2.0), verdict(-1.0, 0.3), verdict(-1.0, 0.4), verdict(0.1, 2.0, 9)] == [
        "pass",
        "fail",
        "open",
        "open",
    ]


class Shear(torch.nn.Module):
    """The velocity of straight lines from x_0 to x_0 A^T + m, for an upper triangular A: its densities are known."""

    def __init__(self, a: torch.Tensor, m: torch.Tensor) -> None:
        super().__init__()
        self.a, self.m = torch.nn.Buffer(a), torch.nn.Buffer(m)

    def forward(self, x: torch.Tensor, t: torch.Tensor, conditions: torch.Tensor | None = None) -> torch.Tensor:
        y = x - t * self.m
        second = y[:, 1:] / (1 - t + t * self.a[1, 1])
        first = (y[:, :1] - t * self.a[0, 1] * second) / (1 - t + t * self.a[0, 0])
        start = torch.cat([first, second], 1)
        return start @ self.a.T - start + self.m


def test_the_density_of_a_known_flow_is_exact_and_its_estimate_near(monkeypatch: pytest.MonkeyPatch) -> None:
    a, m = torch.tensor([[1.5, 0.4], [0.0, 0.7]]), torch.tensor([1.0, -2.0])
    flow = replace(MODEL, steps=1).fit(torch.randn(20, 2, generator=random(0)))
    flow = FittedFlow(flow.config, flow.weights, 1.0, 2)
    monkeypatch.setattr(FittedFlow, "velocity", lambda _: Shear(a, m))
    truth = MultivariateNormal(m.double(), (a @ a.T).double())
    codes = torch.randn(40, 2, generator=random(5)) @ a.T + m
    torch.testing.assert_close(flow.log_prob(codes, solver_steps=16), truth.log_prob(codes.double()), atol=1e-3, rtol=0)
    estimated = flow.log_prob(codes, solver_steps=16, probes=64, seed=1)
    torch.testing.assert_close(estimated, truth.log_prob(codes.double()), atol=0.25, rtol=0)
    one = flow.log_prob(codes[:1], solver_steps=16, probes=64, seed=1)
    torch.testing.assert_close(one, estimated[:1])  # a code's estimate does not depend on the others
    assert not torch.equal(flow.log_prob(codes[:1], solver_steps=16, probes=2), one)


def test_simple_densities_are_those_of_scikit_learn() -> None:
    from sklearn.covariance import LedoitWolf
    from sklearn.mixture import GaussianMixture
    from sklearn.neighbors import KernelDensity

    codes, held_out = two_moons(300).double(), two_moons(360)[300:].double()
    by_name = {one.name: one for one in best_of_each_kind(codes, held_out, None, None, seed=0)}
    x, y = codes.numpy(), held_out.numpy()
    std = x.std(0)
    kernels = KernelDensity(bandwidth=0.2).fit(x / std)
    best = {
        "Gaussian": LedoitWolf().fit(x).score(y),
        "Gaussian mixture": GaussianMixture(2, random_state=0).fit(x).score(y),
        "kernel density": kernels.score(y / std) / len(y) - np.log(std).sum(),
    }
    for name, score in best.items():  # each is one of those that are tried
        assert by_name[name].log_density.mean() > score - 0.02
    drawn = by_name["kernel density"].draw(400, 1)
    assert energy_test(drawn, held_out)[1] > 0.01
    assert torch.equal(drawn, by_name["kernel density"].draw(400, 1))


def test_simple_densities_follow_conditions() -> None:
    told = torch.randn(200, 1, generator=random(6))
    codes = 3 * told + 0.1 * torch.randn(200, 2, generator=random(7))
    without = best_of_each_kind(codes[:150], codes[150:], None, None, seed=0)
    knowing = best_of_each_kind(codes[:150], codes[150:], told[:150], told[150:], seed=0)
    for a, b in zip(without, knowing, strict=True):
        assert b.log_density.mean() > a.log_density.mean() + 0.5
    torch.testing.assert_close(knowing[0].draw(50, 0), codes[150:].double(), atol=0.8, rtol=0)


def test_the_energy_test_tells_distributions_apart() -> None:
    x, y = torch.randn(60, 3, generator=random(8)), torch.randn(40, 3, generator=random(9))
    distance, p = energy_test(x, y)
    by_hand = 2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()
    assert distance == pytest.approx(by_hand.item(), abs=1e-4)
    assert p > 0.05
    assert energy_test(x, y + 0.8)[1] == 0.001
    assert energy_test(x, 2.5 * y)[1] < 0.01
