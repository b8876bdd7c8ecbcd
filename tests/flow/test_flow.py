from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import weightspace as ws
from weightspace.errors import InputError
from weightspace.flow import FittedFlow, training_pairs
from weightspace.flow import flow_matching as flow_fit
from weightspace.flow.early_stopping import ValidationPairs
from weightspace.flow.path import linear_path, pair
from weightspace.storage.spelling import spelled, spelled_text

SMALL = ws.FlowMatching(width=24, blocks=1, steps=60, batch_size=32)


def test_the_path_is_straight_from_noise_to_data() -> None:
    x_0, x_1 = torch.randn(5, 3), torch.randn(5, 3)
    for time in (0.0, 0.3, 1.0):
        x_t, dx_t = linear_path(x_0, x_1, torch.full((5, 1), time))
        torch.testing.assert_close(x_t, x_0 + time * (x_1 - x_0))
        torch.testing.assert_close(dx_t, x_1 - x_0)


def test_a_gaussian_is_learned() -> None:
    random = torch.Generator().manual_seed(0)
    mixing = torch.tensor([[2.0, 0.0], [1.0, 0.5]])
    codes = torch.randn(4000, 2, generator=random) @ mixing.T + torch.tensor([1.0, -3.0])
    flow = ws.FlowMatching(width=64, blocks=2, steps=600, batch_size=256).fit(codes, seed=0)
    samples = flow.sample(2000, seed=1)
    torch.testing.assert_close(samples.mean(0), codes.mean(0), atol=0.15, rtol=0)
    torch.testing.assert_close(samples.T.cov(), codes.T.cov(), atol=0.5, rtol=0.15)
    untrained = ws.FlowMatching(width=64, blocks=2, steps=1, batch_size=256).fit(codes, seed=0).sample(2000, seed=1)
    assert not torch.allclose(untrained.mean(0), codes.mean(0), atol=0.15)  # the control


def test_two_clusters_are_both_sampled() -> None:
    codes = two_sides()
    samples = ws.FlowMatching(width=64, blocks=2, steps=400, batch_size=128).fit(codes, seed=0).sample(300, seed=0)
    right = (samples[:, 0] > 0).double().mean().item()
    assert 0.35 < right < 0.65
    assert (samples[:, 0].abs() > 2).double().mean() > 0.9


def test_samples_depend_on_their_own_index_alone() -> None:
    flow = SMALL.fit(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(flow.sample(7, seed=3)[:4], flow.sample(4, seed=3), rtol=1e-5, atol=1e-5)
    assert torch.equal(flow.sample(4, seed=3), flow.sample(4, seed=3))
    assert not torch.allclose(flow.sample(4, seed=3), flow.sample(4, seed=4))


def test_a_resumed_fit_equals_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_fit, "_CHECKPOINT_EVERY", 20)
    codes = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    whole = SMALL.fit(codes, seed=5)
    checkpoint = tmp_path / "c.safetensors"
    calls = 0
    original = training_pairs.linear_path

    def stop_at_45(*arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 46:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training_pairs, "linear_path", stop_at_45)
    with pytest.raises(KeyboardInterrupt):
        SMALL.fit(codes, seed=5, checkpoint=checkpoint)
    resumed = SMALL.fit(codes, seed=5, checkpoint=checkpoint)
    assert calls == 46 + 20  # it went on from step 40
    assert torch.equal(resumed.weights, whole.weights)
    assert not torch.equal(SMALL.fit(codes, seed=6).weights, whole.weights)


def test_a_flow_judged_by_held_out_codes_does_not_gather_around_the_others() -> None:
    """Sixty independent Gaussian codes in 32 dimensions: nothing but their size can be learned."""
    codes = torch.randn(60, 32, generator=torch.Generator().manual_seed(0))
    model = ws.FlowMatching(width=64, blocks=2, steps=1000, validation_fraction=0.2)
    samples = model.fit(codes).sample(200, seed=1)
    by_heart = replace(model, validation_fraction=0.0).fit(codes).sample(200, seed=1)  # the control
    usual = torch.cdist(codes, codes).fill_diagonal_(torch.inf).amin(1).median()
    assert torch.cdist(samples, codes).amin(1).median() > 0.9 * usual
    assert torch.cdist(by_heart, codes).amin(1).median() < 0.75 * usual
    assert samples.var(0).sum().item() == pytest.approx(codes.var(0).sum().item(), rel=0.1)


