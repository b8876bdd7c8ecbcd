"""Generators of posteriors: codes of means, standard deviations and gates."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace import bayes
from weightspace.align import WassersteinCost
from weightspace.errors import InputError


@pytest.fixture(scope="module")
def posteriors(tickets: ws.Collection, task: ws.Task) -> ws.Collection:
    adam = replace(task, recipe=ws.Recipe(ws.Step(epochs=2), batch_size=64, optimizer=ws.Adam(lr=5e-3)))
    return bayes.Variational(std=0.1).fit(tickets, adam)


def model(**settings) -> ws.TicketGenerator:
    flow = ws.FlowMatching(width=16, blocks=1, steps=60, batch_size=16)
    align = ws.WeightMatching(cost=WassersteinCost())
    return replace(ws.TicketGenerator(align, ws.PCA(5), flow, masks=ws.PosteriorMask()), **settings)


def test_samples_are_sparse_posteriors_that_can_be_drawn_from(posteriors: ws.Collection, tmp_path: Path) -> None:
    fitted = model().fit(posteriors, folder=tmp_path / "g")
    found = fitted.sample(4, density=0.15, seed=1)
    prunable = found.layout.prunable
    assert (found.masks[:, prunable].sum(1) == round(0.15 * found.layout.num_prunable)).all()
    assert (found.extras["std"][found.masks] > 0).all()
    assert not found.extras["std"][~found.masks].any()
    usual = posteriors.extras["std"][posteriors.masks].log()
    ours = found.extras["std"][found.masks].log()
    assert abs(ours.mean() - usual.mean()) < 0.3
    drawn = bayes.draw(found, 3, seed=0)
    assert torch.equal(drawn.masks[:3], found.masks[[0, 0, 0]])
    again = ws.FittedGenerator.load(fitted.save(tmp_path / "h")).sample(4, density=0.15, seed=1)
    assert torch.equal(again.extras["std"], found.extras["std"])
    assert torch.equal(fitted.sample(4, density=0.15, seed=1, folder=tmp_path / "s").extras["std"], found.extras["std"])


def test_gates_follow_the_signal_to_noise_ratio(posteriors: ws.Collection) -> None:
    fitted = ws.PosteriorMask().fit(posteriors)
    vectors = fitted.vectors(posteriors)
    values, scores = fitted.split(vectors)
    assert torch.equal(values, posteriors.weights)
    for mu, std, mask, score in zip(
        posteriors.weights, posteriors.extras["std"], posteriors.masks, scores, strict=True
    ):
        at = (mask & posteriors.layout.prunable).nonzero()[:, 0]
        ratio = mu[at].abs() / std[at]
        assert torch.equal(score[at].argsort(), ratio.argsort())
        assert score[at].min() > 0
        torch.testing.assert_close(score[~mask], -torch.ones(int((~mask).sum())))
    kept = fitted.extras(vectors, posteriors.masks)["std"]
    torch.testing.assert_close(kept, posteriors.extras["std"], rtol=1e-4, atol=0)
    shares = torch.stack([part.var(0).sum() for part in vectors.split(fitted.sizes, dim=1)])
    torch.testing.assert_close(shares / shares.sum(), torch.tensor([0.5, 0.4, 0.1]), rtol=1e-3, atol=0)


def test_what_are_no_posteriors_is_refused(tickets: ws.Collection, posteriors: ws.Collection) -> None:
    with pytest.raises(InputError, match="extra .std."):
        model().fit(tickets)
    with pytest.raises(InputError, match="Wasserstein"):
        model(align=ws.WeightMatching()).fit(posteriors)
    with pytest.raises(InputError, match="shares"):
        ws.PosteriorMask(gates=0.7, spread=0.4)


def test_samples_know_what_the_outputs_of_their_tickets_mean(posteriors: ws.Collection, tmp_path: Path) -> None:
    """Classifiers say nothing, as in version 0.1; regressions say so, with their noise."""
    plain = model().fit(posteriors)
    assert "records" not in plain.trained_on
    assert "outputs" not in plain.sample(1, density=0.15).records[0]
    said = {"outputs": {"kind": "regression", "output": None, "target": None}}
    values = posteriors.replace(
        records=[record | said | {"noise_std": 0.1 * (i + 1)} for i, record in enumerate(posteriors.records)]
    )
    fitted = ws.FittedGenerator.load(model().fit(values).save(tmp_path / "g"))
    found = fitted.sample(2, density=0.15, seed=1)
    x = torch.zeros(3, 1, 8, 8)
    assert found.records[0]["noise_std"] == pytest.approx(0.55)
    assert bayes.draw(found, 2).ensemble().predict(x).shape == (3, 10), "values, not classes"
    assert bayes.predict_values(found, x, 2).stddev.min() > 0.5
    assert fitted.decode(torch.zeros(1, 5), density=0.15).records[0]["outputs"] == said["outputs"]
