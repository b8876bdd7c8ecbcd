"""Mistakes on the command line name the option that was typed, and help fits the terminal."""

import os
from pathlib import Path

import pytest
from torch import nn

import weightspace as ws
from weightspace.cli.describe import describe_collection
from weightspace.cli.main import main, parse


def mistaken(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a wrong command line is told."""
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert "dummy" not in said.err
    assert said.out == ""
    return " ".join(said.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("fit x --out y --flow.width -3", "weightspace fit: --flow.width must be a whole number of at least 1, got -3"),
        ("fit x --out y --refine.lr -1 --flow.lr 0.1", "--refine.lr must be a finite number above 0"),
        ("fit x --out y --flow.lr -1 --refine.lr 0.1", "--flow.lr must be a finite number of at least 0"),
        ("tickets gradual x --out y --density=2", "tickets gradual: --density must be a finite number"),
        ("collect --out y --device cudda", "collect: --device 'cudda' is not available"),
        ("collect --out y --n ten", "--n: expected a whole number such as 20, got 'ten'"),
        ("collect --out y --grid.lr 0.1 a", "--grid.lr: expected a number such as 0.1, got 'a'"),
        ("sample x --out y --pattern 9:4", "--pattern: N:M needs 1 <= N <= M, got 9:4"),
        ("fit x --out y --refine.patterns 24", "written like 2:4"),
        ("colect --out y", "no verb is called 'colect', did you mean collect?"),
        ("tickets gradul x", "no verb is called 'gradul', did you mean gradual?"),
        ("collect --out y --hiden 3", "Perhaps you meant: --hidden"),
    ],
)
def test_a_mistake_names_what_was_typed(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told in mistaken(line, capsys)


def test_options_of_other_verbs_are_not_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    said = mistaken("sample x --out y --patern 2:4", capsys)
    assert said.count("--pattern") == 1
    assert "--rate" not in mistaken("sample x --out y --rat 1", capsys)  # of `tickets imp`
    assert "weightspace sample --help" in said


def test_none_and_lists_are_read() -> None:
    command = parse(
        "collect",
        ["collect", "--out", "y", "--lr", "None", "--hidden", "8", "4", "--length", "2it", "--grid.lr", "0.1", "1"],
    )
    assert (command.lr, command.hidden, command.length) == (None, (8, 4), ws.Step.of("2it"))  # pyright: ignore
    assert command.grid.lr == (0.1, 1.0)  # pyright: ignore
    command = parse("fit", ["fit", "x", "--out", "y", "--refine.patterns", "0.3", "2:4"])
    assert list(command.refine.patterns) == [ws.Unstructured(0.3), ws.NM(2, 4)]  # pyright: ignore


@pytest.mark.parametrize("line", ["--help", "tickets --help", "collect --help", "tickets gradual --help", "merge -h"])
def test_help_fits(line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_: os.terminal_size((80, 24)))
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: weightspace")
    assert max(map(len, text.splitlines())) <= 80
    assert ("--body PATH" in text) == (line == "collect --help")  # options of texts are explained once


def test_options_of_texts_are_read_by_every_verb() -> None:
    words = ["train", "x", "--out", "y", "--length", "1ep", "--texts", "book.txt", "--tokens", "9"]
    assert parse("train", words).common.texts.texts == Path("book.txt")  # pyright: ignore
    assert parse("train", words).common.texts.tokens == 9  # pyright: ignore


def test_long_names_keep_their_columns_and_long_lists_end() -> None:
    def build() -> nn.Module:
        return ws.models.MLP((3, *[2] * 20, 3))

    lines = describe_collection(ws.from_state_dict(build(), build)).splitlines()
    assert lines[-1].strip() == "and 18 more tensors"
    assert len([line for line in lines if line.startswith("  ")]) == 25


def test_show_says_what_can_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def build() -> nn.Module:
        return ws.models.MLP((3, 2))

    ws.from_state_dict(build(), build).save(tmp_path / "runs" / "zoo")
    (tmp_path / "net.pt").write_bytes(b"")
    for shown, told in (("runs", "show one of them, "), ("net.pt", "`weightspace import` makes one")):
        assert main(["show", str(tmp_path / shown)]) == 1
        assert told in capsys.readouterr().err
    assert main(["show", str(tmp_path / "runs" / "zoo")]) == 0
    (tmp_path / "empty").mkdir()
    assert main(["show", str(tmp_path / "empty")]) == 1
    assert "it is not a collection" in capsys.readouterr().err
