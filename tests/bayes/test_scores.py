"""Scores of posteriors on small tables."""

import math

import pytest
import torch

from weightspace import bayes

MU = torch.tensor([[3.0, -2.0, 1.0, 0.5, 0.4, 0.3, 0.2, 0.1]])


SIGMA = torch.tensor([[9.0, 0.1, 0.1, 2.0, 0.1, 0.1, 0.1, 0.01]])


LIVE = torch.ones(1, 8, dtype=torch.bool)


def kept(score: bayes.scores.PosteriorScore, pruned: float = 0.5) -> list[int]:
    scores = score(MU, SIGMA, LIVE, pruned)[0]
    return sorted(scores.argsort(descending=True)[: round(8 * (1 - pruned))].tolist())


def test_scores_on_a_small_table() -> None:
    assert kept(bayes.MeanMagnitude()) == [0, 1, 2, 3]
    assert kept(bayes.SignalToNoise()) == [1, 2, 4, 7]
    assert kept(bayes.RootSecondMoment()) == [0, 1, 2, 3]
    assert kept(bayes.RootSecondMoment(), 0.75) == [0, 3]
    assert kept(bayes.Bound(0.0)) == kept(bayes.MeanMagnitude())
    assert kept(bayes.Bound(1.0)) == kept(bayes.SignalToNoise())
    assert kept(bayes.Band(0.0)) == kept(bayes.MeanMagnitude())
    # The band holds ranks 3 to 6 of eight; in it the weight with sigma 2 goes first, then the smaller of two equals.
    assert kept(bayes.Band(0.25)) == [0, 1, 2, 4]
    random = torch.Generator().manual_seed(0)
    mu, sigma = torch.randn(3, 200, generator=random), torch.rand(3, 200, generator=random) + 0.05
    live = torch.rand(3, 200, generator=random) < 0.7
    for pruned in (0.1, 0.2, 0.5, 0.9):
        masks = []
        for score in (bayes.Bound(1.0), bayes.SignalToNoise()):
            scores = score(mu, sigma, live, pruned).masked_fill(~live, -math.inf)
            masks.append(
                torch.stack(
                    [
                        row >= row.sort(descending=True).values[int(on.sum()) - round(pruned * int(on.sum())) - 1]
                        for row, on in zip(scores, live, strict=True)
                    ]
                )
            )
        assert torch.equal(*masks)


@pytest.mark.parametrize("score", [bayes.SignalToNoise(), bayes.Bound(0.5), bayes.MeanMagnitude()])
def test_of_equal_means_the_more_uncertain_never_ranks_higher(score: bayes.scores.PosteriorScore) -> None:
    random = torch.Generator().manual_seed(0)
    mu = torch.full((1, 50), 0.7) * torch.where(torch.rand(1, 50, generator=random) < 0.5, -1.0, 1.0)
    sigma = torch.rand(1, 50, generator=random) + 0.01
    scores = score(mu, sigma, torch.ones(1, 50, dtype=torch.bool), 0.4)[0]
    order = sigma[0].argsort()
    assert (scores[order].diff() <= 1e-6).all()
    against = bayes.RootSecondMoment()(mu, sigma, torch.ones(1, 50, dtype=torch.bool), 0.4)[0]
    assert (against[order].diff() >= 0).all(), "the score that rewards uncertainty ranks the other way round"


def test_in_the_band_the_more_uncertain_goes_first() -> None:
    random = torch.Generator().manual_seed(0)
    mu, sigma = torch.randn(2, 100, generator=random), torch.rand(2, 100, generator=random)
    live = torch.ones(2, 100, dtype=torch.bool)
    scores = bayes.Band(0.1)(mu, sigma, live, 0.4)
    for row, size, spread in zip(scores, mu.abs(), sigma, strict=True):
        order = size.argsort()
        below, inside, above = order[:30], order[30:50], order[50:]
        assert row[below].max() < row[inside].min()
        assert row[inside].max() < row[above].min()
        assert (row[inside][spread[inside].argsort()].diff() < 0).all()


def test_inclusion_ranks_by_probability_where_it_rounds_to_one() -> None:
    random = torch.Generator().manual_seed(0)
    mu, sigma = torch.randn(2, 300, generator=random), 0.02 * torch.rand(2, 300, generator=random) + 1e-4
    live = torch.ones(2, 300, dtype=torch.bool)
    scores = bayes.Inclusion()(mu, sigma, live, 0.5)
    assert scores.isfinite().all()
    assert all(len(row.unique()) == 300 for row in scores), "no ties"
    wide = 0.5 * torch.rand(2, 300, generator=random).double() + 0.3
    found = bayes.Inclusion()(mu.double(), wide, live, 0.5)
    cut = 0.5 * mu.double().std(1, keepdim=True)
    normal = torch.distributions.Normal(mu.double(), wide)
    inside = normal.cdf(cut) - normal.cdf(-cut)
    torch.testing.assert_close(found, ((1 - inside) / inside).log())
