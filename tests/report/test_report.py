import re
from dataclasses import replace
from pathlib import Path

import pytest

import weightspace as ws
from tests.evaluation.cases import few_points
from weightspace.errors import InputError, StorageError


@pytest.fixture(scope="module")
def report(tickets: ws.Collection, task: ws.Task) -> ws.Report:
    with few_points():
        return ws.evaluate(tickets[6:], task, training=tickets[:6], others={"<b>odd</b>": tickets[:2]}, dropout=None)


def test_the_table_holds_every_arm_and_its_spread(report: ws.Report) -> None:
    text = str(report)
    for group in report.groups:
        assert re.search(rf"^{re.escape(group.name)} +{group.count} ", text, re.M)
    assert f"{report['samples'].mean('accuracy'):.3f} ± {report['samples'].std('accuracy'):.3f}" in text
    said = " ".join(text.split())
    for verdict in report.verdicts:
        assert f"[{verdict.outcome}] {verdict.claim}: {verdict.words}" in said
    with pytest.raises(InputError, match="no row 'imp'"):
        report["imp"]
    with pytest.raises(InputError, match="no verdict on 'magic'"):
        report.verdict("magic")
    with pytest.raises(InputError, match="no ensemble is called 'imp'"):
        report.ensemble("imp")


def test_text_fits_a_terminal_and_says_what_it_leaves_out(report: ws.Report) -> None:
    table = report.tables()[0]
    assert max(map(len, str(report).splitlines())) <= 80
    header, said = table.text().splitlines()[0], " ".join(table.text().split())
    others = said.rpartition("(the page also has: ")[2].rstrip(")").split(", ")
    assert header.split()[:2] == ["networks", "n"]
    assert "accuracy" in header
    assert "ECE" in others
    assert all((name in header) != (name in others) for name in table.rows[0])
    narrow = replace(table, rows=[row[:3] for row in table.rows])  # nothing is left out, so nothing is said
    assert "the page" not in narrow.text()


def test_angles_stand_beside_distances(report: ws.Report) -> None:
    (header, *rows) = report.tables()[0].rows
    at = header.index("angle")
    assert header[at - 1] == "distance"
    for group, row in zip(report.groups, rows, strict=True):
        angle = report.relative_angle(group)
        assert angle is not None
        assert row[at] == f"{angle:.2f}"
    assert report.relative_angle(report[report.reference]) == pytest.approx(1)
    copy = report["permuted copy"]
    assert report.relative_angle(copy) == pytest.approx(0, abs=1e-4)
    # A report from before angles were measured says so.
    older = [replace(group, per_network=replace(group.per_network, nearest_angle=None)) for group in report.groups]
    assert all(row[at] == "-" for row in replace(report, groups=older).tables()[0].rows[1:])
    labels = {text.get_text() for text in report.plot()[0].figure.legends[0].get_texts()}
    assert "by angle (hollow)" in labels


def test_words_follow_the_numbers(report: ws.Report, tickets: ws.Collection, task: ws.Task) -> None:
    halves = tickets.replace(weights=tickets.weights * 0.5)  # half of every weight: nearly the same predictions
    with few_points():
        copied = ws.evaluate(halves, task, training=tickets, dropout=None)
    assert copied.verdict("not copies").outcome == "fail"
    angle = copied.relative_angle(copied["samples"])  # the same direction
    assert angle is not None
    assert angle < 1e-3 < copied.relative_distance(copied["samples"])
    assert f"{copied.relative_distance(copied['samples']):.2f} times" in copied.verdict("not copies").words
    assert f"{report.relative_distance(report['samples']):.2f} times" in report.verdict("not copies").words
    assert f"{report['samples'].mean('accuracy'):.4f}" in report.verdict("better than their tickets").words


