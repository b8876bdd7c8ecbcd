"""The report on networks before and after alignment."""

import math
from pathlib import Path

import pytest

import weightspace as ws
from weightspace.align import (
    Star,
    WeightMatching,
)
from weightspace.errors import InputError
from weightspace.evaluation import alignment_report


def test_the_report_compares_before_and_after(tickets: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    aligned = WeightMatching().fit(tickets).transform(tickets)
    report = alignment_report(tickets, aligned, task, networks=3, points=3)
    before, after = report.sides
    assert after.residual_share < before.residual_share
    assert len(after.barriers) == 3
    assert math.isfinite(after.barrier)
    report.write(tmp_path)
    page = (tmp_path / "alignment.html").read_text()
    assert page.count("data:image/png") == 4
    assert "Before and after" in page
    assert (tmp_path / "alignment.json").exists()
    assert page.index(report.headline()[:30]) < page.index("<img") < page.index("<table")
    assert f"{report.verdicts()[0].outcome}</span>one basin" in page
    assert "aligned" in str(report)
    assert max(map(len, str(report).splitlines())) <= 80
    with pytest.raises(InputError, match="same networks"):
        alignment_report(tickets, aligned[:2], task)
    with pytest.raises(InputError, match="at least two"):
        alignment_report(tickets[[0]], aligned[[0]], task)


def test_the_report_tells_a_star_and_what_failed(dense: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    star = WeightMatching(population=Star(2)).fit(dense).transform(dense)
    report = alignment_report(dense, star, task, networks=4, points=1, reference=2, settings="Aligned to network 2.")
    assert report.centre is not None
    assert any("nobody aligned to each other" in line for line in report.findings())
    report.write(tmp_path)
    assert "Aligned to network 2." in (tmp_path / "alignment.html").read_text()
    same = dense[[0, 0, 0]]
    again = alignment_report(same, same, task, networks=3, points=1)
    assert any("already" in line for line in again.findings())
    assert again.verdicts()[0].outcome == "pass"
    failed = alignment_report(dense, dense, task, networks=4, points=1)
    assert any("Not in one basin" in line for line in failed.findings())
    assert failed.verdicts()[0].outcome == "fail"
    assert "not one basin" in failed.headline()
