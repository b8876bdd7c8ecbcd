"""The README's first example runs as it stands, and says the truth."""

import re
from pathlib import Path

# The example takes minutes at its own sizes, whose figures are those of experiments/demo/seeds.py.
SMALLER = {
    "n=300": "n=30", "sample(100,": "sample(12,",
    "width=256, steps=4_000": "width=256, steps=400", "task, steps=4_000": "task, steps=100",
}  # fmt: skip


def test_the_first_example_runs_as_written_but_for_its_sizes(root: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    found = re.search(r"```python\n(.*?)```", (root / "README.md").read_text(), re.S)
    assert found is not None
    code = found[1]
    for written, smaller in SMALLER.items():
        assert code.count(written) == 1
        code = code.replace(written, smaller)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    nets, task = names["nets"], names["task"]
    assert len(nets) == 12
    kept = (nets.weights != 0)[:, nets.layout.prunable].sum(1)
    assert (kept == round(0.1 * nets.layout.num_prunable)).all()
    assert names["probabilities"].shape == (len(task.test), 10)
    assert "training tickets" in capsys.readouterr().out
    assert names["report"]["samples"].mean("accuracy") > 0.5  # chance is 0.1


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
