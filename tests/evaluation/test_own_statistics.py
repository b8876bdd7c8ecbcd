"""Networks with BatchNorm statistics of their own: who keeps them, who cannot, and what the report says of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn

import weightspace as ws
from tests.evaluation.cases import few_points
from weightspace.evaluation.connectivity import measure
from weightspace.evaluation.groups import Inputs
from weightspace.evaluation.own_statistics import RowStatistics
from weightspace.evaluation.parts import Parts
from weightspace.recipes.recipe import Augmentation
from weightspace.report.comparison import Comparison
from weightspace.training.augment import as_in_training
from weightspace.training.batchnorm import recalibrated


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
        self.input_shape = (64,)


@pytest.fixture(scope="module")
def task() -> ws.Task:
    base = ws.tasks.digits(recipe=ws.Recipe("60it", optimizer=ws.SGD(lr=0.1)))
    few = [base.train.head(300), base.validation.head(100), base.test.head(100)]
    return ws.Task("norms", ws.Architecture.of(Net), *few, base.recipe)


@pytest.fixture(scope="module")
def networks(task: ws.Task) -> ws.Collection:
    return ws.collect(task, 7)


def fresh(build: Callable[[], nn.Module]) -> ws.Collection:
    """One network as it is built."""
    architecture = ws.Architecture.of(build)
    layout, state = architecture.layout(), architecture.build_seeded(0).state_dict()
    buffers = {entry.name: state[entry.name][None] for entry in layout.buffers}
    return ws.Collection(layout, layout.pack(state)[None], architecture=architecture, buffers=buffers)


def broken(networks: ws.Collection) -> ws.Collection:
    """The same networks with statistics that no data gave."""
    buffers = {name: b + 3 if b.is_floating_point() else b for name, b in networks.buffers.items()}
    return networks.replace(buffers=buffers)


@pytest.fixture(scope="module")
def report(task: ws.Task, networks: ws.Collection) -> ws.Report:
    """All networks keep their statistics; the samples' are broken."""
    less = mock.patch.multiple("weightspace.evaluation.figure_data", _PAIRS=1, _STEPS=1)
    with few_points(), less:
        samples, training = broken(networks[4:]), networks[:4]
        return ws.evaluate(samples, task, training=training, dropout=None, align=None, statistics="own")


def test_networks_keep_their_own_statistics_and_mixtures_get_the_pass(
    report: ws.Report, task: ws.Task, networks: ws.Collection
) -> None:
    for name, part in (("training networks", networks[:4]), ("samples", broken(networks[4:]))):
        scores = report[name].per_network.scores["accuracy"]
        assert scores == pytest.approx(measure(part, task).accuracies.tolist())
        assert scores != pytest.approx(measure(part, task, reset_statistics=True).accuracies.tolist())
    assert report.ensemble("samples").metrics.accuracy == pytest.approx(report["samples"].ensemble.accuracy)
    own = measure(networks[:4], task).accuracies.tolist()
    assert set(report["retrieval"].per_network.scores["accuracy"]) <= {*own}
    mean = networks[:1].replace(weights=networks[:4].weights.mean(0, keepdim=True))
    anew = measure(mean, task, reset_statistics=True)  # a mixture has none of its own
    assert report["mean network"].mean("accuracy") == pytest.approx(anew.accuracy)


def test_validation_data_choose_for_each_row(task: ws.Task, networks: ws.Collection, tmp_path: Path) -> None:
    inputs = Inputs(broken(networks[4:]), networks[:4], others={"these": networks[4:], "those": broken(networks)})
    found = RowStatistics.of(inputs, task, "choose", seed=0, device="cpu", parts=Parts(tmp_path))
    with mock.patch("weightspace.evaluation.own_statistics.measured"):  # is not needed a second time
        assert RowStatistics.of(inputs, task, "choose", seed=0, device="cpu", parts=Parts(tmp_path)) == found
    right = task.validation
    for name, part in (inputs.main | dict(inputs.others)).items():
        scores = [measure(part, task, split=right, reset_statistics=anew).score for anew in (False, True)]
        assert name not in found.own or scores[0] >= scores[1]
        assert name in found.own or scores[0] <= scores[1]
    assert "samples" not in found.own
    assert "those" not in found.own


def test_the_report_says_which_statistics_there_were(report: ws.Report, tmp_path: Path) -> None:
    assert report.settings.own_statistics == ["samples", "training networks", "retrieval"]
    assert "BatchNorm statistics: samples, training networks, retrieval kept the networks' own;" in report.notes[0]
    report.save(tmp_path / "report.json")
    assert ws.Report.load(tmp_path / "report.json").to_json() == report.to_json()
    chosen = replace(report, settings=replace(report.settings, statistics="choose", own_statistics=()))
    assert "no row kept the networks' own, as validation data chose" in chosen.notes[0]
    assert "training inputs as they are" in chosen.notes[0]
    changed = replace(chosen, settings=replace(chosen.settings, augmented_statistics=True))
    assert "training inputs changed as in training" in changed.notes[0]
    default = replace(report, settings=replace(report.settings, statistics="anew", own_statistics=()))
    assert not {"statistics", "own_statistics", "augmented_statistics"} & set(default.to_json()["settings"])
    assert not default.notes
    for other, unlike in ((default, True), (report, False)):
        legend = dict(Comparison({"a": report, "b": other}).tables()[0].legend)
        assert ("b: estimated anew in all rows" in legend.get("BatchNorm statistics", "")) == unlike


@pytest.mark.parametrize("changed", [False, True])
def test_the_pass_of_mixtures_reads_the_images_that_fit(changed: bool) -> None:
    x = 2 + torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images, shifts = ws.Split(x, torch.zeros(60, dtype=torch.long)), Augmentation(crop=3)
    network = fresh(Net)
    right = recalibrated(network, as_in_training(images, shifts, 0) if changed else images)
    split = ws.Split(x, right.module(0).eval()(x).argmax(1))
    task = ws.Task("images", network.architecture, split, split, split, ws.Recipe("1it", augmentation=shifts))
    found = RowStatistics.of(Inputs(network, network), task, "own", seed=0, device="cpu")
    assert (found.data is not None) == changed
    still = replace(task, recipe=ws.Recipe("1it"))
    assert RowStatistics.of(Inputs(network, network), still, "own", seed=0, device="cpu").data is None


def test_networks_without_statistics_have_nothing_to_keep(task: ws.Task) -> None:
    network = fresh(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    plain = replace(task, architecture=network.architecture)
    assert RowStatistics.of(Inputs(network, network), plain, "own", seed=0, device="cpu") == RowStatistics()
