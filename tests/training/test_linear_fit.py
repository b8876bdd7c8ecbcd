import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from weightspace.errors import InputError
from weightspace.networks.outputs import Binary, Classes, OutputKind, Regression
from weightspace.training import linear_fit
from weightspace.training.linear_fit import LinearFit

N, D, K = 120, 5, 3
RIDGE = 0.02


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of unequal size, and outputs of a layer that made them, with noise."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=random, dtype=torch.float64) * torch.tensor([3.0, 1, 1, 0.3, 1]) + 0.5
    layer = torch.randn(K, D, generator=random, dtype=torch.float64)
    return x, x @ layer.T + torch.randn(N, K, generator=random, dtype=torch.float64)


def problem(kind: OutputKind, *, sparse: bool = False, start: float = 0.0) -> LinearFit:
    x, z = data()
    y = {Classes: z.argmax(1), Binary: (z > 0).double(), Regression: z}[type(kind)]
    kept = torch.ones(K, D, dtype=torch.bool)
    if sparse:
        kept = torch.rand(K, D, generator=torch.Generator().manual_seed(1)) < 0.6
    return LinearFit(x, y, kind, (start * kept).double(), kept, RIDGE)


def penalty(fit: LinearFit) -> float:
    return RIDGE * float(fit.x.square().mean())


def test_it_is_the_layer_of_scikit_learn() -> None:
    for kind in (Classes(), Binary(), Regression()):
        fit = problem(kind)
        x, y, strength = fit.x.numpy(), fit.y.numpy(), penalty(fit) * N
        logistic = LogisticRegression(C=1 / strength, fit_intercept=False, tol=1e-12, max_iter=10_000)
        if isinstance(kind, Classes):
            expected = logistic.fit(x, y).coef_
        elif isinstance(kind, Binary):
            expected = np.concatenate([logistic.fit(x, y[:, k]).coef_ for k in range(K)])
        else:
            expected = Ridge(alpha=strength, fit_intercept=False).fit(x, y).coef_
        np.testing.assert_allclose(fit.solved().numpy(), expected, atol=1e-4)
        other = LinearFit(fit.x, fit.y, kind, fit.start, fit.kept, 10 * RIDGE)  # the control
        assert np.abs(other.solved().numpy() - expected).max() > 0.01


@pytest.mark.parametrize("connected", [3000, 0])
@pytest.mark.parametrize("kind", [Classes(), Binary(), Regression()], ids=lambda kind: type(kind).__name__)
def test_under_a_mask_it_is_a_minimum_of_what_is_kept(
    kind: OutputKind, connected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_fit, "_CONNECTED", connected)  # with the whole Hessian, and without
    fit = problem(kind, sparse=True, start=0.7)

    def gradient(layer: torch.Tensor) -> torch.Tensor:
        layer = layer.clone().requires_grad_()
        z = fit.x @ layer.T
        losses = {
            Classes: lambda: torch.nn.functional.cross_entropy(z, fit.y),
            Binary: lambda: torch.nn.functional.binary_cross_entropy_with_logits(z, fit.y) * K,
            Regression: lambda: torch.nn.functional.mse_loss(z, fit.y) * K / 2,
        }
        total = losses[type(kind)]() + penalty(fit) / 2 * (layer - fit.start).square().sum()
        return torch.autograd.grad(total, layer)[0]

    solved = fit.solved()
    assert torch.equal(solved[~fit.kept], fit.start[~fit.kept])
    assert gradient(solved)[fit.kept].abs().max() < 1e-4 < gradient(fit.start)[fit.kept].abs().max()
    assert gradient(solved)[~fit.kept].abs().max() > 1e-3  # the whole layer would be another one


def test_a_strong_pull_leaves_the_layer_and_inputs_of_zero_do() -> None:
    fit = problem(Classes(), start=0.7)
    held = LinearFit(fit.x, fit.y, fit.kind, fit.start, fit.kept, 1e6).solved()
    assert torch.allclose(held, fit.start, atol=1e-4)
    assert not torch.allclose(fit.solved(), fit.start, atol=1e-2)
    nothing = LinearFit(torch.zeros_like(fit.x), fit.y, fit.kind, fit.start, fit.kept, RIDGE)
    assert torch.equal(nothing.solved(), fit.start)


def test_what_cannot_be_solved_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = problem(Binary())
    broken = LinearFit(fit.x.log(), fit.y, fit.kind, fit.start, fit.kept, RIDGE)
    with pytest.raises(InputError, match="not finite"):
        broken.solved()
    monkeypatch.setattr(linear_fit, "main_memory", lambda: 100)
    with pytest.raises(InputError, match="too large to be refitted"):
        fit.solved()
