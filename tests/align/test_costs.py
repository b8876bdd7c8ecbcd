"""Costs against the distances they stand for."""

from itertools import permutations as orders

import pytest
import torch

import weightspace as ws
from weightspace.align import (
    PrecisionCost,
    Star,
    WassersteinCost,
    WeightCost,
    WeightMatching,
)
from weightspace.errors import InputError


def posterior(networks: ws.Collection, seed: int = 0) -> ws.Collection:
    scale = 0.01 + 0.2 * torch.rand(networks.weights.shape, generator=torch.Generator().manual_seed(seed))
    return networks.replace(extras={"std": scale})


@pytest.mark.parametrize(
    ("cost", "distance"),
    [
        (WassersteinCost(), lambda m, s, n, t: (m - n).square().sum() + (s - t).square().sum()),
        (PrecisionCost(floor=1e-3), lambda m, s, n, t: ((m - n).square() / s.square()).sum()),
        (WeightCost(), lambda m, s, n, t: (m - n).square().sum()),
    ],
)
def test_posterior_costs_by_brute_force(cost: object, distance: object) -> None:
    arch = ws.Architecture("MLP", {"sizes": [3, 5, 2]})
    layout = arch.layout()
    random = torch.Generator().manual_seed(0)
    networks = posterior(
        ws.Collection(layout, torch.randn(2, layout.size, generator=random), architecture=arch, records=[{}] * 2)
    )
    fitted = WeightMatching(cost=cost, balance=False, population=Star()).fit(networks)
    (name,) = (g.name for g in fitted.symmetry.groups)
    m, s = networks.weights[0].double(), networks.extras["std"][0].double()
    values = {}
    for order in orders(range(5)):
        p = {name: torch.tensor(order)}
        n, t = (fitted.symmetry.permute(v[1].double(), p) for v in (networks.weights, networks.extras["std"]))
        values[order] = float(distance(m, s, n, t))
    found = tuple(fitted.permutations(networks)[1].permutations[name].tolist())
    assert values[found] == pytest.approx(min(values.values()), rel=1e-6)


def test_scales_of_posteriors_follow_a_rescaling(tickets: ws.Collection) -> None:
    given = posterior(tickets)
    aligned = WeightMatching(cost=WassersteinCost()).fit(given).transform(given)
    # A unit's weights and their deviations are multiplied by the same factor.
    ratio = (given.extras["std"] / given.weights.abs()).masked_fill(given.weights == 0, 0).sort(1).values
    after = (aligned.extras["std"] / aligned.weights.abs()).masked_fill(aligned.weights == 0, 0).sort(1).values
    torch.testing.assert_close(after, ratio, rtol=1e-3, atol=1e-4)


def test_missing_extras_are_named(tickets: ws.Collection) -> None:
    with pytest.raises(InputError, match=r"no extra 'parent'.*none"):
        WeightMatching(cost=WeightCost(("parent",))).fit(tickets)
    with pytest.raises(InputError, match="no extra 'std'"):
        WeightMatching(cost=WassersteinCost()).fit(tickets)


def test_costs_are_checked() -> None:
    with pytest.raises(InputError, match="at least one"):
        WeightCost(())
    with pytest.raises(InputError, match="floor"):
        PrecisionCost(floor=0.0)
