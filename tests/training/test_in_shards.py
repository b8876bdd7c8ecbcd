"""Stages over a collection, in shards on workers."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import weightspace as ws
from weightspace.bayes import BayesianIMP


class InOrder:
    """The simplest executor, which counts what it did and loses workers.

    Args:
        lost: Items before the one at which it fails.
    """

    def __init__(self, lost: int | None = None) -> None:
        self.lost, self.done = lost, 0

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        for item in items:
            if self.done == self.lost:
                raise ConnectionError("a worker was lost")
            yield function(item)
            self.done += 1


@pytest.fixture(scope="module")
def zoo(task: ws.Task) -> ws.Collection:
    return ws.collect(task, 5, seed=4)


IMP = ws.tickets.IMP(density=0.5, rate=0.5, rewind=ws.Step(iterations=1))


def test_tickets_are_those_of_one_process(task: ws.Task, zoo: ws.Collection, tmp_path: Path) -> None:
    made = ws.find_on(InOrder(), IMP, zoo, task, shards=2, folder=tmp_path / "tickets")
    alone = IMP.find(zoo, task)
    assert [r["parent"] for r in made.records] == [r["parent"] for r in alone.records] == list(range(5))
    torch.testing.assert_close(made.weights, alone.weights, rtol=1e-3, atol=1e-4)
    assert made.masks.equal(alone.masks)
    assert set(made.extras) == set(alone.extras)
    again = ws.find_on(InOrder(lost=0), IMP, zoo, task, shards=2, folder=tmp_path / "tickets")  # nothing is left to do
    assert again.weights.equal(made.weights)


def test_a_lost_worker_loses_its_part_alone(task: ws.Task, zoo: ws.Collection, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        ws.find_on(InOrder(lost=1), IMP, zoo, task, shards=2, folder=tmp_path / "tickets")
    first = next((tmp_path / "tickets/parts/00000").rglob("*.safetensors"))
    stamp = first.stat().st_mtime_ns
    made = ws.find_on(InOrder(), IMP, zoo, task, shards=2, folder=tmp_path / "tickets")
    assert first.stat().st_mtime_ns == stamp
    whole = ws.find_on(InOrder(), IMP, zoo, task, shards=2, folder=tmp_path / "whole")
    assert made.weights.equal(whole.weights)
    other = ws.tickets.IMP(density=0.25, rate=0.5)
    with pytest.raises(ws.StorageError, match="another run"):
        ws.find_on(InOrder(), other, zoo, task, shards=2, folder=tmp_path / "tickets")


def test_training_on_and_bayesian_searches(task: ws.Task, zoo: ws.Collection, tmp_path: Path) -> None:
    longer = ws.train_on(InOrder(), zoo, task, "2it", shards=2, folder=tmp_path / "longer")
    torch.testing.assert_close(longer.weights, ws.train(zoo, task, "2it").weights, rtol=1e-3, atol=1e-4)
    search = BayesianIMP(density=0.5, rate=0.5)
    with_adam = replace(task, recipe=replace(task.recipe, optimizer=ws.Adam()))
    found = ws.find_on(InOrder(), search, zoo[:2], with_adam, shards=2, folder=tmp_path / "posteriors")
    assert len(found) == 2
    assert found.densities.tolist() == pytest.approx([0.5, 0.5], abs=0.01)


def test_what_has_no_parts_is_refused(task: ws.Task, zoo: ws.Collection, tmp_path: Path) -> None:
    with pytest.raises(ws.InputError, match="shards"):
        ws.find_on(InOrder(), IMP, zoo, task, shards=6, folder=tmp_path / "a")
    nameless = zoo.replace(records=[record.without("index") for record in zoo.records])
    with pytest.raises(ws.InputError, match='no "index"'):
        ws.find_on(InOrder(), IMP, nameless, task, shards=2, folder=tmp_path / "b")
    assert not list(tmp_path.iterdir())
