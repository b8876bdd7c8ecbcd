"""Where a folder comes from, found by fingerprints beside it."""

from pathlib import Path

import pytest

import weightspace as ws
from weightspace.cli.main import main
from weightspace.cli.provenance import provenance


@pytest.fixture(scope="module")
def work(task: ws.Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dense networks, tickets of the last of them, a generator of the first tickets, and samples."""
    from dataclasses import replace

    root = tmp_path_factory.mktemp("chain")
    short = replace(task, recipe=ws.Recipe("2it", 16))
    dense = ws.collect(short, 6, folder=root / "dense")
    tickets = ws.tickets.GradualPruning(density=0.5, length=ws.Step.of("20it"), every=2).find(
        dense[2:], short, folder=root / "tickets"
    )
    model = ws.TicketGenerator(
        align=None, compress=ws.PCA(2), generate=ws.FlowMatching(steps=2, width=4, blocks=1, batch_size=2)
    ).fit(tickets[:3], folder=root / "generator")
    model.sample(2, density=0.5, folder=root / "samples")
    return root


def test_the_tree_leads_from_samples_to_dense_networks(work: Path) -> None:
    tree = provenance(work / "samples")
    assert [row[:2] for row in tree] == [
        ("networks", "samples"),
        ("└─ generator", "generator"),
        ("   └─ networks", "tickets"),
        ("      └─ networks", "dense"),
    ]
    assert tree[0][2].startswith("sample, n 2")
    assert tree[2][2].startswith("tickets Gradual, density 0.5")
    assert tree[3][2].startswith("collect, n 6")


def test_what_is_not_there_is_said(work: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "samples"
    alone.parent.mkdir()
    (work / "samples").rename(alone)
    try:
        (first, second) = provenance(alone)
    finally:
        alone.rename(work / "samples")
    assert first[:2] == ("networks", "samples")
    assert second[:2] == ("└─ generator", "-")
    assert "not found beside it" in second[2]
    saved = ws.Collection.load(work / "dense").save(tmp_path / "saved")
    assert provenance(saved) == [("networks", "saved", "no run: saved, imported or merged")]


def test_show_writes_it_as_a_page(work: Path, tmp_path: Path, capsys) -> None:
    assert main(["show", str(work / "samples"), "--html", str(tmp_path / "page.html")]) == 0
    assert "written to" in capsys.readouterr().out
    text = (tmp_path / "page.html").read_text()
    assert "Where it comes from" in text
    assert "└─ generator" in text
    assert main(["show", str(work / "generator"), "--html", str(tmp_path / "other.html")]) == 1
    assert "leave --html out" in capsys.readouterr().err
