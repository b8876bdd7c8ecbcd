import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

import weightspace as ws
from tests.evaluation.cases import few_points
from weightspace.errors import InputError, LayoutMismatch
from weightspace.masks.overlap import overlap_within
from weightspace.symmetry import trace


@pytest.fixture(scope="module")
def report(generator: ws.FittedGenerator, tickets: ws.Collection, task: ws.Task) -> ws.Report:
    samples = generator.sample(6, density=0.2, seed=1)
    return ws.evaluate(samples, task, training=tickets[:8], held_out=tickets[8:], dropout=ws.MCDropout((0.2,)))


def test_permuted_rescaled_copies_are_seen_as_copies(tickets: ws.Collection, task: ws.Task) -> None:
    symmetry = trace(tickets.architecture.build_seeded(0), task.test.x[:8])
    random = torch.Generator().manual_seed(0)
    hidden = []
    for network in tickets[:6]:
        scales = {g.name: torch.rand(g.size, generator=random) + 0.5 for g in symmetry.groups}
        p = symmetry.random(random)
        hidden.append((symmetry.permute(symmetry.scale(network.weights, scales), p), symmetry.permute(network.mask, p)))
    weights, masks = (torch.stack(parts) for parts in zip(*hidden, strict=True))
    copies = tickets[:6].replace(weights=weights, masks=masks)
    raw = torch.cdist(weights, tickets.weights).min(1).values
    with few_points():
        report = ws.evaluate(copies, task, training=tickets, dropout=None)
    unit = report["training tickets"].median("nearest_distance")
    # Not exactly zero: a unit that lost all its outgoing weights has no canonical scale.
    assert max(report["samples"].per_network.nearest_distance) < 1e-5 * unit
    assert raw.min() > 0.5 * unit  # without alignment they would have passed as new
    assert min(report["samples"].per_network.max_error_iou) == 1
    assert report["permuted copy"].median("nearest_distance") < 1e-5 * unit
    assert report["permuted copy"].median("max_error_iou") == 1


def test_one_mask_is_seen_under_values_that_differ(tickets: ws.Collection, task: ws.Task) -> None:
    """Matching their values puts networks of one mask into different orders, in which it looks like several."""
    random = torch.randn(6, tickets.layout.size, generator=torch.Generator().manual_seed(0))
    masks = tickets.masks[:1].expand(6, -1)
    alike = tickets[:6].replace(weights=torch.where(masks, random, 0.0), masks=masks.clone())
    with few_points():
        report = ws.evaluate(alike, task, training=tickets, dropout=None)
    assert report["samples"].variety.mask_overlap == pytest.approx(1.0)
    matching = ws.WeightMatching().fit(tickets, example=task.train.x[:8])
    assert overlap_within(matching.transform(alike)).shared < 0.9
    # Tickets share more in the order that matches them.
    found = [overlap_within(one).shared for one in (tickets, matching.transform(tickets))]
    assert found[0] < found[1] == pytest.approx(report["training tickets"].variety.mask_overlap)


def test_the_report_puts_samples_beside_their_baselines(report: ws.Report) -> None:
    names = [group.name for group in report.groups]
    assert names == [
        "training tickets",
        "held-out tickets",
        "samples",
        "noise",
        "noise, equal errors",
        "interpolation",
        "soup of 8",
        "mean network",
        "Gaussian per weight",
        "Gaussian",
        "KDE",
        "dense sample, pruned",
        "retrieval",
        "swapped mask",
        "typical mask",
        "random mask",
        "unaligned average",
        "random",
        "permuted copy",
    ]
    for group in report.groups:
        assert all(len(group.values(name)) == group.count for name in group.per_network.names)
        assert set(group.per_network.density) == {report["samples"].per_network.density[0]}
    assert report["mean network"].count == 1
    assert report["random"].mean("accuracy") < 0.3 < report["training tickets"].mean("accuracy")
    assert report["interpolation"].median("nearest_distance") < report["training tickets"].median("nearest_distance")
    assert report["retrieval"].median("nearest_distance") == pytest.approx(0, abs=1e-5)
    assert {p.family for p in report.points} == {
        "noise",
        "noise relative to each layer",
        "interpolation",
        "soup",
        "KDE",
    }
    assert [p.name for p in report.ensembles] == [
        "samples",
        "training tickets",
        "held-out tickets",
        "one of the training tickets",
        "MC dropout",
    ]
    assert {p.networks for p in report.ensembles} == {6, 2, 1}


def test_more_noise_means_less_in_common(report: ws.Report) -> None:
    for family in ("noise", "noise relative to each layer"):
        points = [p for p in report.points if p.family == family]
        assert [p.level for p in points] == sorted(p.level for p in points)
        assert all(np.diff([p.distance for p in points]) > 0)
        assert all(np.diff([p.error_iou for p in points]) < 0.02)  # of a handful of networks
        assert points[0].error_iou > (0.95 if family == "noise" else 0.8)
        assert points[-1].error_iou < 0.7


