"""Several generators on workers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightspace as ws
from tests.executors import Sending
from weightspace.errors import InputError

FLOW = ws.FlowMatching(width=4, blocks=1, steps=3, batch_size=4, validation_fraction=0.0)
ALONE = ws.TicketGenerator(compress=ws.PCA(3), generate=FLOW)
REFINED = replace(ALONE, refine=ws.TaskRefinement(steps=2, networks=2, batch_size=16))


def test_generators_are_those_of_one_process(tickets: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    generators = {"flow alone": ALONE, "refined": REFINED}
    task = replace(task, ood=lambda: task.test.x)  # needs no pickle
    with pytest.raises(ConnectionError):
        ws.fit_on(Sending(lost=1), generators, tickets, task=task, seed=3, folder=tmp_path / "fits")
    made = ws.fit_on(Sending(), generators, tickets, task=task, seed=3, folder=tmp_path / "fits")
    assert list(made) == list(generators)
    for name, generator in generators.items():
        alone = generator.fit(tickets, task=task, seed=3, device="cpu").sample(2, density=0.2, seed=1)
        sampled = made[name].sample(2, density=0.2, seed=1)
        assert sampled.masks.equal(alone.masks)
        torch.testing.assert_close(sampled.weights, alone.weights, rtol=1e-3, atol=1e-4)


def test_mistakes_are_told_before_the_work(tickets: ws.Collection, tmp_path: Path) -> None:
    pool, folder = Sending(), tmp_path / "fits"
    with pytest.raises(InputError, match="refinement trains through a task"):
        ws.fit_on(pool, {"flow": ALONE, "refined": REFINED}, tickets, folder=folder)
    for name in ("", "a/b", "..", "."):
        with pytest.raises(InputError, match="no name of a folder"):
            ws.fit_on(pool, {name: ALONE}, tickets, folder=folder)
    with pytest.raises(InputError, match="at least one generator"):
        ws.fit_on(pool, {}, tickets, folder=folder)
    with pytest.raises(InputError, match="PCA"):
        ws.fit_on(pool, {"flow": replace(ALONE, compress=ws.PCA(50))}, tickets, folder=folder)
    assert pool.done == []
    assert not folder.exists()
