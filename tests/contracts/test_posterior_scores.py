"""What holds of every score of posteriors, the library's and a user's own."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import weightspace as ws
from weightspace import bayes
from weightspace.bayes import PosteriorScore, posterior_scores
from weightspace.bayes.study.results import STUDY
from weightspace.errors import InputError, StorageError


@posterior_scores.register("tests.pessimist")
@dataclass(frozen=True)
class Pessimist:
    """A user's own score: the magnitude that is left some standard deviations below the mean's."""

    sigmas: float = 1.5

    def __call__(self, mu: Tensor, sigma: Tensor, live: Tensor, pruned: float) -> Tensor:
        return mu.abs() - self.sigmas * sigma


@dataclass(frozen=True)
class Unregistered(Pessimist):
    """A score that nobody registered."""


@dataclass(frozen=True)
class Signed:
    """A score that breaks the contract: negative weights always go first."""

    def __call__(self, mu: Tensor, sigma: Tensor, live: Tensor, pruned: float) -> Tensor:
        return mu


SCORES: dict[str, PosteriorScore] = {
    "magnitude": bayes.MeanMagnitude(),
    "signal-to-noise": bayes.SignalToNoise(),
    "root-second-moment": bayes.RootSecondMoment(),
    "bound": bayes.Bound(0.5),
    "bound, negative": bayes.Bound(-0.5),
    "band": bayes.Band(0.1),
    "kl-gain": bayes.KLGain(0.5),
    "inclusion": bayes.Inclusion(0.7),
    "a user's own": Pessimist(2.0),
}
ALL = pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
NETWORKS, PRUNED = 3, 0.4


@pytest.fixture(scope="module")
def short() -> ws.Task:
    recipe = ws.Recipe(ws.Step(epochs=2), batch_size=30, optimizer=ws.Adam(lr=5e-3))
    return replace(ws.tasks.iris(), recipe=recipe)


@pytest.fixture(scope="module")
def layout(short: ws.Task) -> ws.Layout:
    return short.architecture.layout()


@pytest.fixture(scope="module")
def posteriors(layout: ws.Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Means, standard deviations and masks of networks that keep 0.6 of their weights; both are zero where pruned."""
    random = torch.Generator().manual_seed(0)
    mu = torch.randn(NETWORKS, layout.size, generator=random)
    sigma = 0.5 * torch.rand(NETWORKS, layout.size, generator=random) + 0.01
    masks = ws.Unstructured(0.6).mask(torch.rand(mu.shape, generator=random), layout)
    return mu * masks, sigma * masks, masks


def is_even(score: PosteriorScore, mu: Tensor, sigma: Tensor, live: Tensor) -> bool:
    """Does the sign of the means play no part?"""
    return torch.equal(score(mu, sigma, live, PRUNED), score(-mu, sigma, live, PRUNED))


def test_every_registered_class_of_the_library_is_here() -> None:
    classes = {type(score) for score in SCORES.values()}
    assert {type(score) for score in bayes.STUDY_SCORES.values()} <= classes
    assert all(isinstance(score, PosteriorScore) for score in SCORES.values())


@ALL
def test_there_is_a_finite_score_for_every_live_weight(
    score: PosteriorScore, posteriors: tuple[Tensor, Tensor, Tensor], layout: ws.Layout
) -> None:
    mu, sigma, masks = posteriors
    live = masks & layout.prunable
    before = mu.clone(), sigma.clone()
    scores = score(mu, sigma, live, PRUNED)
    assert scores.shape == mu.shape
    assert scores[live].isfinite().all()
    assert all(len(row[on].unique()) > 0.9 * int(on.sum()) for row, on in zip(scores, live, strict=True)), "few ties"
    assert torch.equal(mu, before[0])
    assert torch.equal(sigma, before[1])


@ALL
def test_networks_are_scored_one_by_one(
    score: PosteriorScore, posteriors: tuple[Tensor, Tensor, Tensor], layout: ws.Layout
) -> None:
    mu, sigma, masks = posteriors
    live = masks & layout.prunable
    together = score(mu, sigma, live, PRUNED)
    alone = torch.cat([score(mu[[i]], sigma[[i]], live[[i]], PRUNED) for i in range(NETWORKS)])
    torch.testing.assert_close(alone[live], together[live])
    assert not torch.equal(together[0], together[1])