def test_numbers_in_the_report_come_from_the_networks(report: ws.Report, tickets: ws.Collection, task: ws.Task) -> None:
    group = report["held-out tickets"]
    by_hand = [(n.module().eval()(task.test.x).argmax(-1) == task.test.y).double().mean().item() for n in tickets[8:]]
    assert list(group.per_network.accuracy) == pytest.approx(by_hand)
    ensemble = (tickets[8:].ensemble().predict(task.test.x) == task.test.y).double().mean().item()
    assert group.ensemble.accuracy == pytest.approx(ensemble)
    assert report.ensemble("held-out tickets").metrics.accuracy == pytest.approx(ensemble)
    assert group.intervals.accuracy[0] <= ensemble <= group.intervals.accuracy[1]
    low, high = group.interval("accuracy")
    assert low <= group.mean("accuracy") <= high
    aligned = ws.WeightMatching().fit(tickets[:8], example=task.train.x[:8]).transform(tickets)
    by_hand = torch.cdist(aligned.weights[8:].double(), aligned.weights[:8].double()).min(1).values
    assert list(group.per_network.nearest_distance) == pytest.approx(by_hand.tolist())
    assert sum(one.count for one in group.reliability) == len(task.test)


def test_dense_networks_can_be_judged(dense: ws.Collection, task: ws.Task) -> None:
    with few_points():
        report = ws.evaluate(dense[6:], task, training=dense[:6], dropout=None)
    assert report.reference == "training networks"
    assert report["samples"].variety.mask_overlap is None
    assert report["soup of 6"].mean("density") == 1


def test_networks_with_batchnorm_get_one_pass_in_every_row() -> None:
    class Net(torch.nn.Sequential):
        def __init__(self) -> None:
            super().__init__(
                torch.nn.Flatten(),
                torch.nn.Linear(64, 10),
                torch.nn.BatchNorm1d(10),
                torch.nn.ReLU(),
                torch.nn.Linear(10, 10),
            )
            self.input_shape = (64,)

    base = ws.tasks.digits(recipe=ws.Recipe(ws.Step(epochs=3), optimizer=ws.SGD(lr=0.1)))
    task = ws.Task("bn", ws.Architecture.of(Net), base.train, base.validation, base.test, base.recipe)
    networks = ws.collect(task, 8)
    wrong = networks.replace(buffers={n: b + 3 if b.is_floating_point() else b for n, b in networks.buffers.items()})
    with few_points():
        found = [ws.evaluate(n[5:], task, training=n[:5], dropout=None) for n in (networks, wrong)]
    for group in found[0].groups:  # the stored statistics are read by no row
        assert group.mean("accuracy") == pytest.approx(found[1][group.name].mean("accuracy"))
    assert found[0]["samples"].mean("accuracy") > 0.7
    assert found[0]["permuted copy"].mean("accuracy") > 0.7


def test_memory_changes_how_not_what(tickets: ws.Collection, task: ws.Task) -> None:
    room = 8 * 5 * 3 * 974 / 2**30  # for 3 networks: collections are spooled to disk, and baselines made from 3 of them
    with few_points():
        whole = ws.evaluate(tickets[8:], task, training=tickets[:4], dropout=None)
        tight = ws.evaluate(tickets[8:], task, training=tickets[:4], dropout=None, memory_gb=room)
    assert tight.settings.made_from == 3
    assert whole.settings.made_from == 4
    for name in ("samples", "training tickets"):
        for metric in whole[name].per_network.names:
            values = list(whole[name].values(metric))
            assert list(tight[name].values(metric)) == pytest.approx(values, rel=1e-6, abs=1e-6), metric


def test_one_sample_is_enough(tickets: ws.Collection, task: ws.Task) -> None:
    with few_points():
        report = ws.evaluate(tickets[9:], task, training=tickets[:8], held_out=tickets[8:9], dropout=None)
    assert report["samples"].count == 1
    assert report.verdict("no collapse").outcome == "open"
    alone = report["samples"]
    assert alone.variety is None
    assert all(math.isfinite(v) for v in alone.ensemble.scores.values())
    figures = asdict(alone.novelty)
    shares = [one["share"] for one in figures.pop("novel_and_performing")]
    assert all(math.isfinite(v) for v in [*figures.values(), *shares])
    assert str(report)


def test_same_seed_same_report(generator: ws.FittedGenerator, tickets: ws.Collection, task: ws.Task, report) -> None:
    samples = generator.sample(6, density=0.2, seed=1)
    again = ws.evaluate(samples, task, training=tickets[:8], held_out=tickets[8:], dropout=ws.MCDropout((0.2,)))
    assert again.to_json() == report.to_json()


def test_bad_requests_are_refused(tickets: ws.Collection, task: ws.Task) -> None:
    with pytest.raises(InputError, match="at least 3 training networks"):
        ws.evaluate(tickets, task, training=tickets[:2])
    with pytest.raises(InputError, match="performing must be"):
        ws.evaluate(tickets, task, training=tickets, performing=95.0)
    with pytest.raises(InputError, match="memory_gb"):
        ws.evaluate(tickets, task, training=tickets, memory_gb=0.0)
    other = ws.collect(ws.tasks.digits(hidden=(2,), recipe=ws.Recipe(ws.Step(epochs=1))), 3)
    with pytest.raises(LayoutMismatch, match="samples has another layout"):
        ws.evaluate(other, task, training=tickets)
    curves = ws.tasks.from_own_data(
        "curves",
        torch.linspace(-1, 1, 20)[:, None],
        torch.randn(4, 20, 1),
        lambda: torch.nn.Linear(1, 1),
        recipe=ws.Recipe(ws.Step(epochs=1)),
        loss=torch.nn.functional.mse_loss,
    )
    fitted = ws.collect(curves, 4)
    with pytest.raises(InputError, match="has data of its own"):
        ws.evaluate(fitted, curves, training=fitted)
