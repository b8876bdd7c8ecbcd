"""The gradient of cycle-consistent alignment."""

import pytest
import torch

import weightspace as ws
from tests.align.examples import gated
from tests.symmetry.examples import Recurrent
from weightspace.symmetry import trace


@pytest.mark.parametrize("make", [gated, lambda: ws.models.MLP((4, 5, 6, 3))])
def test_the_gradient_of_the_universe_by_finite_differences(make: object) -> None:
    from weightspace.align.universe import _PairwiseProducts, _with_signs

    module = make()
    shape = (5, 2, 4) if isinstance(module, Recurrent) else (6, 4)
    symmetry = trace(module, torch.randn(shape))
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, 1, symmetry.layout.size, dtype=torch.float64, generator=random)
    work = _PairwiseProducts(symmetry, [dict(symmetry.layout.tensors(v)) for v in vectors])
    sizes = {g.name: g.size for g in symmetry.groups} | {_with_signs(g.name): g.size for g in symmetry.odd}
    soft = [
        {key: torch.rand(size, size, dtype=torch.float64, generator=random) for key, size in sizes.items()}
        for _ in vectors
    ]
    for key, size in sizes.items():
        ahead = [{n: p.clone() for n, p in one.items()} for one in soft]
        step = torch.randn(size, size, dtype=torch.float64, generator=random)
        ahead[1][key] += 1e-6 * step
        slope = (work.value(ahead) - work.value(soft)) / 1e-6
        assert slope == pytest.approx(float((work.gains(soft)[1][key] * step).sum()), rel=1e-4, abs=1e-3)
