"""Shifts of inputs."""

import pytest
import torch

import weightspace as ws
from weightspace.evaluation.shift import shifts


def test_shifts_grow_and_keep_the_shape(task: ws.Task) -> None:
    x = task.test.x[:50]
    found = {(s.kind, s.severity): s.x for s in shifts(task, x)}
    assert set(found) == {(k, s) for k in ("noise", "contrast", "blur", "rotation") for s in (1, 2, 3)}
    for kind in ("noise", "contrast", "blur", "rotation"):
        far = [(found[kind, s] - x).norm().item() for s in (1, 2, 3)]
        assert 0 < far[0] < far[1] < far[2]
        assert all(found[kind, s].shape == x.shape for s in (1, 2, 3))
    noise = (found["noise", 2] - x).std().item()
    assert noise == pytest.approx(0.5 * task.train.x.std().item(), rel=0.05)
    table = ws.tasks.iris()
    assert {s.kind for s in shifts(table, table.test.x)} == {"noise", "contrast"}
    again = [s.x for s in shifts(task, x)]
    assert all(torch.equal(a, b) for a, b in zip(again, found.values(), strict=True))
