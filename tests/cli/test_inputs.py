"""What files name is never imported; what the command line names comes from the working folder only where that is
asked.
"""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import weightspace as ws
from weightspace.cli.main import main

_MODULE = """
from pathlib import Path
import weightspace as ws
Path("it-ran").touch()
def task():
    return ws.tasks.iris(hidden=(4,))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module that leaves a trace, and a collection whose records name it."""
    (tmp_path / "planted_module.py").write_text(_MODULE)
    task = replace(ws.tasks.iris(hidden=(4,)), recipe=ws.Recipe(ws.Step(epochs=1)))
    networks = ws.collect(task, 4, seed=0)
    for name, recorded in (("planted", "planted_module:task"), ("server", "http.server:test"), ("plain", "iris")):
        records = [record | {"task": recorded} for record in networks.records]
        networks.replace(records=records).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["planted", "server"])
@pytest.mark.parametrize(
    "words",
    [
        ["train", "{}", "--length", "1ep"],
        ["tickets", "gradual", "{}", "--length", "10ep"],
        ["fit", "{}", "--refine.steps", "2", "--compress.components", "2"],
        ["evaluate", "{}", "--training", "{}"],
        ["align", "{}", "--report", "2"],
    ],
)
def test_a_task_that_a_record_names_is_not_imported(name: str, words: list[str], here: Path, capsys) -> None:
    before = set(sys.modules)
    assert main([*(word.format(name) for word in words), "--out", "out", "--import-from", "."]) == 1
    assert "give --task" in capsys.readouterr().err
    assert not (here / "it-ran").exists()
    assert not {"planted_module", "http.server"} & (set(sys.modules) - before)


def test_a_task_that_a_generator_names_is_not_imported(here: Path, monkeypatch, capsys) -> None:
    norms = SimpleNamespace(
        layout=SimpleNamespace(buffers=("running_mean",)), trained_on={"tasks": ["planted_module:task"]}
    )
    monkeypatch.setattr("weightspace.generator.FittedGenerator.load", lambda *_a, **_k: norms)
    assert main(["sample", "generator", "--out", "out", "--import-from", "."]) == 1
    assert "give --task" in capsys.readouterr().err
    assert not (here / "it-ran").exists()


def test_the_command_line_may_name_a_function_and_its_folder(here: Path, monkeypatch, capsys) -> None:
    words = ["train", "plain", "--length", "1ep", "--task", "planted_module:task"]
    monkeypatch.setattr(sys, "path", ["", str(here), *sys.path])
    assert main([*words, "--out", "a"]) == 1
    assert "--import-from" in capsys.readouterr().err
    assert not (here / "it-ran").exists()
    assert main([*words, "--out", "a", "--import-from", "."]) == 0
    assert (here / "it-ran").exists()  # the negative control
    del sys.modules["planted_module"]
