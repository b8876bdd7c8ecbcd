"""The README's example runs as it stands, and what the documentation names is there."""

import re
from dataclasses import replace
from pathlib import Path

import weightspace as ws
from weightspace.tasks.digits import RECIPE

# The example takes minutes at its own sizes, whose figures are those of experiments/demo/seeds.py.
SMALLER = {
    "digits()": "digits((32, 24), recipe=replace(RECIPE, length=ws.Step(epochs=10)))",
    "n=300": "n=18",
    "sample(100,": "sample(8,",
    "GradualPruning(density=0.1)": "GradualPruning(density=0.1, length=ws.Step(epochs=10))",
    "refine=ws.TaskRefinement()": "generate=ws.FlowMatching(width=32, steps=200), refine=ws.TaskRefinement(steps=50)",
}
WORDS = 450
LINK = re.compile(r"\]\((?!http)([^)#]+)")


def test_the_example_runs_as_written_but_for_its_sizes(root: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    assert example is not None
    code = example[1]
    for written, smaller in SMALLER.items():
        assert code.count(written) == 1
        code = code.replace(written, smaller)
    names: dict = {"replace": replace, "RECIPE": RECIPE}
    exec(compile(code, "README.md", "exec"), names)
    nets, task = names["nets"], names["task"]
    assert len(nets) == 8
    kept = (nets.weights != 0)[:, nets.layout.prunable].sum(1)
    assert (kept == round(0.1 * nets.layout.num_prunable)).all()
    assert names["probabilities"].shape == (len(task.test), 10)
    assert "training tickets" in capsys.readouterr().out
    assert names["report"]["samples"].mean("accuracy") > 0.5  # chance is 0.1


def test_the_readme_is_short_and_shows_the_first_example_of_the_site(root: Path) -> None:
    text = (root / "README.md").read_text()
    assert len(text.split()) <= WORDS
    assert len(re.findall(r"```python", text)) == 1


def test_targets_of_make_exist(root: Path) -> None:
    rules = re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE)
    pages = [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert named >= {"demo", "test", "docs"}
    assert named - set(rules) == set()


def test_links_exist(root: Path) -> None:
    pages = [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").rglob("*.md")]
    links = [(page, target) for page in pages for target in LINK.findall(page.read_text())]
    scripts = {f"{script.stem}.md" for script in (root / "docs" / "tutorials").glob("*.py")}
    generated = {"reference", "changelog.md", *scripts}  # the strict build of the site looks at these
    missing = [
        f"{page.name}: {target}"
        for page, target in links
        if not (page.parent / target).exists() and not generated & set(Path(target).parts)
    ]
    assert len(links) > 50
    assert missing == []


def test_python_in_the_documentation_parses_and_names_what_exists(root: Path) -> None:
    blocks = [
        (page.name, code)
        for page in [root / "README.md", *(root / "docs").rglob("*.md")]
        for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    assert len(blocks) > 20
    missing: set[str] = set()
    for page, code in blocks:
        compile(code, page, "exec")
        for dotted in re.findall(r"\bws((?:\.[A-Za-z_]\w*)+)", code):
            place: object = ws
            for name in dotted.split(".")[1:]:
                if not hasattr(place, name):
                    missing.add(f"{page}: ws{dotted}")
                    break
                place = getattr(place, name)
                if isinstance(place, type) or callable(place):
                    break
    assert missing == set()


def test_the_finder_of_contributing_finds_tickets(root: Path, dense: ws.Collection, task: ws.Task) -> None:
    example = re.search(r"```python\n(.*?)```", (root / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert example is not None
    names: dict = {}
    exec(compile(example[1], "CONTRIBUTING.md", "exec"), names)
    tickets = names["OneShot"](density=0.3).find(dense[:2], task)
    kept = tickets.masks[:, tickets.layout.prunable].sum(1)
    assert (kept == round(0.3 * tickets.layout.num_prunable)).all()
