"""Errors in a user's own code: a line with their place, exit code 1."""

import operator
from pathlib import Path

import pytest
import torch
from torch import nn

from weightspace.cli.main import main

OWN = """
from dataclasses import replace
from torch import nn
import weightspace as ws
def needs(n): return nn.Linear(n, n)
def lazy(): return nn.LazyLinear(3)
def fails(): raise FileNotFoundError("pretrained.pt")
def loss(outputs, y): return outputs.no_such_attribute
def task(): return replace(ws.tasks.iris(hidden=(2,)), loss=loss)
def no_task(): return 1 / 0
"""


def failed(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([str(word) for word in words]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module, in the working folder, beside a folder of files."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    (tmp_path / "files").mkdir()
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "files" / "a.pt")
    monkeypatch.chdir(tmp_path)
    return name


def test_a_factory_of_ones_own(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("import", "files", "--import-from", ".", "--out", "zoo", "--factory")
    assert "needs an argument (n)" in failed(capsys, *where, f"{own}:needs")
    assert "call the lazy module once" in failed(capsys, *where, f"{own}:lazy")
    assert f"FileNotFoundError: pretrained.pt ({Path.cwd() / own}.py:7 in fails)" in failed(
        capsys, *where, f"{own}:fails"
    )
    assert "has no attribute 'absent'" in failed(capsys, *where, f"{own}:absent")
    Path("broken.py").write_text("def build(:\n")
    assert "broken.py:1)" in failed(capsys, *where, "broken:build")
    assert not Path("zoo").exists()


def test_a_task_and_a_loss_of_ones_own(
    own: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("collect", "--n", "1", "--length", "1it", "--import-from", ".", "--out", "zoo", "--task")
    assert f"{own}.py:10 in no_task" in failed(capsys, *where, f"{own}:no_task")
    assert f"{own}.py:8 in loss" in failed(capsys, *where, f"{own}:task")
    monkeypatch.setenv("WEIGHTSPACE_TRACEBACK", "1")
    with pytest.raises(Exception, match="no_such_attribute"):
        main([*where, f"{own}:task"])


def test_an_error_of_the_package_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what no line of the user's has a part in is for the makers."""
    monkeypatch.setattr("weightspace.cli.main.parse", operator.truediv)
    with pytest.raises(TypeError, match="unsupported operand"):
        main(["show"])
