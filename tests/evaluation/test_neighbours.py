"""Neighbours in blocks against brute force."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

import weightspace as ws
from tests.evaluation.cases import explained
from weightspace.evaluation.neighbours import (
    Nearest,
    NeighbourSearch,
    distances_among,
    distances_by,
    inner_products,
    spread_by,
)


def test_neighbours_in_blocks_against_brute_force(tickets: ws.Collection) -> None:
    training, others = tickets[:7], tickets[7:]
    w, centre = training.weights.double(), training.weights.double().mean(0)
    for memory_gb in (1.0, 1e-9):  # all at once, and a network at a time
        space = NeighbourSearch.of(training, centre, memory_gb)
        found = space.around(others, itself=False)
        exact = cdist(others.weights.double(), w)
        np.testing.assert_allclose(found.nearest.first, np.sort(exact, 1)[:, 0], rtol=1e-6)
        np.testing.assert_allclose(found.nearest.second, np.sort(exact, 1)[:, 1], rtol=1e-6)
        np.testing.assert_array_equal(found.nearest.index, exact.argmin(1))
        own = space.around(training, itself=True)
        np.testing.assert_allclose(own.nearest.first, np.sort(cdist(w, w), 1)[:, 1], rtol=1e-6)
        for j in range(7):  # each from the mean of the others
            rest = torch.cat([w[:j], w[j + 1 :]])
            assert own.few[j].item() == pytest.approx(
                explained((w[j] - rest.mean(0))[None], (rest - rest.mean(0))[None]).item()
            )
        among = distances_among(tickets, memory_gb)
        exact = cdist(tickets.weights.double(), tickets.weights.double())
        np.testing.assert_allclose(among.fill_diagonal_(0), exact, rtol=1e-6, atol=1e-6)
        products = inner_products(tickets, centre, memory_gb)
        deviations = tickets.weights.double() - centre
        np.testing.assert_allclose(products, deviations @ deviations.T, rtol=1e-9, atol=1e-12)
        assert spread_by(products) == pytest.approx(deviations.var(0, correction=0).sum().item() * len(tickets))


def test_copies_are_at_no_distance_and_have_no_spread(tickets: ws.Collection) -> None:
    copies = tickets[[0, 0, 0]]
    size = copies.weights[0].double().norm().item()
    products = inner_products(copies, torch.zeros(copies.layout.size), 1.0)
    assert distances_by(products).min().item() < 1e-6 * size
    assert spread_by(products) < 1e-12 * size**2


def test_dropping_a_neighbour_makes_sides_equal() -> None:
    nearest = Nearest(torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0]), torch.tensor([0, 0]))
    random = torch.Generator().manual_seed(0)
    draws = torch.stack([nearest.without_one(4, random) for _ in range(2000)]).double()
    assert (draws[:, 0] == 5).double().mean() == pytest.approx(0.25, abs=0.03)
    assert set(draws[:, 1].tolist()) == {2.0, 6.0}
