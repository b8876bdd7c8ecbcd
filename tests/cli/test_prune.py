"""`weightspace prune`: from state dicts of others to sparse networks, with what each way of winning back is worth."""

from pathlib import Path

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace.cli.main import main

NORMED = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        return self.body(x * 1)
"""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks of a class of one's own, of which nothing but state dicts is known."""
    root = tmp_path_factory.mktemp("given")
    (root / "normed.py").write_text(NORMED)
    (root / "files").mkdir()
    for i in range(2):
        torch.save(ws.Architecture.of(Net).build_seeded(i).state_dict(), root / "files" / f"{i}.pt")
    return root


def run(root: Path, *words: str) -> int:
    return main([*words, "--factory", "normed:Net", "--import-from", str(root)])


def test_networks_of_others_are_pruned_and_won_back(given: Path, tmp_path: Path, capsys) -> None:
    dense, out = str(tmp_path / "dense"), tmp_path / "pruned"
    assert run(given, "import", str(given / "files"), "--out", dense) == 0
    assert run(given, "prune", dense, "--out", str(out), "--task", "iris", "--validation", "20") == 0
    shown = capsys.readouterr().out.partition("written to")[2]
    assert "validation accuracy  chosen, of 2" in shown
    assert "refitted, statistics anew" in shown
    pruned = ws.Collection.load(out, factory=Net)
    for record in pruned.records:
        told = record["recovered"]
        best = max(score for way, score in told["scores"].items() if way != "dense")
        assert told["scores"][told["way"]] == best == record["metrics"]["validation_accuracy"]
    weights = pruned.layout.tensors(pruned.weights)["body.0.weight"]
    assert (weights.unflatten(2, (1, 4)) != 0).sum(-1).max() == 2
    assert run(given, "prune", dense, "--out", str(out), "--task", "iris", "--validation", "20") == 0  # complete
    assert capsys.readouterr().out.endswith(shown.partition("\n")[2])


def test_pruning_alone_needs_no_task_and_keeps_the_weights(given: Path, tmp_path: Path, capsys) -> None:
    dense, out = str(tmp_path / "dense"), str(tmp_path / "pruned")
    assert run(given, "import", str(given / "files"), "--out", dense) == 0
    assert run(given, "prune", dense, "--out", out) == 1
    assert "give --task" in capsys.readouterr().err
    assert run(given, "prune", dense, "--out", out, "--pattern", "0.25", "--no-recover") == 0
    bench = ("bench", out, "--out", str(tmp_path / "bench"), "--batches", "2", "--no-compiled", "--device", "cpu")
    assert run(given, *bench) == 1
    assert "give --task" in capsys.readouterr().err
    assert run(given, *bench, "--task", "iris") == 0
    assert (tmp_path / "bench" / "speed.csv").exists()
    assert run(given, "prune", dense, "--out", str(tmp_path / "none"), "--no-recover", "--memory-gb", "2") == 1
    assert "--memory-gb means nothing with --no-recover" in capsys.readouterr().err
    assert run(given, "prune", out, "--out", str(tmp_path / "again"), "--no-recover") == 1
    assert "sparse already" in capsys.readouterr().err
