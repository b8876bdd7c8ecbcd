"""Copies that are hidden by signs are copies: the same function at distance zero."""

from dataclasses import replace

import torch
from torch import nn

import weightspace as ws
from weightspace.align.signs import without_signs
from weightspace.evaluation.baselines import Baselines
from weightspace.evaluation.groups import CanonicalForm
from weightspace.evaluation.measure import TrainingReference
from weightspace.evaluation.neighbours import NeighbourSearch


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
        reference = TrainingReference(tanh, canonical(training), canonical, 0.95, 0.1, 0, compared=canonical.compared)
        unit = reference.unit
        made = Baselines(canonical(training), training, n=3, density=1.0, components=2, symmetry=symmetry, seed=0)
        for networks in (copies, made.permuted()):
            around = reference.search.around(canonical.compared(canonical(networks)), itself=False)
            assert around.nearest.first.max() < 1e-5 * unit
            assert around.angle.first.max() < 1e-5 * reference.unit_angle
            assert reference.copies(around).all()
        assert not reference.copies(
            reference.search.around(canonical.compared(canonical(held_out)), itself=False)
        ).any()
        # Larger weights make a network farther, not newer.
        larger = training.replace(weights=2 * training.weights)
        around = NeighbourSearch.of(training, training.weights.double().mean(0), 0.1).around(larger, itself=False)
        assert around.nearest.first.min() > 0.5 * training.weights.norm(dim=1).min()
        assert around.angle.first.max() < 1e-5
        assert reference.novelty(around.nearest.first, around.angle.first).max() < 1e-4
        assert reference.copies(around).all()

    # The negative control: a symmetry without signs does not find them.
    fitted = ws.WeightMatching(without_signs(symmetry)).fit(training, example=tanh.train.head(8).x)
    apart = fitted.transform(copies).weights - fitted.transform(training).weights
    assert apart.norm(dim=1).min() > 0.1 * unit


def test_angles_are_those_of_the_vectors(task: ws.Task) -> None:
    training = ws.collect(replace(task, recipe=ws.Recipe("1it")), n=5, seed=3)
    search = NeighbourSearch.of(training, training.weights.double().mean(0), 0.1)
    units = torch.nn.functional.normalize(training.weights.double(), dim=1)
    angles = (units @ units.T).clamp(-1, 1).arccos().fill_diagonal_(torch.inf)
    expected = angles.topk(2, 1, largest=False)
    angle = search.around(training, itself=True).angle
    torch.testing.assert_close(angle.first, expected.values[:, 0])
    torch.testing.assert_close(angle.second, expected.values[:, 1])
    assert torch.equal(angle.index, expected.indices[:, 0])
