"""The negative control sees what a backward pass sees, and tries out what it does not see."""

import pytest
import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.symmetry import blind, trace
from weightspace.symmetry.blind import gradients
from weightspace.symmetry.probe import Probe
from weightspace.symmetry.spec import Symmetry


def moved(probe: Probe, symmetry: Symmetry, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], int]:
    """The blind axes, and how many tensors a forward pass has changed alone."""
    count = 0
    change_of = Probe.change_of

    def counted(self: Probe, *args: object) -> float:
        nonlocal count
        count += 1
        return change_of(self, *args)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patched:
        patched.setattr(Probe, "change_of", counted)
        return blind.blind_axes(probe, probe.varied(), symmetry), count


def test_a_backward_pass_finds_what_forward_passes_find(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5), nn.Tanh(), nn.Linear(5, 2)
    )
    x = torch.randn(4, 3, 6)
    symmetry = trace(module, x)
    probe = Probe(symmetry.layout, module, x)
    fast = moved(probe, symmetry, monkeypatch)
    monkeypatch.setattr(blind, "gradients", lambda probe: {})
    slow = moved(probe, symmetry, monkeypatch)
    assert fast[0] == slow[0] == []
    assert fast[1] == 0 < slow[1]


def test_running_statistics_have_slopes_and_the_module_stays_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).requires_grad_(False)
    x = torch.randn(8, 4)
    probe = Probe(trace(module, x).layout, module, x)
    slopes = gradients(probe)
    assert set(slopes) == {name for name, t in module.state_dict().items() if t.is_floating_point()}
    assert not any(p.requires_grad for p in probe.module.parameters())
    before = probe.change_of("1.running_mean", lambda t: t)
    assert before == 0
    # The derivative for a statistic is what small changes of it do.
    step = 1e-6 * torch.randn(6, dtype=torch.float64)
    assert probe.change_of("1.running_mean", lambda t: t + step) > 0


def test_what_a_backward_pass_cannot_see_is_moved() -> None:
    class Detached(nn.Module):
        def __init__(self, dead: bool) -> None:
            super().__init__()
            self.a, self.b, self.dead = nn.Linear(4, 6), nn.Linear(6, 2), dead

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.a(x)).detach()
            return self.b(h * 0 if self.dead and not x.abs().max() > 1 else h)

    x = torch.rand(8, 4)
    module = Detached(dead=False)
    symmetry = trace(module, x)
    assert "a.weight" not in gradients(Probe(symmetry.layout, module, x))
    with pytest.raises(InputError, match=r"blind.*a\.weight"):
        trace(Detached(dead=True), x)
