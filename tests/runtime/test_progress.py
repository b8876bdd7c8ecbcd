"""No bar stays where it is when its work was interrupted."""

import multiprocessing
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from tqdm import tqdm

import weightspace as ws
from weightspace.runtime.progress import progress


def still_open() -> int:
    return sum(not bar.disable for bar in tqdm._instances)


def test_bars_end_with_their_loops() -> None:
    before = still_open()
    with pytest.raises(KeyboardInterrupt) as remembered:
        for i in progress(range(3), "outer"):
            for j in progress(range(3), "inner"):
                if i == j == 1:
                    assert still_open() == before + 2
                    raise KeyboardInterrupt
    assert remembered.value.__traceback__ is not None  # which keeps the variables, as a notebook does
    assert still_open() == before
    kept = progress(range(3), "in a variable")
    assert still_open() == before + 1  # the control
    kept.close()


def test_an_interrupted_call_leaves_no_bar_no_lock_and_no_process(task: ws.Task, tmp_path: Path, monkeypatch) -> None:
    calls = 0

    def loss(outputs, y):
        nonlocal calls
        calls += 1
        if calls == 12:
            signal.raise_signal(signal.SIGINT)
        return task.loss(outputs, y)

    before = still_open()
    short = replace(task, recipe=replace(task.recipe, length=ws.Step(epochs=1)))
    interrupted = replace(short, loss=loss)
    folder = tmp_path / "zoo"
    with pytest.raises(KeyboardInterrupt):
        ws.collect(interrupted, 2, folder=folder)
    assert calls == 12
    assert still_open() == before
    assert not (folder / ".lock.holder").exists()
    assert multiprocessing.active_children() == []
    assert len(ws.collect(short, 2, folder=folder)) == 2
