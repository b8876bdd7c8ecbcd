import pytest
import torch
from sklearn.neighbors import NearestNeighbors

import weightspace as ws
from weightspace.evaluation.metrics.samples import coverage


def test_equal_sets_cover_each_other_and_distant_ones_do_not() -> None:
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert coverage(points, points) == (1.0, 1.0)
    assert coverage(points, points + 100) == (0.0, 0.0)


def test_a_collapsed_sample_is_precise_and_covers_little() -> None:
    draw = torch.Generator().manual_seed(0)
    real, centre = torch.randn(300, 2, generator=draw), 0.01 * torch.randn(300, 2, generator=draw)
    got = coverage(real, centre)
    assert got.precision == 1.0
    assert got.recall < 0.05
    assert coverage(centre, real).precision < 0.05  # the other way round


def test_it_agrees_with_scikit_learn() -> None:
    draw = torch.Generator().manual_seed(1)
    real, samples = torch.randn(60, 4, generator=draw), 1.5 * torch.randn(70, 4, generator=draw) + 0.5
    for k in (1, 3, 5):
        shares = []
        for points, others in ((samples, real), (real, samples)):
            radii = NearestNeighbors(n_neighbors=k + 1).fit(others.double().numpy())
            radius = radii.kneighbors(others.double().numpy())[0][:, -1]
            inside = [(p - others.double()).norm(dim=1).numpy() <= radius for p in points.double()]
            shares.append(sum(row.any() for row in inside) / len(points))
        assert coverage(real, samples, k) == pytest.approx(tuple(shares))


def test_what_cannot_be_compared_is_refused() -> None:
    points = torch.randn(5, 2)
    with pytest.raises(ws.InputError, match="samples needs more than 3 points"):
        coverage(points, points[:3])
    with pytest.raises(ws.InputError, match="real holds NaN"):
        coverage(points * torch.nan, points)
