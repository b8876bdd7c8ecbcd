"""The README's first example runs as it stands, and says the truth."""

import re
from pathlib import Path


def test_the_first_example_runs_as_written(root: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", (root / "README.md").read_text(), re.S)
    assert code is not None
    names: dict = {}
    exec(compile(code[1], "README.md", "exec"), names)
    nets, task = names["nets"], names["task"]
    assert len(nets) == 100
    kept = (nets.weights != 0)[:, nets.layout.prunable].sum(1)
    assert (kept == round(0.1 * nets.layout.num_prunable)).all()
    assert names["probabilities"].shape == (len(task.test), 10)
    assert "training tickets" in capsys.readouterr().out
    # The figure that the demo promises, with room for other machines' rounding.
    accuracy = names["report"]["samples"].mean("accuracy")
    assert accuracy > 0.945


def test_links_and_commands_exist(root: Path) -> None:
    text = (root / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (root / target).exists(), target
    rules = re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.M)
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M):
        assert target in rules, target


def test_links_of_the_documentation_exist(root: Path) -> None:
    links = [(page, target) for page in (root / "docs").glob("*.md") for target in
             re.findall(r"\]\((?!http)([^)#]+)", page.read_text())]  # fmt: skip
    assert len(links) > 50
    assert [f"{page.name}: {target}" for page, target in links if not (page.parent / target).exists()] == []
