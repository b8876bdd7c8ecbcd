"""Policies on the command line: collected, pruned, compared and trained on."""

from pathlib import Path

import pytest

import weightspace as ws
from weightspace.cli.main import main


def test_policies_are_collected_pruned_compared_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: object) -> tuple[int, str]:
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out + said.err

    dense, imp, start, done = (tmp_path / name for name in ("dense", "imp", "start", "done"))
    words = ("collect", "--task", "cartpole", "--hidden", 4, "--n", 2, "--length", "2it", "--out", dense)
    assert run(*words)[0] == 0
    wanted = ("--density", 0.5, "--rate", 0.5, "--rewind", "1it")
    code, said = run("tickets", "imp", dense, *wanted, "--scope", "layer", "--out", imp)
    assert code == 0, said
    assert run("tickets", "control", imp, "--kind", "random", "--out", start)[0] == 0
    assert run("train", start, "--length", "1it", "--out", done)[0] == 0
    code, said = run("show", done)
    assert "validation return" in said
    assert "density 0.5" in said
    trained = ws.Collection.load(done)
    assert trained.masks.sum() == ws.Collection.load(imp).masks.sum()
    code, said = run("tickets", "imp", dense, "--density", 0.05, "--rate", 0.9, "--out", tmp_path / "empty")
    assert code == 1
    assert "keeps none of the weights" in said
    assert "Traceback" not in said
