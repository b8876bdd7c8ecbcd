"""Settings that the tests of Bayesian networks share."""

from dataclasses import replace

import pytest

import weightspace as ws


@pytest.fixture(scope="module")
def adam(task: ws.Task) -> ws.Task:
    return replace(task, recipe=ws.Recipe(ws.Step(epochs=3), batch_size=64, optimizer=ws.Adam(lr=5e-3)))
