"""Every experiment explains itself: a question and its command come first, and `--help` describes every setting."""

import ast
import contextlib
import importlib
import inspect
import io
from pathlib import Path

import pytest
import tyro

ROOT = Path(__file__).resolve().parents[2]
WORDS = {"seed", "seeds", "out", "data_root", "results", "figures"}  # what these words mean is the same everywhere


def scripts() -> list[str]:
    """Modules that can be run; the others are what these share."""
    paths = sorted((ROOT / "experiments").glob("*/*.py"))
    runs = [path for path in paths if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]
    return [f"experiments.{path.parent.name}.{path.stem}" for path in runs]


def source(name: str) -> Path:
    return ROOT.joinpath(*name.split(".")).with_suffix(".py")


def faults(text: str, name: str) -> list[str]:
    """What a script's docstring and imports lack."""
    doc = ast.get_docstring(ast.parse(text)) or ""
    found = []
    if not doc.split("\n\n")[0].rstrip().endswith("?"):
        found.append("its first sentence is no question")
    if f"python -m {name}" not in doc:
        found.append("its command is missing")
    if "sys.path" in text:
        found.append("it changes sys.path")
    return found


@pytest.mark.parametrize("name", scripts())
def test_a_script_starts_with_its_question_and_its_command(name: str) -> None:
    assert faults(source(name).read_text(encoding="utf-8"), name) == []


def test_a_script_without_question_or_command_is_seen() -> None:
    text = '"""The figures.\n\npython experiments/x.py\n"""\nimport sys\nsys.path.append(".")\n'
    assert len(faults(text, "experiments.demo.x")) == 3


def test_the_list_of_experiments_has_every_script_with_its_question() -> None:
    lines = (ROOT / "experiments/README.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ") and "`python -m " in line]
    listed = {command.strip("`").split()[2]: question for question, command, _, _ in rows}
    questions = {name: " ".join(docstring(name).split("\n\n")[0].split()) for name in scripts()}
    assert listed == questions
    tables = {name for row in rows for name in row[3].split(", ")} - {"–"}
    there = {
        path.relative_to(ROOT / "experiments/results").as_posix() for path in ROOT.glob("experiments/results/*/*.csv")
    }
    assert tables == there - {"benchmarks/collections.csv"}


def docstring(name: str) -> str:
    return ast.get_docstring(ast.parse(source(name).read_text(encoding="utf-8"))) or ""


@pytest.mark.parametrize("name", scripts())
def test_help_describes_every_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    main = importlib.import_module(name).main
    written = io.StringIO()
    with contextlib.redirect_stdout(written), pytest.raises(SystemExit) as ended:
        tyro.cli(main, args=["--help"])
    assert ended.value.code == 0
    for argument in (a for a in main.__annotations__ if a != "return"):
        assert argument.replace("_", "-") in written.getvalue().lower()
        assert f"\n    {argument}: " in inspect.getdoc(main), f"{argument} has no line under Args"


@pytest.mark.parametrize("name", scripts())
def test_shared_words_have_shared_types(name: str) -> None:
    types = {"seed": {int}, "seeds": {tuple[int, ...]}, "out": {Path}, "results": {Path}, "figures": {Path}}
    types["data_root"] = {Path | None}
    notes = importlib.import_module(name).main.__annotations__
    assert {word: notes[word] for word in WORDS & set(notes) if notes[word] not in types[word]} == {}
