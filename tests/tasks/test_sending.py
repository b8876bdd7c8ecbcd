"""A trial of workers, before the work."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import weightspace as ws
from weightspace.errors import InputError
from weightspace.tasks.sending import try_workers


class Here:
    """An executor in this process."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        self.sent.append(function)
        return map(function, items)


def test_a_folder_that_workers_do_not_see_is_told(tmp_path: Path) -> None:
    task, here = ws.tasks.digits(), Here()
    try_workers(None, tmp_path / "no", task)
    try_workers(here, tmp_path, task)
    assert len(here.sent[0].args[0].train) == 1
    with pytest.raises(InputError, match="workers do not see"):
        try_workers(here, tmp_path / "no", task)


def test_what_cannot_be_sent_is_told(tmp_path: Path) -> None:
    task = ws.tasks.digits()
    own = replace(task, loss=lambda outputs, y: torch.nn.functional.cross_entropy(outputs, y))
    with ws.processes(1) as pool:  # none is started
        with pytest.raises(InputError, match="defined at the top of a module"):
            try_workers(pool, tmp_path, own)
        with pytest.raises(InputError, match="defined at the top of a module"):
            try_workers(pool, tmp_path, replace(task, ood=lambda: task.test.x), lambda: None)
        assert not pool.workers