@pytest.mark.parametrize(
    "model",
    [
        ws.FlowMatching(width=64, blocks=2, steps=120, batch_size=128, validation_fraction=0.1),
        ws.DeepWeightFlow(width=32, steps=120, validation_fraction=0.1, lr=5e-3),
    ],
)
def test_a_flow_with_held_out_codes_is_resumed(
    model: ws.FlowMatching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = two_sides()
    monkeypatch.setattr(flow_fit, "_CHECKPOINT_EVERY", 40)
    whole, original = model.fit(codes), flow_fit._Training._gradient
    start = replace(model, steps=1, validation_fraction=0.0, lr=1e-12, lr_final=0.0, weight_decay=0.0).fit(codes)
    assert not torch.allclose(whole.weights, start.weights, atol=1e-3)  # what is kept was trained
    ran: list[object] = []

    def stop_at_85(*arguments: object) -> object:
        ran.append(arguments[-1])
        if arguments[-1] == 85 and len(ran) < 100:
            raise KeyboardInterrupt
        return original(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(flow_fit._Training, "_gradient", stop_at_85)
    with pytest.raises(KeyboardInterrupt):
        model.fit(codes, checkpoint=tmp_path / "c.safetensors")
    ran *= 2
    assert torch.equal(model.fit(codes, checkpoint=tmp_path / "c.safetensors").weights, whole.weights)
    assert ran[172:] == list(range(80, 120))  # it went on from step 80


EARLY = ws.FlowMatching(width=16, blocks=1, steps=2000, batch_size=16, validation_fraction=0.2, patience=50)


def test_training_ends_when_validation_codes_are_predicted_no_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = torch.randn(30, 16, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(flow_fit, "_CHECKPOINT_EVERY", 40)
    looks: list[bool] = []
    steps: list[int] = []
    keep_best, gradient = ValidationPairs.keep_best, flow_fit._Training._gradient
    stop_at = -1

    def look(*arguments: Any) -> bool:
        looks.append(keep_best(*arguments))
        return looks[-1]

    def one(training: flow_fit._Training, step: int) -> tuple[float, torch.Tensor]:
        if step == stop_at:
            raise KeyboardInterrupt
        steps.append(step)
        return gradient(training, step)

    monkeypatch.setattr(ValidationPairs, "keep_best", look)
    monkeypatch.setattr(flow_fit._Training, "_gradient", one)
    whole = EARLY.fit(codes)
    assert looks[-3:] == [True, False, False]  # 50 steps are two looks, and it did not wait for a third
    assert (True, False, False) not in zip(looks, looks[1:], looks[2:-1], strict=False)
    ended = len(steps)
    assert ended == 25 * (len(looks) - 1) < 1000
    stop_at = ended - 10  # after the best weights were found: a resumed run knows when that was
    with pytest.raises(KeyboardInterrupt):
        EARLY.fit(codes, checkpoint=tmp_path / "c.safetensors")
    stop_at = -1
    resumed = EARLY.fit(codes, checkpoint=tmp_path / "c.safetensors")
    assert torch.equal(resumed.weights, whole.weights)
    assert steps[-1] == ended - 1
    replace(EARLY, steps=ended + 25, patience=None).fit(codes)  # the control
    assert steps[-1] == ended + 24


def test_patience_is_written_where_it_is_set_alone() -> None:
    """Files and runs from before there was such a setting stay what they are."""
    assert spelled(EARLY) == spelled(replace(EARLY, patience=None)) | {"patience": 50}
    assert "patience" not in spelled_text(replace(EARLY, patience=None))
    assert "patience=50" in spelled_text(EARLY)
    fitted = replace(EARLY, steps=1).fit(torch.randn(10, 3))
    assert FittedFlow.from_json(fitted.to_json(), fitted.tensors()).config == replace(EARLY, steps=1)
    with pytest.raises(InputError, match="validation_fraction=0.1"):
        ws.FlowMatching(patience=50)
    with pytest.raises(InputError, match="patience"):
        ws.FlowMatching(patience=0, validation_fraction=0.1)


def two_sides() -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    side = (torch.arange(400) % 2 * 2 - 1)[:, None]
    return side * torch.tensor([3.0, 0.0, 0.0]) + 0.2 * torch.randn(400, 3, generator=random)


def test_what_can_be_learned_is_learned_with_held_out_codes() -> None:
    codes = two_sides()
    told = (codes[:, :1] > 0).float()
    model = ws.FlowMatching(width=64, blocks=2, steps=300, batch_size=128, validation_fraction=0.1)
    samples = model.fit(codes).sample(300, seed=0)
    assert (samples[:, 0].abs() > 2).double().mean() > 0.9
    right = model.fit(codes, told).sample(100, conditions=torch.ones(100, 1))
    assert (right[:, 0] > 2).double().mean() > 0.9


def test_bad_settings_and_codes_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        ws.FlowMatching(steps=0)
    with pytest.raises(InputError, match="ema"):
        ws.FlowMatching(ema=1.0)
    with pytest.raises(InputError, match="validation_fraction"):
        ws.FlowMatching(validation_fraction=1.0)
    for share in (0.01, 0.99):
        with pytest.raises(InputError, match="at least one of each"):
            ws.FlowMatching(validation_fraction=share).fit(torch.randn(5, 3))
    with pytest.raises(InputError, match="nothing to learn"):
        SMALL.fit(torch.zeros(5, 3))


class GaussianField(torch.nn.Module):
    """The exact velocity from N(0, I) to N(m, s^2 I)."""

    def __init__(self, m: torch.Tensor, s: float) -> None:
        super().__init__()
        self.m, self.s = torch.nn.Buffer(m), s

    def forward(self, x: torch.Tensor, t: torch.Tensor, conditions: torch.Tensor | None = None) -> torch.Tensor:
        variance = (1 - t) ** 2 + t**2 * self.s**2
        return self.m + (t * self.s**2 - (1 - t)) / variance * (x - t * self.m)


def test_a_known_gaussian_is_carried_and_its_likelihood_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = SMALL.fit(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)))
    flow = flow_fit.FittedFlow(flow.config, flow.weights, 2.0, 3)  # codes are twice what the field carries to
    m, s = torch.tensor([1.0, -2.0, 0.5]), 0.4
    monkeypatch.setattr(flow_fit.FittedFlow, "velocity", lambda _: GaussianField(m, s))
    x_0 = flow.noise(20, seed=1)
    exact = 2 * (m + s * x_0)
    torch.testing.assert_close(flow.integrate(x_0, solver_steps=40), exact, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(flow.encode(exact, solver_steps=40), x_0, rtol=1e-3, atol=1e-3)
    known = torch.distributions.Normal((2 * m).double(), 2 * s).log_prob(exact.double()).sum(1)
    found = flow.log_prob(exact)
    torch.testing.assert_close(found, known, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(flow.log_prob(exact, solver_steps=60), known, rtol=1e-3, atol=2e-3)
    assert (flow.log_prob(exact + 3, solver_steps=60) < found).all()


def test_the_likelihood_of_a_trained_flow_integrates_to_one() -> None:
    codes = torch.randn(500, 1, generator=torch.Generator().manual_seed(0)) + 2
    flow = ws.FlowMatching(width=24, blocks=1, steps=300, batch_size=64).fit(codes)
    grid = torch.linspace(-4, 8, 121)[:, None]
    density = flow.log_prob(grid, solver_steps=20).exp()
    assert torch.trapezoid(density, grid[:, 0].double()).item() == pytest.approx(1, abs=0.01)


def test_optimal_pairs_are_shorter_and_none_is_lost() -> None:
    random = torch.Generator().manual_seed(0)
    x_0, x_1 = torch.randn(40, 3, generator=random), torch.randn(40, 3, generator=random)
    order = pair(x_0, x_1)
    assert sorted(order.tolist()) == list(range(40))
    assert (x_0 - x_1[order]).square().sum() < 0.7 * (x_0 - x_1).square().sum()
    assert pair(x_0, x_0).tolist() == list(range(40))
    codes = torch.randn(300, 2, generator=random) + torch.tensor([4.0, 0.0])
    flow = ws.FlowMatching(width=32, blocks=1, steps=400, batch_size=64, pairing="optimal").fit(codes)
    torch.testing.assert_close(flow.sample(500).mean(0), codes.mean(0), atol=0.3, rtol=0)
