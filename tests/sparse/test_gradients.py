"""Wide rows by conjugate gradients: the solutions of each row's own system, in few steps."""

import pytest
import torch
from torch import Tensor, nn

from weightspace.sparse import gradients, moments
from weightspace.sparse.gradients import by_gradients
from weightspace.sparse.moments import Moments, MomentSums, product

C, ROWS, PULL = 160, 6, 0.01


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(samples: int = 400) -> tuple[Tensor, Tensor, Tensor]:
    """Moments whose eigenvalues fall by powers, right sides, and masks of half of the columns."""
    read = normal(samples, C) * torch.arange(1, C + 1).double() ** -0.7 @ normal(C, C, seed=1)
    second = read.T @ read / samples
    mask = normal(ROWS, C, seed=2) > 0
    return second / second.diagonal().mean(), normal(ROWS, C, seed=3) * mask, mask


def directly(second: Tensor, right: Tensor, mask: Tensor) -> Tensor:
    system, result = second + PULL * torch.eye(C), torch.zeros_like(right)
    for i, kept in enumerate(mask):
        result[i, kept] = torch.linalg.solve(system[kept][:, kept], right[i, kept])
    return result


@pytest.mark.parametrize("samples", [400, 30])
def test_each_row_gets_the_solution_of_its_own_system(monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    second, right, mask = problem(samples)
    exact = directly(second, right, mask)
    monkeypatch.setattr(gradients, "_PRECISE", 1e-5)
    found = by_gradients(second, PULL, right, mask)
    assert not found[~mask].any()
    assert (found - exact).norm() < 1e-3 * exact.norm()
    other = by_gradients(second, 2 * PULL, right, mask)
    assert (other - exact).norm() > 0.01 * exact.norm()


def test_a_row_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    second, right, mask = problem()
    together = by_gradients(second, PULL, right, mask)
    monkeypatch.setattr(gradients, "_ROWS", 4)
    assert torch.allclose(by_gradients(second, PULL, right, mask), together, atol=1e-3 * float(together.abs().max()))


def test_leading_directions_save_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    of = problem()
    monkeypatch.setattr(gradients, "_STEPS", 20)
    by_gradients(of[0], PULL, *of[1:])
    monkeypatch.setattr(gradients, "_LEADING", 2)
    with pytest.warns(UserWarning, match="rows of a layer are not solved to the end after 20 steps"):
        by_gradients(of[0], PULL, *of[1:])


def test_moments_of_wide_layers_are_added_up_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = nn.Linear(23, 4).double(), normal(50, 23) + 2
    goal = product(layer, x)
    found: list[Moments] = []
    for wide in (23, 22):
        monkeypatch.setattr(moments, "_WIDE", wide)
        monkeypatch.setattr(moments, "_COLUMNS", 5)
        sums = MomentSums(layer, "layer", centred=True)
        sums.add(layer, x[:20], goal[:20])
        sums.add(layer, x[20:], goal[20:])
        found.append(sums.result())
    assert torch.allclose(found[0].inputs, found[1].inputs, atol=1e-13)
    assert torch.equal(found[0].cross, found[1].cross)
    assert torch.allclose(found[1].inputs, torch.cov(x.T, correction=0), atol=1e-12)
