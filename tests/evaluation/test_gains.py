"""Copies hidden by factors, signs and biases in front of norms are copies: the same function at distance zero."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace.evaluation.baselines import Baselines
from weightspace.evaluation.groups import CanonicalForm
from weightspace.evaluation.measure import TrainingReference
from weightspace.evaluation.neighbours import Neighbours


def batch_norm() -> nn.Module:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Tanh()),
        *(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 10)),
    )


def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 10))


@pytest.mark.parametrize("build", [batch_norm, layer_norm])
def test_copies_hidden_by_gains_are_called_copies(task: ws.Task, build: Callable[[], nn.Module]) -> None:
    normed = replace(task, architecture=ws.Architecture.of(build), recipe=ws.Recipe("2it", batch_size=64))
    zoo = ws.collect(normed, n=10, seed=0)
    training, held_out = zoo[:6], zoo[6:]
    random = torch.Generator().manual_seed(0)
    with CanonicalForm.of(training, normed, ws.WeightMatching(), 0.1) as canonical:
        assert canonical.gains
        assert canonical.symmetry is not None
        weights, buffers = canonical.gains.randomised(training.weights, training.buffers, random)
        order, signs = canonical.symmetry.random(random), canonical.symmetry.random_signs(random)
        copies = training.replace(weights=canonical.symmetry.permute(canonical.symmetry.flip(weights, signs), order))
        moved = canonical.symmetry.flip_buffers
        buffers = [moved({n: b[i] for n, b in buffers.items()}, signs) for i in range(6)]
        buffers = [canonical.symmetry.permute_buffers(one, order) for one in buffers]
        copies = copies.replace(buffers={n: torch.stack([one[n] for one in buffers]) for n in training.buffers})
        x = normed.test.head(9).x
        torch.testing.assert_close(copies[0].module()(x), training[0].module()(x), rtol=1e-3, atol=1e-3)
        reference = TrainingReference(normed, canonical(training), canonical, 0.95, 0.1, 0, compared=canonical.compared)

        def around(networks: ws.Collection) -> Neighbours:
            return reference.search.around(canonical.compared(canonical(networks)), itself=False)

        found = around(copies)
        assert found.nearest.first.max() < 1e-5 * reference.unit
        assert found.angle.first.max() < 1e-5 * reference.unit_angle
        assert reference.copies(found).all()
        assert not reference.copies(around(held_out)).any()
        # In the form that networks are aligned in, and predict in, copies are apart.
        assert (canonical(copies).weights - canonical(training).weights).norm(dim=1).min() > 0.1 * reference.unit
        made = Baselines(canonical(training), training, 3, 1.0, 2, canonical.symmetry, 0, gains=canonical.gains)
        assert around(made.permuted()).nearest.first.max() < 1e-5 * reference.unit
