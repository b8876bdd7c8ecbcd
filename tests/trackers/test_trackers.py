"""Everything that trains says how it goes: to the folder's metrics.jsonl and to whoever listens."""

import csv
import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import weightspace as ws
from weightspace.cli.telling import read_tracker
from weightspace.errors import InputError
from weightspace.runtime import tracking
from weightspace.trackers import CSV, JSONLines, TensorBoard, Tracker, WandB


class Fake:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.told.append((step, dict(values)))

    def names(self) -> set[str]:
        return {name for _, values in self.told for name in values}

    def steps(self, name: str) -> list[int]:
        return [step for step, values in self.told if name in values]


@pytest.fixture(scope="module")
def short(task: ws.Task) -> ws.Task:
    return replace(task, recipe=replace(task.recipe, length=ws.Step(epochs=3)))


@pytest.fixture(scope="module")
def zoo(short: ws.Task) -> ws.Collection:
    return ws.collect(short, 4)


def test_collecting_is_told_in_the_course_and_at_the_end(short: ws.Task, tmp_path: Path) -> None:
    fake = Fake()
    assert isinstance(fake, Tracker)
    with ws.track(fake):
        zoo = ws.collect(short, 4, folder=tmp_path / "zoo")
    per_epoch = short.recipe.per_epoch(len(short.train))
    assert fake.steps("collect/loss") == [per_epoch, 2 * per_epoch, 3 * per_epoch]
    (end,) = [values for _, values in fake.told if "collect/networks" in values]
    assert end["collect/networks"] == 4
    metrics = [record["metrics"]["validation_accuracy"] for record in zoo.records]
    assert end["collect/validation_accuracy"] == pytest.approx(sum(metrics) / 4)
    lines = [json.loads(line) for line in (tmp_path / "zoo" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "collect/loss" in line] == fake.steps("collect/loss")
    assert lines[-1]["networks"] == 4  # as version 0.1 wrote it
    again = Fake()
    ws.collect(short, 4)
    assert again.told == []  # the control: outside of the block nobody listens


def test_what_is_told_changes_no_network(short: ws.Task, zoo: ws.Collection) -> None:
    with ws.track(Fake()):
        again = ws.collect(short, 4)
    assert torch.equal(again.weights, zoo.weights)


FINDERS = {
    "Gradual": ws.tickets.GradualPruning(density=0.5),
    "IMP": ws.tickets.IMP(density=0.5, rate=0.5),
    "Dynamic": ws.tickets.DynamicSparseTraining(density=0.5),
    "EdgePopup": ws.tickets.EdgePopup(density=0.5),
}


@pytest.mark.parametrize("name", FINDERS)
def test_finders(name: str, short: ws.Task, zoo: ws.Collection) -> None:
    fake = Fake()
    with ws.track(fake):
        FINDERS[name].find(zoo, short)
    steps = fake.steps(f"tickets/{name}/loss")
    assert len(steps) > 1
    assert steps == sorted(steps)
    assert fake.steps(f"tickets/{name}/networks")[-1] >= steps[-1]


def test_levels_have_names_of_their_own(short: ws.Task, zoo: ws.Collection) -> None:
    fake = Fake()
    with ws.track(fake):
        ws.tickets.IMP(density=0.25, rate=0.5).find_levels(zoo[:2], short)
    assert {"tickets/IMP/level-01/loss", "tickets/IMP/level-02/loss"} <= fake.names()


def test_flow_and_refinement(short: ws.Task, zoo: ws.Collection, tmp_path: Path) -> None:
    fake = Fake()
    model = ws.TicketGenerator(
        align=None,
        compress=ws.PCA(2),
        generate=ws.FlowMatching(width=8, blocks=1, steps=300, batch_size=4),
        refine=ws.TaskRefinement(steps=4, networks=2, batch_size=4),
    )
    with ws.track(fake):
        model.fit(zoo, task=short, folder=tmp_path / "model")
    assert fake.steps("flow/loss") == [*range(3, 301, 3)]  # a hundred times
    assert fake.steps("refinement/loss") == [1, 2, 3, 4]
    lines = [json.loads(line) for line in (tmp_path / "model" / "metrics.jsonl").read_text().splitlines()]
    assert sum("flow/loss" in line for line in lines) == 100


def test_bayes(short: ws.Task, zoo: ws.Collection) -> None:
    from weightspace import bayes

    fake = Fake()
    with ws.track(fake):
        task = replace(short, recipe=ws.Recipe("2it", 16, ws.Adam(0.01)))
        bayes.Variational().fit(zoo[:2], task)
        bayes.GateSearch(density=0.5).find(zoo[:2], task)
    assert {"posteriors/loss", "gates/GateSearch/loss", "gates/GateSearch/open"} <= fake.names()


def test_timing_is_no_training(short: ws.Task) -> None:
    fake = Fake()
    with ws.track(fake), tracking.stage("outer", 1) as outer:
        outer.advance()
        with tracking.paused():
            tracking.log(lambda: {"loss": 1.0})
        assert fake.told == []
        tracking.log(lambda: {"loss": 1.0})  # the control
    assert fake.told == [(1, {"outer/loss": 1.0})]


def test_a_stage_is_told_a_hundred_times_and_goes_on(tmp_path: Path) -> None:
    fake = Fake()
    with ws.track(fake), tracking.stage("outer", 1), tracking.stage("long", 1000) as told:
        told.skip(500)
        for _ in range(500):
            told.advance()
            told.log(lambda: {"loss": 0.5})
    assert fake.steps("outer/long/loss") == [*range(510, 1001, 10)]


def test_files(tmp_path: Path) -> None:
    table, lines = tmp_path / "loss.csv", tmp_path / "loss.jsonl"
    for tracker in (CSV(table), JSONLines(lines), CSV(table)):  # the last goes on
        tracker.log(3, {"flow/loss": 0.25, 'a,"b"': float("nan")})
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["step"], row["name"], row["value"]) for row in rows] == [
        ("3", "flow/loss", "0.25"),
        ("3", 'a,"b"', "nan"),
    ] * 2
    (line,) = map(json.loads, lines.read_text().splitlines())
    assert {name: line[name] for name in line if name != "time"} == {"step": 3, "flow/loss": 0.25, 'a,"b"': None}


