import re
from pathlib import Path

import pytest

import weightspace as ws
from weightspace.errors import InputError, StorageError


@pytest.fixture(scope="module")
def report(tickets: ws.Collection, task: ws.Task) -> ws.Report:
    return ws.evaluate(tickets[6:], task, reference=tickets[:6], others={"<b>odd</b>": tickets[:2]})


def test_the_table_holds_every_arm_and_its_spread(report: ws.Report) -> None:
    text = str(report)
    for arm in report.arms:
        assert re.search(rf"^{re.escape(arm.name)} +{arm.count} ", text, re.M)
    assert f"{report['samples'].mean('accuracy'):.3f} ± {report['samples'].std('accuracy'):.3f}" in text


def test_findings_follow_the_numbers(report: ws.Report, tickets: ws.Collection, task: ws.Task) -> None:
    means = tickets.replace(weights=tickets.weights * 0.5)  # half of every weight: same predictions
    assert any("closer than a new ticket" in line for line in ws.evaluate(means, task, reference=tickets).findings())
    ratio = report["samples"].median("nearest distance") / report["training tickets"].median("nearest distance")
    word = "as far as a new ticket" if ratio >= 1 else "closer than a new ticket"
    assert any(f"{ratio:.2f} times" in line and word in line for line in report.findings())


def test_dense_networks_have_no_figure_of_densities(dense: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    report = ws.evaluate(dense[6:], task, reference=dense[:6])
    report.write(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "accuracy.png", "accuracy_and_distance.png", "report.html", "report.json"
    ]  # fmt: skip
    with pytest.raises(InputError, match="no row 'imp'"):
        report["imp"]
    with pytest.raises(InputError, match="names of the report's own rows"):
        ws.evaluate(dense[6:], task, reference=dense[:6], others={"samples": dense})


def test_saved_equals_loaded(report: ws.Report, tmp_path: Path) -> None:
    report.save(tmp_path / "r.json")
    assert ws.Report.load(tmp_path / "r.json").to_json() == report.to_json()
    assert str(ws.Report.load(tmp_path / "r.json")) == str(report)
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(StorageError, match="damaged"):
        ws.Report.load(tmp_path / "r.json")
    with pytest.raises(StorageError, match="does not exist"):
        ws.Report.load(tmp_path / "absent.json")


def test_the_page_is_self_contained_and_shows_every_figure(report: ws.Report, tmp_path: Path) -> None:
    report.html(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert page.count("data:image/png;base64,") == len(report.plot()) == 3
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "http" not in page
    assert "&lt;b&gt;odd&lt;/b&gt;" in page
    assert "<b>odd</b>" not in page
    assert "prefers-color-scheme: dark" in page
