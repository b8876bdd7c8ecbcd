"""The command line's verb `align`."""

from pathlib import Path

import pytest

import weightspace as ws


def test_the_command_line_aligns_in_every_way(
    dense: ws.Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from weightspace.cli.main import main

    dense.save(tmp_path / "dense")
    common = ["align", str(tmp_path / "dense"), "--out"]
    assert main([*common, str(tmp_path / "a"), "--population", "star", "--reference-index", "1"]) == 0
    assert main([*common, str(tmp_path / "a"), "--population", "star", "--reference-index", "1", "--report", "3"]) == 0
    assert (tmp_path / "a" / "alignment.html").exists()
    assert "All were matched to network" in capsys.readouterr().out
    assert main([*common, str(tmp_path / "b"), "--method", "activations", "--reference-index", "2"]) == 0
    assert main([*common, str(tmp_path / "b"), "--method", "activations", "--reference-index", "3"]) == 1
    assert "another run" in capsys.readouterr().err
    assert main([*common, str(tmp_path / "c"), "--reference-index", "3"]) == 1
    assert "--population star" in capsys.readouterr().err
    assert main([*common, str(tmp_path / "c"), "--method", "activations", "--population", "star"]) == 1
    assert main([*common, str(tmp_path / "c"), "--report", "1"]) == 1
    assert main([*common, str(tmp_path / "c"), "--method", "activations", "--rotate"]) == 1
    assert "--rotate is for weights" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
    with pytest.warns(UserWarning, match="no units of MLP can be mixed .* no effect"):
        assert main([*common, str(tmp_path / "c"), "--rotate"]) == 0
    settings = [(tmp_path / name / "config.yaml").read_text() for name in "ac"]
    assert ["rotate" in text for text in settings] == [False, True]
    mode = (tmp_path / "a" / "shard-00000.safetensors").stat().st_mode & 0o777
    assert mode == (tmp_path / "a" / "collection.json").stat().st_mode & 0o777
