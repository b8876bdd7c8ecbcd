"""A user's own task says how to build networks that are not built in."""

from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.cli.main import main

MODULE = """
import torch
from torch import nn
import weightspace as ws

def build():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))

def task():
    torch.manual_seed(0)
    x, recipe, loss = torch.randn(60, 6), ws.Recipe(ws.Step(iterations=2)), nn.functional.mse_loss
    return ws.tasks.from_tensors("mine", x, x[:, :1], build, recipe=recipe, loss=loss, metrics=["rmse"])
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "walked_task.py").write_text(MODULE)
    layers = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    (tmp_path / "files").mkdir()
    torch.save({"state_dict": {f"net.{k}": v for k, v in layers.state_dict().items()}}, tmp_path / "files" / "a.ckpt")
    return tmp_path


def test_from_checkpoints_to_tickets(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--import-from", "."]
    assert main(["import", "files", "--factory", "walked_task:build", *place, "--out", "networks"]) == 0
    assert "without the prefix 'net.'" in capsys.readouterr().out
    found = ["tickets", "imp", "networks", "--density", "0.5", "--rate", "0.5", "--out", "tickets"]
    assert main(found) == 1  # nothing says how to build the network
    assert main([*found, "--task", "walked_task:task", *place]) == 0
    assert "validation rmse" in capsys.readouterr().out
    tickets = ws.Collection.load(here / "tickets")
    assert int(tickets.masks[:, tickets.layout.prunable].sum()) == tickets.layout.num_prunable // 2


def test_a_regression_is_evaluated(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = ["--task", "walked_task:task", "--import-from", "."]
    assert main(["collect", *task, "--n", "6", "--out", "networks"]) == 0
    capsys.readouterr()
    wanted = ["evaluate", "networks", "--training", "networks", *task, "--out", "report"]
    assert main(wanted) == 0
    shown = capsys.readouterr().out
    assert "rmse as mean ± standard deviation" in shown
    assert "[fail] not copies" in shown
    assert "Left out: calibration of probabilities" in shown
    assert main(["show", "report"]) == 0
    table = capsys.readouterr().out
    assert "rmse" in table
    assert "angle" in table
    assert ws.Report.load(here / "report" / "report.json")["samples"].mean("rmse") > 0
