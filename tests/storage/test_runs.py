import json
import os
from pathlib import Path

import pytest
import yaml

from weightspace.errors import InputError, StorageError
from weightspace.storage.runs import open_run


def test_a_complete_run_says_so_and_an_interrupted_one_does_not(tmp_path: Path) -> None:
    with open_run(tmp_path / "r", "fit", {"seed": 1}) as run:
        assert not run.complete
    with open_run(tmp_path / "r", "fit", {"seed": 1}) as run:
        assert not run.complete
        run.log(loss=1.5)
        run.finish(networks=3)
    with open_run(tmp_path / "r", "fit", {"seed": 1}) as run:
        assert run.complete
    assert json.loads((tmp_path / "r" / "metrics.jsonl").read_text())["loss"] == 1.5
    assert yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["config"] == {"seed": 1}


@pytest.mark.parametrize(
    ("stage", "config", "inputs", "named"),
    [
        ("sample", {"seed": 1}, {"zoo": "a"}, "stage: 'fit' there, 'sample' asked"),
        ("fit", {"seed": 2}, {"zoo": "a"}, r"config\.seed: 1 there, 2 asked"),
        ("fit", {"seed": 1}, {"zoo": "b"}, r"inputs\.zoo: 'a' there, 'b' asked"),
    ],
)
def test_another_run_is_refused_and_the_difference_named(tmp_path: Path, stage, config, inputs, named) -> None:
    with open_run(tmp_path, "fit", {"seed": 1}, {"zoo": "a"}):
        pass
    before = (tmp_path / "config.yaml").read_bytes()
    with pytest.raises(StorageError, match=named), open_run(tmp_path, stage, config, inputs):
        pass
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match="holds something else"), open_run(tmp_path, "fit", {}):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_processes_cannot_share_a_folder(tmp_path: Path) -> None:
    with (
        open_run(tmp_path, "fit", {}),
        pytest.raises(StorageError, match=rf"another process \({os.getpid()} on .* since 20.*: .*pytest.*wait for it"),
        open_run(tmp_path, "fit", {}),
    ):
        pass
    with open_run(tmp_path, "fit", {}) as run:  # the lock goes with its holder
        assert not run.complete


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.123.partial").write_text("half")
    with open_run(tmp_path, "fit", {}):
        assert not list(tmp_path.glob(".*.partial"))


def test_a_damaged_configuration_and_an_unwritable_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written as JSON"), open_run(tmp_path / "a", "fit", {"f": print}):
        pass
    assert not (tmp_path / "a").exists()
    (tmp_path / "config.yaml").write_text("[1, 2")
    with pytest.raises(StorageError, match=r"config\.yaml is damaged"), open_run(tmp_path, "fit", {}):
        pass
