"""Every verb of the command line: help for every option, and the same exit codes."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from weightspace.cli.main import VERBS, main


def _verbs(verbs: Mapping[str, Any] = VERBS, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, kind in verbs.items():
        if isinstance(kind, Mapping):
            yield from _verbs(kind, (*before, name))
        else:
            yield (*before, name)


def _run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    capsys.readouterr()
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    out, err = capsys.readouterr()
    return code, out + err


_ALL = [pytest.param(verb, id=" ".join(verb)) for verb in _verbs()]
_EXTRA = {
    "train": ["--length", "1ep"], "control": ["--kind", "rewound"], "evaluate": ["--training", "/nowhere"],
    "import": ["--model", "MLP", "--arguments", "{sizes: [2, 2]}"], "bayes": ["--task", "/nowhere"],
    "collect": ["--task", "/nowhere"],
    "adapt merge": ["--base", "/nowhere"], "adapt apply": ["--base", "/nowhere"],
    "adapt rows": ["--task", "iris", "--tensor", "embedding.weight", "--count", 2],
}  # fmt: skip


@pytest.mark.parametrize("verb", _ALL)
def test_help_names_every_option_with_a_text_and_its_default(verb: tuple[str, ...], capsys) -> None:
    code, text = _run(capsys, *verb, "--help")
    assert code == 0
    flat = " ".join(re.sub(r"[│|╭╮╰╯─]", " ", text).split())
    options = re.split(r" (?=--[a-z])", flat)
    described = [part for part in options if re.search(r"\(default: |\(required\)", part)]
    names = set(re.findall(r"(?<!\S)--([a-z.-]+)", " ".join(line[:30] for line in text.splitlines())))
    assert {"device", "threads", "data-root", "factory", "import-from", "config"} <= names
    assert len(described) >= 6
    for part in described:
        assert re.search(r"[A-Z`][^()]*", part), part


@pytest.mark.parametrize("verb", _ALL)
def test_an_unknown_option_is_a_wrong_command_line(verb: tuple[str, ...], capsys) -> None:
    code, text = _run(
        capsys, *verb, "x", "--out", "y", *_EXTRA.get(" ".join(verb), _EXTRA.get(verb[-1], [])), "--no-such-option", 3
    )
    assert code == 2
    assert "--no-such-option" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("verb", _ALL)
def test_a_missing_folder_has_a_remedy_and_no_traceback(verb: tuple[str, ...], tmp_path: Path, capsys) -> None:
    folder = [] if verb[-1] in ("collect", "bayes") else [tmp_path / "absent"]
    out = [] if verb[-1] == "show" else ["--out", tmp_path / "out"]
    code, text = _run(capsys, *verb, *folder, *out, *_EXTRA.get(" ".join(verb), _EXTRA.get(verb[-1], [])))
    assert code == 1
    assert re.search(r"give|there are|run it again", text), text
    assert "Traceback" not in text
    assert not (tmp_path / "out").exists()


def test_the_same_command_twice_returns_at_once(tmp_path: Path, capsys) -> None:
    words = ["collect", "--task", "iris", "--hidden", 4, "--n", 2, "--length", "1ep", "--out", tmp_path / "a"]
    for command in (words, ["tickets", "edge-popup", tmp_path / "a", "--out", tmp_path / "b"]):
        assert _run(capsys, *command)[0] == 0
        folder = command[-1]
        before = {p: p.stat().st_mtime_ns for p in Path(str(folder)).iterdir() if p.name != ".lock"}
        assert _run(capsys, *command)[0] == 0
        assert {p: p.stat().st_mtime_ns for p in Path(str(folder)).iterdir() if p.name != ".lock"} == before
