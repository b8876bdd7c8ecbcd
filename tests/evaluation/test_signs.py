"""Copies that are hidden by signs are copies: the same function at distance zero."""

from dataclasses import replace

import torch
from torch import nn

import weightspace as ws
from weightspace.align.signs import without_signs
from weightspace.evaluation.baselines import Baselines
from weightspace.evaluation.groups import CanonicalForm
from weightspace.evaluation.measure import TrainingReference


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 6), nn.Linear(6, 10))


def test_copies_hidden_by_order_signs_and_scale_are_called_copies(task: ws.Task) -> None:
    tanh = replace(task, architecture=ws.Architecture.of(network), recipe=ws.Recipe("4it", batch_size=64))
    zoo = ws.collect(tanh, n=24, seed=0)
    training, held_out = zoo[:12], zoo[12:]
    symmetry = ws.WeightMatching().symmetry_of(training, tanh.train.head(8).x)
    assert [(g.odd, g.homogeneous) for g in symmetry.groups] == [(True, False), (True, True)]
    random = torch.Generator().manual_seed(0)
    weights = []
    for vector in training.weights:
        scales = {"3": torch.rand(6, generator=random) + 0.5}
        flipped = symmetry.flip(symmetry.scale(vector, scales), symmetry.random_signs(random))
        weights.append(symmetry.permute(flipped, symmetry.random(random)))
    copies = ws.Collection(zoo.layout, torch.stack(weights), architecture=zoo.architecture)
    x = tanh.test.head(9).x
    torch.testing.assert_close(copies[0].module()(x), training[0].module()(x))

    with CanonicalForm.of(training, tanh, ws.WeightMatching(symmetry), 0.1) as canonical:
        reference = TrainingReference(tanh, canonical(training), canonical, 0.95, 0.1, 0)
        unit = reference.unit
        made = Baselines(canonical(training), training, n=3, density=1.0, components=2, symmetry=symmetry, seed=0)
        for networks in (copies, made.permuted()):
            nearest = reference.search.around(canonical(networks), itself=False).nearest
            assert nearest.first.max() < 1e-5 * unit
            assert (nearest.first < reference.close(nearest)).all()
        unseen = reference.search.around(canonical(held_out), itself=False).nearest
        assert (unseen.first > reference.close(unseen)).all()

    # The negative control: a symmetry without signs does not find them.
    fitted = ws.WeightMatching(without_signs(symmetry)).fit(training, example=tanh.train.head(8).x)
    apart = fitted.transform(copies).weights - fitted.transform(training).weights
    assert apart.norm(dim=1).min() > 0.1 * unit
