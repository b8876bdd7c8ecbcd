from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import weightspace as ws
from weightspace.cli import workers
from weightspace.cli.main import main


class Counting:
    """An executor in this process that counts its items."""

    def __init__(self) -> None:
        self.items = 0

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        for item in items:
            self.items += 1
            yield function(item)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting()

    @contextmanager
    def processes(count: int) -> Iterator[Counting]:
        assert count == 2
        yield counting

    monkeypatch.setattr(workers, "processes", processes)
    return counting


def test_finders_and_training_take_workers(
    pool: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["collect", "--task", "iris", "--n", "3", "--length", "1it", "--out", "zoo"]) == 0
    assert pool.items == 0
    find = ["tickets", "prune-at-init", "zoo", "--density", "0.5"]
    assert main([*find, "--out", "tickets", "--workers", "2", "--track", "csv:told.csv"]) == 0
    assert pool.items == 3  # a part for each network
    told = [line.split(",")[2] for line in Path("told.csv").read_text().splitlines()[1:]]
    assert {name.split("/")[1] for name in told if name.startswith("parts/")} == {"00000", "00001", "00002"}
    assert any(name.endswith("loss") for name in told)
    assert main([*find, "--out", "alone"]) == 0
    found, alone = ws.Collection.load("tickets"), ws.Collection.load("alone")
    assert found.masks.equal(alone.masks)
    torch.testing.assert_close(found.weights, alone.weights, rtol=1e-3, atol=1e-4)
    assert main(["train", "tickets", "--length", "1it", "--out", "longer", "--workers", "2"]) == 0
    assert pool.items == 6
    assert ws.Collection.load("longer").masks.equal(found.masks)
    assert main([*find, "--out", "other", "--workers", "0"]) == 1
    assert "--workers must be at least 1" in capsys.readouterr().err
