"""Baselines are what their names say."""

import pytest
import torch

import weightspace as ws
from weightspace.evaluation.baselines import NAMES, Baselines


@pytest.fixture(scope="module")
def made(tickets: ws.Collection, task: ws.Task) -> Baselines:
    matching = ws.WeightMatching().fit(tickets, example=task.train.x[:8])
    aligned = matching.transform(tickets)
    return Baselines(aligned, tickets, n=12, density=0.2, components=5, symmetry=matching.symmetry, seed=0)


def test_baselines_are_what_they_say(made: Baselines) -> None:
    weights, masks = made.aligned.weights, made.aligned.masks
    prunable = made.aligned.layout.prunable
    count = round(0.2 * made.aligned.layout.num_prunable)
    for group in made.groups(distance=1.5, sigma=0.01):
        assert (group.make().masks[:, prunable].sum(1) == count).all(), group.name
        assert group.name in NAMES or group.name.startswith("soup of ")
    far = made.noisy(1.5, "arm", of_length=True)
    assert torch.cdist(far.weights.double(), weights.double()).min(1).values.tolist() == pytest.approx(
        [1.5] * 12, rel=1e-4
    )
    halves = made.between(0.5)
    pairs = made._choose(2, "pairs")
    exact = (weights[pairs[:, 0]] + weights[pairs[:, 1]]) / 2
    assert torch.allclose(halves.weights, exact * halves.masks)
    assert len(made.soup(len(weights))) == 1
    typical = made.mean_values(by_frequency=True)
    usual = masks.float().mean(0)
    share = [(m.masks.float().mean(0) * usual)[prunable].sum() for m in (typical, made.mean_values(by_frequency=False))]
    assert share[0] > 1.5 * share[1]  # weights that tickets often keep are kept often
    per_layer = {e.name: at for e in made.aligned.layout.weights for at in [made.aligned.layout.slices[e.name]]}
    pruned = made.pruned(made.gaussian(), by_layer=True)
    for at in per_layer.values():
        assert pruned.masks[:, at].float().mean().item() == pytest.approx(masks[:, at].float().mean().item(), abs=0.02)
    swapped = made.swapped()
    pair = made._choose(2, "swap")
    inside = weights[pair[:, 0]] * masks[pair[:, 1]]
    assert torch.equal(swapped.weights, inside)
