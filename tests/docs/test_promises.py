"""The page of promises names tests and commands that are there."""

import re
from pathlib import Path

import pytest


def missing(text: str, root: Path) -> list[str]:
    """Tests and modules that a page names and that are not there."""
    tests = re.findall(r"`(tests/[\w/.]+)`", text)
    modules = [name.replace(".", "/") + ".py" for name in re.findall(r"`python -m ([\w.]+)", text)]
    return [name for name in [*tests, *modules] if not (root / name).exists()]


def test_every_test_and_command_of_the_page_is_there(root: Path) -> None:
    text = (root / "docs" / "promises.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^\| \*\*", text, re.MULTILINE)) >= 9
    assert missing(text, root) == []
    assert "promises.md" in (root / "mkdocs.yml").read_text()
    assert "docs/promises.md" in (root / "README.md").read_text()
    assert "docs/promises.md" in (root / "SECURITY.md").read_text()


@pytest.mark.parametrize("text", ["`tests/no_such_test.py`", "`python -m experiments.nothing`"])
def test_a_missing_one_is_seen(text: str, root: Path) -> None:
    assert len(missing(text, root)) == 1
