"""A folder keeps which code the command line named, and an error says it; nothing of it is imported."""

import json
import sys
from pathlib import Path

import pytest
import torch

from weightspace.cli.main import main
from weightspace.cli.named import NAMED

MODULE = """
import torch
from pathlib import Path
from torch import nn
import weightspace as ws

Path("it-ran").touch()

def build():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))

def task():
    torch.manual_seed(0)
    x, recipe, loss = torch.randn(60, 6), ws.Recipe(ws.Step(iterations=2)), nn.functional.mse_loss
    return ws.tasks.from_tensors("mine", x, x[:, :1], build, recipe=recipe, loss=loss)
"""
PLACE = ["--import-from", "."]
TASK = ["--task", "remembered_task:task", *PLACE]
TICKETS = ["tickets", "gradual", "networks", "--density", "0.5", "--out", "tickets"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("remembered_task", None)
    (tmp_path / "remembered_task.py").write_text(MODULE)
    layers = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    (tmp_path / "files").mkdir()
    for name in "ab":
        torch.save(layers.state_dict(), tmp_path / "files" / f"{name}.pt")
    assert main(["import", "files", "--factory", "remembered_task:build", *PLACE, "--out", "networks"]) == 0
    sys.modules.pop("remembered_task")
    (tmp_path / "it-ran").unlink()
    return tmp_path


def test_what_to_type_is_said_and_nothing_is_imported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(TICKETS) == 1
    said = "networks was made with --factory remembered_task:build --import-from .: add this, if you trust that code"
    assert said in capsys.readouterr().err
    assert main([*TICKETS, *TASK[:2]]) == 1  # what is given is not said again
    assert "networks was made with --import-from .: add this" in capsys.readouterr().err
    assert not (here / "it-ran").exists()
    assert main([*TICKETS, *TASK]) == 0
    assert (here / "it-ran").exists()  # the negative control
    capsys.readouterr()
    assert main(["fit", "tickets@:2", "--refine", "--out", "generator"]) == 1
    assert "tickets was made with --task remembered_task:task --import-from .:" in capsys.readouterr().err
    assert main(["train", "networks@0", "--length", "1it", "--out", "longer"]) == 1
    assert "was made with" not in capsys.readouterr().err  # another mistake


def test_the_words_are_no_part_of_the_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = json.loads((here / "networks" / NAMED).read_text())
    assert words == {"factory": "remembered_task:build", "import_from": "."}
    assert main(["import", "files", "--factory", "remembered_task:build", *PLACE, "--out", "networks"]) == 0
    capsys.readouterr()
    assert main(["show", "networks", "--verify"]) == 0
    assert NAMED not in capsys.readouterr().out
    for damaged in ("{", '{"task": 3}', '{"factory": "a\\u001b[2J:b"}', "[]"):
        (here / "networks" / NAMED).write_text(damaged)
        assert main(TICKETS) == 1
        assert "was made with" not in capsys.readouterr().err


def test_built_in_tasks_need_no_words(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "--task", "iris", "--n", "2", "--length", "1it", "--out", "plain", *PLACE]) == 0
    assert not (here / "plain" / NAMED).exists()
