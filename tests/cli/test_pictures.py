from pathlib import Path

import pytest

from weightspace.cli.main import main

MODULE = """
import torch
import weightspace as ws

def task(unseen=True):
    images = torch.rand(24, 4, 4, generator=torch.Generator().manual_seed(0))
    network = ws.Architecture("Siren", {"sizes": (2, 6, 1), "omega": 5.0})
    recipe = ws.Recipe("2it", batch_size=16)
    return ws.tasks.pictures("noise", images[:12], network, recipe, images[12:] if unseen else None)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "drawn_task.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_networks_that_draw_are_evaluated_and_shown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = ["--task", "drawn_task:task", "--import-from", "."]
    assert main(["collect", *task, "--n", "12", "--shared-start", "0it", "--out", "networks"]) == 0
    wanted = ["evaluate", "networks@0:6", "--training", "networks", *task, "--components", "4"]
    assert main([*wanted, "--out", "report"]) == 0
    said = capsys.readouterr().out
    assert "the pictures are no copies" in said
    assert (here / "report/report.html").exists()
    assert main([*wanted, "--out", "report"]) == 0  # done already
    assert main(["show", "report", "--html", "page.html"]) == 0
    assert "Gaussian" in capsys.readouterr().out
    assert (here / "page.html").read_text() == (here / "report/report.html").read_text()
    assert main([*wanted, "--held-out", "networks", "--out", "other"]) == 1
    assert "leave --held-out out" in capsys.readouterr().err
    assert main([*wanted, "--performing", "0.9", "--out", "other"]) == 1
    assert "--performing means nothing" in capsys.readouterr().err
    assert main(["show", "report", "report"]) == 1
    assert "show it alone" in capsys.readouterr().err
