"""What every plan of a collection promises: the same seed gives the same bytes, a run resumes, records say enough."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.errors import InputError, StorageError
from weightspace.training.plans import CollectionPlan

PLANS: dict[str, CollectionPlan] = {
    "independent": ws.Independent(),
    "grid": ws.Grid(lr=(0.05, 0.1), label_noise=(0.0, 0.5)),
    "shared start": ws.SharedStart(at=ws.Step(epochs=1)),
    "trajectory": ws.Trajectory(every=ws.Step(epochs=1)),
}
RUNS = {"independent": 2, "grid": 8, "shared start": 2, "trajectory": 2}
NETWORKS = RUNS | {"trajectory": 4}


@pytest.fixture(scope="module")
def short() -> ws.Task:
    task = ws.tasks.iris(hidden=(4,))
    return replace(task, recipe=replace(task.recipe, length=ws.Step(epochs=2), optimizer=ws.SGD(lr=0.1)))


@pytest.fixture(params=PLANS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_it_is_a_plan(name: str, short: ws.Task) -> None:
    plan = PLANS[name]
    assert isinstance(plan, CollectionPlan)
    runs, steps = plan.runs(2, 3), plan.kept_steps(short)
    assert len(runs) == RUNS[name]
    assert steps == sorted(set(steps))
    assert len(runs) * len(steps) == NETWORKS[name]
    assert runs[: len(plan.runs(1, 3))] == plan.runs(1, 3) or name == "grid", "more runs do not change the first"


def test_the_same_seed_gives_the_same_bytes(name: str, short: ws.Task, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        ws.collect(short, 2, seed=3, plan=PLANS[name], folder=tmp_path / folder)
    for path in [*sorted((tmp_path / "a").glob("*.safetensors")), tmp_path / "a" / "records.jsonl"]:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    other = ws.collect(short, 2, seed=4, plan=PLANS[name])
    assert not torch.equal(other.weights, ws.Collection.load(tmp_path / "a").weights)


def test_a_finished_run_returns_and_another_is_refused(name: str, short: ws.Task, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = ws.collect(short, 2, seed=3, plan=PLANS[name], folder=folder)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    again = ws.collect(short, 2, seed=3, plan=PLANS[name], folder=folder)
    assert torch.equal(first.weights, again.weights)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")} == before
    with pytest.raises(StorageError, match="seed"):
        ws.collect(short, 2, seed=4, plan=PLANS[name], folder=folder)


def test_records_say_where_a_network_came_from(name: str, short: ws.Task, tmp_path: Path) -> None:
    networks = ws.collect(short, 2, seed=3, plan=PLANS[name], folder=tmp_path / "run")
    assert len(networks) == NETWORKS[name]
    lines = (tmp_path / "run" / "records.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [record.to_json() for record in networks.records]
    for record in networks.records:
        assert record.kind == name
        assert record.task == short.name
        assert record.recipe == short.recipe
        assert record.collection_seed == 3
        assert record.index in range(RUNS[name])
        assert {"validation_loss", "validation_accuracy", "last_batch_loss"} <= set(record.metrics)
        assert (record.step is not None) == (name == "trajectory")
        assert (record.parent is not None) == (name == "shared start")
        assert bool(record.individual) == (name == "grid")
    assert len({record.seed for record in networks.records}) == RUNS[name]


def test_an_impossible_collection_is_refused(name: str, short: ws.Task, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="n must be"):
        ws.collect(short, 0, plan=PLANS[name], folder=tmp_path / "run")
    with pytest.raises(InputError, match="shard"):
        ws.collect(short, 2, plan=PLANS[name], folder=tmp_path / "run", shard=(99, 3))
    assert not (tmp_path / "run").exists()