def test_dense_networks_have_no_figures_of_masks(dense: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    with few_points():
        report = ws.evaluate(dense[6:], task, training=dense[:6], dropout=None)
    report.write(tmp_path)
    names = [
        "accuracy",
        "accuracy_and_novelty",
        "codes",
        "confusion",
        "filters",
        "lines_between_networks",
        "reliability",
        "shift",
        "spectrum",
    ]
    expected = [f"{name}.{kind}" for name in names for kind in ("png", "svg")] + [
        "report.html",
        "report.json",
        "manifest.json",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(expected)
    with pytest.raises(InputError, match="names of the report's own rows"):
        ws.evaluate(dense[6:], task, training=dense[:6], others={"samples": dense})


def test_saved_equals_loaded(report: ws.Report, tmp_path: Path) -> None:
    report.save(tmp_path / "r.json")
    loaded = ws.Report.load(tmp_path / "r.json")
    assert loaded.to_json() == report.to_json()
    assert str(loaded) == str(report)
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(StorageError, match="damaged"):
        ws.Report.load(tmp_path / "r.json")
    with pytest.raises(StorageError, match="does not exist"):
        ws.Report.load(tmp_path / "absent.json")


def test_a_report_of_another_shape_is_refused(report: ws.Report, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    report.save(path)
    path.write_text(path.read_text().replace('"family"', '"clan"'))
    with pytest.raises(StorageError, match="damaged"):
        ws.Report.load(path)


def test_the_page_is_self_contained_and_shows_every_figure(report: ws.Report, tmp_path: Path) -> None:
    report.html(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    pictures = report.plot()
    assert page.count("data:image/png;base64,") == len(pictures) == 11
    for picture in pictures:
        assert f"<b>{picture.name}</b>" in page
        assert "Good" in picture.caption or "means that" in picture.caption
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "http" not in page
    assert "&lt;b&gt;odd&lt;/b&gt;" in page
    assert "<b>odd</b>" not in page
    assert "prefers-color-scheme: dark" in page
    for verdict in report.verdicts:
        assert f'<span class="badge">{verdict.outcome}</span><b>{verdict.claim}</b>' in page


def test_the_result_comes_first(report: ws.Report, tmp_path: Path) -> None:
    """A sentence, the outcomes and a picture lead; how it was measured and the tables follow."""
    line = report.headline()
    assert " ".join(str(report).partition("\n\n")[0].split()) == line
    report.html(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    parts = [f'<p class="lead">{line}', 'class="badges"', "<img", "What it says", 'class="verdicts"', "Every row was"]
    order = [page.index(part) for part in [*parts, "<table"]]
    assert order == sorted(order)
    first = page[order[1] : order[2]]
    for verdict in report.verdicts:
        assert (
            f'<li class="{verdict.outcome}"><span class="badge">{verdict.outcome}</span>{verdict.claim}</li>' in first
        )
    assert page.index(f'alt="{report.plot()[1].name}"') > page.rindex("</table>")  # the other figures


def test_the_sentence_is_computed_from_the_report(report: ws.Report) -> None:
    samples, tickets = report["samples"], report["training tickets"]
    parts = report.headline().removesuffix(".").split("; ")
    mine, theirs = (f"{one.mean('accuracy'):.3f} ± {one.std('accuracy'):.3f}" for one in (samples, tickets))
    assert parts[0] == f"{samples.count} samples of density 0.20: accuracy {mine} (tickets {theirs})"
    both = (report.ensemble(one.name).metrics for one in (samples, tickets))
    figures = [f"accuracy {one.accuracy:.3f}, NLL {one.nll:.3f}" for one in both]
    assert parts[-1] == f"as an ensemble: {figures[0]} (tickets {figures[1]})"

    def told(**changed: str) -> list[str]:
        outcomes = {claim.replace("_", " "): outcome for claim, outcome in changed.items()}
        all_pass = [replace(one, outcome=outcomes.get(one.claim, "pass")) for one in report.verdicts]
        return replace(report, verdicts=all_pass).headline().split("; ")[1:4]

    assert told() == ["new: yes", "varied: yes", "better: yes"]
    assert told(not_copies="fail", not_averages="open") == ["new: no", "varied: yes", "better: yes"]
    assert told(not_averages="open", no_collapse="fail") == ["new: open", "varied: no", "better: yes"]
    assert told(better_than_their_tickets="open", a_better_ensemble="fail")[2] == "better: open"
    assert [one for one in replace(report, verdicts=[]).headline().split("; ") if one.startswith("new")] == []


def test_runs_side_by_side(report: ws.Report, tmp_path: Path) -> None:
    other = replace(
        report, samples="held", groups=[replace(a, name="held") if a.name == "samples" else a for a in report.groups]
    )
    comparison = ws.Comparison({"one": report, "two": other})
    samples = report[report.samples]
    summary, verdicts = comparison.tables()
    assert [row[0] for row in summary.rows] == ["run", "one", "one: training tickets", "two", "two: training tickets"]
    assert summary.rows[1][1:] == summary.rows[3][1:]
    assert verdicts.rows[0] == ["claim", "one", "two"]
    assert [row[0] for row in verdicts.rows[1:]] == [verdict.claim for verdict in report.verdicts]
    assert {outcome for row in verdicts.rows[1:] for outcome in row[1:]} <= {"pass", "fail", "open"}
    comparison.html(tmp_path / "c.html")
    page = (tmp_path / "c.html").read_text()
    assert "side by side" in page
    assert page.index(comparison.headline()[:40]) < page.index("<img") < page.index("not copies") < page.index("<table")
    assert max(map(len, str(comparison).splitlines())) <= 80
    nothing = replace(samples.per_network, scores={**samples.per_network.scores, "accuracy": [0.0] * samples.count})
    weak = replace(
        report, groups=[replace(samples, per_network=nothing) if one is samples else one for one in report.groups]
    )
    ordered = ws.Comparison({"weak": weak, "strong": report}).headline()
    assert ordered.index("strong") < ordered.index("weak")
    assert "not copies" in str(comparison)
    with pytest.raises(InputError, match="at least two"):
        ws.Comparison({"one": report})
    with pytest.raises(InputError, match="of one task"):
        ws.Comparison({"one": report, "two": replace(report, task="mnist")})


def test_all_files_have_the_same_bytes_in_every_run(report: ws.Report, tmp_path: Path) -> None:
    report.write(tmp_path / "a")
    ws.Report.load(tmp_path / "a" / "report.json").write(tmp_path / "b")  # what was loaded is drawn alike
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(names) == 11 * 2 + 3  # the page, the figures' data and the manifest
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    report.plot()[1].figure.savefig(
        tmp_path / "plain.svg"
    )  # the control: matplotlib alone writes date and random names
    assert (tmp_path / "plain.svg").read_bytes() != (tmp_path / "a" / "accuracy.svg").read_bytes()


def test_a_report_on_the_hub(report: ws.Report, tmp_path: Path) -> None:
    folder = ws.hub.write(report, tmp_path / "shared", name="me/report")
    card = (folder / "README.md").read_text()
    assert 'ws.hub.pull("me/report")' in card
    assert all(f"| {verdict.claim} | {verdict.outcome} |" in card for verdict in report.verdicts)
    again = ws.hub.pull(folder)
    assert isinstance(again, ws.Report)
    assert again.to_json() == report.to_json()
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
