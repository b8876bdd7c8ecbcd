"""The examples of guides run as they are written, one after another."""

import re
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

import weightspace as ws

GUIDES = [
    "tasks.md",
    "language-models.md",
    "language.md",
    "own-networks.md",
    "own-loop.md",
    "adapt.md",
    "control.md",
    "ecosystem.md",
]


def code_of(page: Path) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))


@pytest.mark.parametrize("name", GUIDES)
def test_a_guides_examples_run(name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "own-loop.md":
        pytest.importorskip("lightning.pytorch")
    if name == "ecosystem.md":
        pytest.importorskip("torchmetrics")
    code = code_of(root / "docs" / "guides" / name)
    assert len(code.splitlines()) > 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what the library says of wrapped checkpoints and dropout
        warnings.simplefilter("ignore", FutureWarning)  # of Lightning
        exec(compile(code, name, "exec"), {"__name__": "guide"})


def test_networks_that_draw(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = code_of(root / "docs" / "guides" / "pictures.md")
    for long, short in (
        ("n = 1200", "n = 12"),
        ("images[:n], unseen=images[n:]", 'images[:n], recipe=ws.Recipe("2it", batch_size=64), unseen=images[n:40]'),
        ("PCA(64)", "PCA(4)"),
        ("steps=3000, validation_fraction=0.02", "steps=20, width=8"),
        ("sample(300", "sample(12"),
    ):  # the same lines, on fewer pictures
        assert long in code
        code = code.replace(long, short)
    names: dict[str, Any] = {}
    exec(compile(code, "pictures.md", "exec"), names)
    assert names["drawn"].shape == (12, 1, 32, 32)
    assert {one.name for one in names["report"].sets} >= {"samples", "threes", "Gaussian"}
    assert (tmp_path / "runs/drawing/pictures.html").exists()
    assert names["sparse"].masks.unique(dim=0).shape[0] == 1


def test_adapters_in_one_form(root: Path) -> None:
    page = (root / "docs" / "guides" / "alignment.md").read_text()
    section = page[page.index("### Adapters in one form") :]
    (code,) = re.findall(r"```python\n(.*?)```", section[: section.index("\n## ")], re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "alignment.md", "exec"), names)
    assert (names["copies"].weights - names["adapters"].weights).norm() > 1
    assert (names["same"].weights - names["form"].weights).norm() < 1e-5
    assert names["codes"].shape == (6, 4)


def test_networks_for_tasks_nobody_trained(root: Path) -> None:
    page = (root / "docs" / "guides" / "generator.md").read_text()
    section = page[page.index("## Networks for tasks nobody trained") :]
    code = "\n".join(re.findall(r"```python\n(.*?)```", section[: section.index("\n## ")], re.DOTALL))
    for whole, small in {"(200, 4)": "(80, 4)", "n=200": "n=80", "100it": "40it", "steps=400": "steps=200"}.items():
        assert whole in code
        code = code.replace(whole, small)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(compile(code, "generator.md", "exec"), names)
    assert names["right"] > 0.75  # chance is 0.5
    assert names["network"].densities[0] == pytest.approx(0.5, abs=0.02)


def test_the_regression_with_bayesian_networks_runs(root: Path) -> None:
    page = (root / "docs" / "guides" / "bayes.md").read_text()
    section = page[page.index("## Regression and yes-or-no targets") :]
    (code,) = re.findall(r"```python\n(.*?)```", section[: section.index("\n## ")], re.DOTALL)
    short = code.replace("40ep", "3it")  # the training alone is shortened
    assert short != code
    names: dict[str, object] = {}
    exec(compile(f"import weightspace as ws\nfrom weightspace import bayes\n{short}", "bayes.md", "exec"), names)
    assert names["predicted"].mean.shape == (100, 1)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    "kind",
    [ws.TicketGenerator, ws.FlowMatching, ws.TaskRefinement, ws.DeepWeightFlow, ws.GateMask, ws.PosteriorMask],
    ids=lambda kind: kind.__name__,
)
def test_the_guide_to_generators_names_every_setting(kind: type, root: Path) -> None:
    assert missing([one.name for one in fields(kind)], root) == []


def test_a_setting_that_no_guide_names_is_seen(root: Path) -> None:
    assert missing(["steps", "stepps"], root) == ["stepps"]


def missing(settings: list[str], root: Path) -> list[str]:
    text = (root / "docs/guides/generator.md").read_text(encoding="utf-8")
    return [name for name in settings if not re.search(rf"`{name}`|\b{name}=", text)]
