from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.errors import InputError
from weightspace.flow import fit as flow_fit
from weightspace.flow.path import linear_path

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
    flow = ws.FlowMatching(width=64, blocks=2, steps=1200, batch_size=256).fit(codes, seed=0)
    samples = flow.sample(2000, seed=1)
    torch.testing.assert_close(samples.mean(0), codes.mean(0), atol=0.15, rtol=0)
    torch.testing.assert_close(samples.T.cov(), codes.T.cov(), atol=0.5, rtol=0.15)
    untrained = ws.FlowMatching(width=64, blocks=2, steps=1, batch_size=256).fit(codes, seed=0).sample(2000, seed=1)
    assert not torch.allclose(untrained.mean(0), codes.mean(0), atol=0.15)  # the control


def test_two_clusters_are_both_sampled() -> None:
    random = torch.Generator().manual_seed(0)
    side = (torch.arange(400) % 2 * 2 - 1)[:, None]
    codes = side * torch.tensor([3.0, 0.0, 0.0]) + 0.2 * torch.randn(400, 3, generator=random)
    samples = ws.FlowMatching(width=64, blocks=2, steps=800, batch_size=128).fit(codes, seed=0).sample(300, seed=0)
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
    original = flow_fit.linear_path

    def stop_at_45(*arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 46:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(flow_fit, "linear_path", stop_at_45)
    with pytest.raises(KeyboardInterrupt):
        SMALL.fit(codes, seed=5, checkpoint=checkpoint)
    resumed = SMALL.fit(codes, seed=5, checkpoint=checkpoint)
    assert calls == 46 + 20  # it went on from step 40
    assert torch.equal(resumed.weights, whole.weights)
    assert not torch.equal(SMALL.fit(codes, seed=6).weights, whole.weights)


def test_bad_settings_and_codes_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        ws.FlowMatching(steps=0)
    with pytest.raises(InputError, match="ema"):
        ws.FlowMatching(ema=1.0)
    with pytest.raises(InputError, match="nothing to learn"):
        SMALL.fit(torch.zeros(5, 3))
