"""Balancing of dense and sparse networks."""

import pytest
import torch

import weightspace as ws
from weightspace.align.balance import balance_scales
from weightspace.symmetry import trace


def test_balancing_equalises_norms(tickets: ws.Collection, symmetry) -> None:
    weights = symmetry.scale(tickets.weights.double(), balance_scales(tickets.weights.double(), symmetry))
    state = symmetry.layout.unpack(weights)
    incoming = (state["1.weight"].square().sum(2) + state["1.bias"].square()).sqrt()
    heard = (state["5.weight"] != 0).any(1)  # dead units of the next layer do not count
    outgoing = (state["3.weight"].square() * heard[:, :, None]).sum(1).sqrt()
    alive = (incoming > 0) & (outgoing > 0)
    assert alive.any()
    assert not alive.all()
    torch.testing.assert_close(incoming[alive], outgoing[alive], rtol=1e-4, atol=1e-8)
    assert torch.equal(weights == 0, tickets.weights == 0)


@pytest.mark.parametrize("density", [0.15, 0.03])
def test_balancing_of_networks_in_pieces(density: float) -> None:
    task = ws.tasks.digits(hidden=(20, 15, 12))
    symmetry = trace(task.architecture.build_seeded(0), task.train.x[:8])
    random = torch.Generator().manual_seed(0)
    size = symmetry.layout.size
    weights = torch.randn(20, size, generator=random, dtype=torch.float64)
    weights = weights * (torch.rand(20, size, generator=random) < density)
    scales = {g.name: torch.rand(20, g.size, generator=random, dtype=torch.float64) + 0.5 for g in symmetry.groups}
    rescaled = symmetry.scale(weights, scales)
    assert not torch.allclose(rescaled, weights)
    balanced = [symmetry.scale(w, balance_scales(w, symmetry)) for w in (weights, rescaled)]
    assert all(b.isfinite().all() for b in balanced)
    # Pieces that hang on no live unit have no canonical scale.
    apart = ~torch.isclose(*balanced, rtol=1e-4, atol=1e-6)
    assert apart.any() == (density < 0.1)
    for network, dead in zip(balanced[0], apart, strict=True):
        x = task.train.x.double()
        whole, without = (
            torch.func.functional_call(
                task.architecture.build_seeded(0).double(), symmetry.layout.tensors(network * keep), (x,)
            )
            for keep in (torch.ones_like(dead), ~dead)
        )
        assert torch.equal(whole, without)