@ALL
def test_the_sign_of_the_means_plays_no_part(
    score: PosteriorScore, posteriors: tuple[Tensor, Tensor, Tensor], layout: ws.Layout
) -> None:
    mu, sigma, masks = posteriors
    assert is_even(score, mu, sigma, masks & layout.prunable)


def test_a_score_that_looks_at_the_sign_would_be_found(
    posteriors: tuple[Tensor, Tensor, Tensor], layout: ws.Layout
) -> None:
    mu, sigma, masks = posteriors
    assert not is_even(Signed(), mu, sigma, masks & layout.prunable)


@ALL
def test_what_is_pruned_stays_pruned(
    score: PosteriorScore, posteriors: tuple[Tensor, Tensor, Tensor], layout: ws.Layout
) -> None:
    mu, sigma, masks = posteriors
    scores = score(mu, sigma, masks & layout.prunable, PRUNED)
    pattern = ws.Unstructured(0.3)
    pruned = pattern.mask(scores, layout, within=masks)
    assert not (pruned & ~masks).any()
    assert (pruned[:, layout.prunable].sum(1) == pattern.count(layout)).all()
    # Without the earlier masks, scores that are highest where weights were pruned would bring them back.
    tempting = torch.where(masks, scores, scores[masks].max() + 1)
    assert not (pattern.mask(tempting, layout, within=masks) & ~masks).any()
    assert (pattern.mask(tempting, layout) & ~masks).any()


@ALL
def test_a_score_is_written_and_read(score: PosteriorScore) -> None:
    data = json.loads(json.dumps(posterior_scores.to_json(score)))
    assert posterior_scores.from_json(data, "a file") == score
    with pytest.raises(StorageError, match="'elsewhere' that is not registered"):
        posterior_scores.from_json(data | {"kind": "elsewhere"}, "a file")


@ALL
def test_a_search_ranks_by_the_score(score: PosteriorScore, short: ws.Task) -> None:
    found = bayes.BayesianIMP(density=0.5, rate=0.5, score=score).find_levels(ws.collect(short, 2, seed=0), short)
    dense, tickets = found
    live = dense.masks & dense.layout.prunable
    count = ws.Unstructured(0.5).count(dense.layout)
    removed = 1 - count / dense.layout.num_prunable
    scores = score(dense.weights, dense.extras["std"], live, removed)
    assert torch.equal(tickets.masks, ws.Unstructured(0.5).mask(scores, dense.layout))
    assert not torch.equal(tickets.masks, ws.Unstructured(0.5).mask(-scores, dense.layout))


def test_a_study_has_a_users_own_score(short: ws.Task, tmp_path: Path) -> None:
    scores = {"|mu|": bayes.MeanMagnitude(), "pessimist": Pessimist(2.0)}
    study = bayes.Study(short, bayes.BayesianIMP(density=0.5, rate=0.5), scores, networks=1, draws=2)
    result = study.run(tmp_path / "study")
    assert sum(row.method == "pessimist" for row in result.rows) == 2
    again = bayes.StudyResult.load(tmp_path / "study")
    assert again == result
    assert again.scores == scores
    assert again.scores != {"|mu|": bayes.MeanMagnitude(), "pessimist": Pessimist()}
    path = tmp_path / "study" / STUDY
    (path.parent / "manifest.json").unlink()  # as in folders of before; with it, the change itself is what is seen
    path.write_text(path.read_text().replace("tests.pessimist", "tests.optimist"))
    with pytest.raises(StorageError, match="'tests.optimist' that is not registered"):
        bayes.StudyResult.load(tmp_path / "study")


def test_a_score_without_a_name_is_refused_before_the_study_runs(short: ws.Task, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Unregistered cannot be saved.*register"):
        bayes.Study(short, scores={"own": Unregistered()})
    result = bayes.StudyResult(short.name, 10, [], scores={"own": Unregistered()})
    with pytest.raises(InputError, match=r"Unregistered cannot be saved.*register"):
        result.save(tmp_path / "study")
    assert not (tmp_path / "study" / STUDY).exists()
    bayes.Study(short, scores={"own": Pessimist()})


def test_another_class_cannot_take_a_name() -> None:
    with pytest.raises(InputError, match="'magnitude' is MeanMagnitude already"):
        posterior_scores.register("magnitude")(Unregistered)