def test_tensorboard_takes_a_writer() -> None:
    scalars: list[tuple[str, float, int]] = []
    writer = SimpleNamespace(add_scalar=lambda *scalar: scalars.append(scalar))
    TensorBoard(writer).log(7, {"flow/loss": 0.5})
    assert scalars == [("flow/loss", 0.5, 7)]


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path)
    board.log(3, {"flow/loss": 0.5})
    board.log(6, {"flow/loss": 0.25})
    board.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("flow/loss")] == [(3, 0.5), (6, 0.25)]


class Run:
    """What `wandb.init` returns, as far as it is used."""

    def __init__(self) -> None:
        self.axes: dict[str, str | None] = {}
        self.logged: list[dict[str, float]] = []
        self.ended = False

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes[name] = step_metric

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.ended = True


def test_wandb_has_an_axis_for_each_stage(monkeypatch) -> None:
    run, asked = Run(), {}
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **given: asked.update(given) or run))
    tracker = WandB("zoo", settings={"n": 3})
    tracker.log(3, {"flow/loss": 0.5})
    tracker.log(1, {"tickets/IMP/loss": 0.25})  # the step goes back, which W&B's own may not
    tracker.close()
    assert asked == {"project": "zoo", "config": {"n": 3}}
    assert run.logged == [{"flow/step": 3, "flow/loss": 0.5}, {"tickets/IMP/step": 1, "tickets/IMP/loss": 0.25}]
    assert run.axes["flow/*"] == "flow/step"
    assert run.axes["tickets/IMP/*"] == "tickets/IMP/step"
    assert run.ended


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_what_is_not_installed_is_named() -> None:
    with pytest.raises(InputError, match=r"pip install 'weightspace\[wandb\]'"):
        WandB("zoo")


@pytest.mark.parametrize("kind", [WandB, TensorBoard])
def test_other_things_are_refused(kind) -> None:
    with pytest.raises(InputError, match="to must be"):
        kind(3)


def test_trackers_on_the_command_line(tmp_path: Path) -> None:
    assert read_tracker(None) is None
    assert read_tracker(f"csv:{tmp_path}/loss.csv") == CSV(f"{tmp_path}/loss.csv")
    for wrong in ("csv", "csv:", "mlflow:here"):
        with pytest.raises(InputError, match="tensorboard:FOLDER"):
            read_tracker(wrong)
