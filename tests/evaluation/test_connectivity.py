"""Barriers, mean networks, overlaps and instability."""

from pathlib import Path

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace.align import (
    WeightMatching,
)
from weightspace.errors import InputError
from weightspace.evaluation import connectivity
from weightspace.masks.overlap import overlap_within


def test_barriers_against_a_direct_computation(dense: ws.Collection, task: ws.Task) -> None:
    (barrier,) = connectivity.barriers(dense, task, pairs=[(0, 2)], points=3)
    module = dense.module(0)
    losses = []
    for t in (0.0, 0.25, 0.5, 0.75, 1.0):
        module.load_state_dict(dense.layout.unpack((1 - t) * dense.weights[0] + t * dense.weights[2]))
        with torch.no_grad():
            losses.append(float(nn.functional.cross_entropy(module(task.test.x), task.test.y)))
    above = [v - (1 - t) * losses[0] - t * losses[-1] for v, t in zip(losses, barrier.positions, strict=True)]
    assert barrier.losses == pytest.approx(losses, rel=1e-5)
    assert barrier.loss == pytest.approx(max(above[1:-1]), rel=1e-5)
    assert barrier.midpoint_accuracy == barrier.accuracies[2]
    same = dense[[0, 0]]
    assert connectivity.barriers(same, task, points=1)[0].loss == pytest.approx(0, abs=1e-9)


def test_barriers_refuse_pairs_that_are_not_there(dense: ws.Collection, task: ws.Task) -> None:
    with pytest.raises(InputError, match="pairs of the"):
        connectivity.barriers(dense, task, pairs=[(0, 99)])
    with pytest.raises(InputError, match="pairs of the"):
        connectivity.barriers(dense[[0]], task)
    with pytest.raises(InputError, match="interior point"):
        connectivity.barriers(dense, task, points=0)


def test_residual_share_and_mean_network_in_closed_form(dense: ws.Collection, task: ws.Task) -> None:
    assert connectivity.residual_share(dense[[0, 0, 0]]) == pytest.approx(0, abs=1e-9)
    opposite = dense[[0, 0]].replace(weights=torch.stack([dense.weights[0], -dense.weights[0]]))
    assert connectivity.residual_share(opposite) == pytest.approx(1)
    alone = connectivity.mean_network(dense[[1]], task)
    assert alone.loss == pytest.approx(connectivity.measure(dense[[1]], task).loss, rel=1e-5)


def test_mask_overlap_against_sets_and_chance(tickets: ws.Collection) -> None:
    found = overlap_within(tickets[[0, 1]])
    prunable = tickets.layout.prunable
    a, b = (set(m[prunable].nonzero()[:, 0].tolist()) for m in tickets.masks[:2])
    assert found.iou == pytest.approx(len(a & b) / len(a | b))
    assert found.shared == pytest.approx(2 * len(a & b) / (len(a) + len(b)))
    # Chance: shuffle the masks inside their layers.
    random = torch.Generator().manual_seed(0)
    shared = []
    for _ in range(200):
        other = tickets.masks[1].clone()
        for e in tickets.layout.weights:
            at = tickets.layout.slices[e.name]
            other[at] = other[at][torch.randperm(e.size, generator=random)]
        shared.append(len(a & set(other[prunable].nonzero()[:, 0].tolist())))
    mean = sum(shared) / len(shared)
    assert found.chance_shared == pytest.approx(2 * mean / (len(a) + len(b)), rel=0.05)
    with pytest.raises(InputError, match="two or more sparse"):
        overlap_within(tickets[[0]])


def test_statistics_are_estimated_on_training_data_as_pytorch_does() -> None:
    arch = ws.Architecture.of(lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)))
    states = [arch.build_seeded(i).state_dict() for i in range(3)]
    layout = arch.layout()
    networks = ws.Collection(
        layout,
        torch.stack([layout.pack(s) for s in states]),
        architecture=arch,
        buffers={b.name: torch.stack([s[b.name] for s in states]) for b in layout.buffers},
    )
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)) * 2 + 1
    data = ws.Split(x, torch.zeros(300, dtype=torch.long))
    found = connectivity.recalibrated(networks, data, batch=100, batches=3)
    for i in range(3):
        module = networks.module(i)
        module[1].reset_running_stats()
        module[1].momentum = None  # PyTorch's cumulative mean
        for part in x.split(100):
            module.train()(part)
        torch.testing.assert_close(found.buffers["1.running_mean"][i], module[1].running_mean)
        torch.testing.assert_close(found.buffers["1.running_var"][i], module[1].running_var)
    assert not torch.equal(found.buffers["1.running_mean"], networks.buffers["1.running_mean"])


def test_instability_falls_as_copies_part_later(task: ws.Task, tmp_path: Path) -> None:
    found = connectivity.instability(
        task, [ws.Step(), ws.Step(epochs=2)], copies=2, points=1, folder=tmp_path / "copies"
    )
    assert [str(step) for step, _ in found] == ["0it", "2ep"]
    early, late = (b[0].loss for _, b in found)
    assert late < early
    assert (tmp_path / "copies" / "from-2ep" / "collection.json").exists()


def test_batchnorm_barriers_use_statistics_of_their_own(task: ws.Task) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))

    from dataclasses import replace

    normed = replace(task, architecture=ws.Architecture.of(build))
    networks = ws.collect(normed, 2, seed=0)
    aligned = WeightMatching().fit(networks, example=task.train.x[:8]).transform(networks)
    (default,) = connectivity.barriers(aligned, normed, points=1)
    (reset,) = connectivity.barriers(aligned, normed, points=1, reset_statistics=True)
    (stale,) = connectivity.barriers(aligned, normed, points=1, reset_statistics=False)
    assert default == reset
    assert default.loss != stale.loss
