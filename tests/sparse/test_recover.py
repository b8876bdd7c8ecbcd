"""Winning accuracy back without training: what validation data choose, ties, and what is refused."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import weightspace as ws
from tests.sparse.test_refit import collected, normal, pruned
from weightspace import sparse
from weightspace.networks.outputs import LossOnly
from weightspace.tasks.measuring import measure
from weightspace.training.batchnorm import recalibrated


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))


def networks_with_statistics(n: int = 1) -> ws.Collection:
    """Networks of which the first gives all classes."""
    dense = collected(net, n)
    with torch.no_grad():
        dense.layout.tensors(dense.weights)["3.bias"].sub_(dense.module(0).eval()(normal(240, 8)).mean(0))
    return dense


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))


def task_of(dense: ws.Collection, shift: float = 0.0) -> ws.Task:
    """Labels are what the first dense network says; training inputs may be shifted."""
    x = normal(240, 8)
    with torch.no_grad():
        y = dense.module(0).eval()(x).argmax(1)
    train, validation = ws.Split(x[:80] + shift, y[:80]), ws.Split(x[80:160], y[80:160])
    test = ws.Split(torch.full((5, 8), 7.0), torch.zeros(5, dtype=torch.long))
    return ws.Task("labels of a network", dense.architecture, train, validation, test, ws.Recipe("1it"))


def validation(networks: ws.Collection, task: ws.Task) -> list[float]:
    module = networks.architecture.build_seeded(0)
    figures = measure(task, module, networks.layout, networks.weights, networks.buffers, task.validation)
    return figures["accuracy"]


def test_each_network_gets_the_way_that_is_best_on_validation_data() -> None:
    dense = networks_with_statistics(3)
    task = task_of(dense)
    few = pruned(dense, ws.NM(2, 4)).replace(records=[{"seed": i, "metrics": {"accuracy": 1.0}} for i in range(3)])
    found = sparse.recover(few, dense, task, samples=60)
    assert list(found.ways) == ["refitted", "as pruned", "refitted, statistics anew", "as pruned, statistics anew"]
    assert {way: validation(one, task) for way, one in found.ways.items()} == found.scores
    best = [max(scores[i] for scores in found.scores.values()) for i in range(3)]
    assert validation(found.networks, task) == best
    for i, way in enumerate(found.chosen):
        assert torch.equal(found.networks.weights[i], found.ways[way].weights[i])
        assert all(torch.equal(b[i], found.ways[way].buffers[name][i]) for name, b in found.networks.buffers.items())
    assert [record.metrics["validation_accuracy"] for record in found.networks.records] == best  # not the dense ones'
    assert torch.equal(found.networks.masks, few.masks)
    assert "chosen" in str(found)
    assert str(found).count("of 3") == 4
    again = sparse.recover(few, dense, task, samples=60)
    assert torch.equal(again.networks.weights, found.networks.weights)
    other = sparse.recover(few, dense, task, samples=60, seed=1)
    assert not torch.equal(other.ways["refitted"].weights, found.ways["refitted"].weights)
    first = sparse.recover(few, dense, task, samples=60, validation=5)
    fewer = replace(task, validation=task.validation.head(5))
    assert first.scores == {way: validation(one, fewer) for way, one in found.ways.items()} != found.scores


def test_statistics_of_other_inputs_are_not_taken() -> None:
    """Training inputs that are shifted give statistics that are wrong for validation inputs."""
    dense = networks_with_statistics()
    few = dense.replace(masks=torch.ones_like(dense.weights, dtype=torch.bool))
    far = task_of(dense, shift=20.0)
    found = sparse.recover(few, dense, far)
    assert found.chosen == ["refitted"]  # nothing is pruned: it is the dense network
    assert found.scores["refitted"] == [1.0]
    assert found.scores["as pruned, statistics anew"][0] < 0.9
    statistics = recalibrated(dense, far.train).buffers
    moved = replace(far, train=far.validation)
    broken = dense.replace(buffers=statistics)
    mended = sparse.recover(few.replace(buffers=statistics), broken, moved)
    assert "statistics anew" in mended.chosen[0]  # and here the old ones are wrong


def test_statistics_are_of_images_as_training_sees_them() -> None:
    dense = collected(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)))
    split = ws.Split(3 + normal(40, 1, 8, 8), torch.zeros(40, dtype=torch.long))
    recipe = ws.Recipe("1it", augmentation=ws.Augmentation(crop=3))
    task = ws.Task("images", dense.architecture, split, split, split, recipe)
    few = pruned(dense, ws.NM(2, 4))
    shifted = sparse.recover(few, dense, task)
    still = sparse.recover(few, dense, replace(task, recipe=ws.Recipe("1it")))
    assert torch.equal(shifted.ways["refitted"].weights, still.ways["refitted"].weights)
    variances = [one.ways["as pruned, statistics anew"].buffers["1.running_var"] for one in (shifted, still)]
    assert variances[0].sum() > 1.2 * variances[1].sum()  # zeros came in
    assert len(still.ways) == 4
    for name in ("refitted", "as pruned"):  # the images as they are are tried as well
        plain = shifted.ways[f"{name}, statistics anew, of images as they are"]
        assert torch.equal(
            plain.buffers["1.running_var"], still.ways[f"{name}, statistics anew"].buffers["1.running_var"]
        )
    rows = replace(task, train=ws.Split(split.x[:, 0], split.y), architecture=task.architecture)
    with pytest.raises(ws.InputError, match="augmentation needs images"):
        sparse.recover(few, dense, rows)


def test_networks_without_statistics_and_with_a_loss_alone() -> None:
    dense = collected(plain, 2)
    x = normal(100, 8)
    with torch.no_grad():
        y = dense.module(0)(x)
    split = ws.Split(x, y)
    task = ws.Task("values", dense.architecture, split, split, split, ws.Recipe("1it"), nn.functional.mse_loss)
    few = pruned(dense, ws.NM(2, 4))
    found = sparse.recover(few, dense, replace(task, outputs=LossOnly()))
    assert (found.metric, list(found.ways)) == ("loss", ["refitted", "as pruned"])
    assert found.scores["refitted"][0] < found.scores["as pruned"][0]
    assert found.chosen[0] == "refitted"


def test_what_cannot_be_recovered_is_refused() -> None:
    dense = collected(net)
    few, task = pruned(dense, ws.NM(2, 4)), task_of(dense)
    with pytest.raises(ws.InputError, match="samples"):
        sparse.recover(few, dense, task, samples=0)
    with pytest.raises(ws.LayoutMismatch):
        sparse.recover(few, dense, replace(task, architecture=ws.Architecture.of(lambda: nn.Linear(8, 3))))
