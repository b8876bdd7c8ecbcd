"""The pages of results say what the tables say."""

import shutil
from pathlib import Path

import pytest

from experiments.common import overview, pages

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments/results"


def test_pages_are_up_to_date() -> None:
    pages.main(check=True, pages=ROOT / "docs/results", results=RESULTS)


def test_every_page_has_a_template_and_stands_in_the_index() -> None:
    written = {path.name for path in (ROOT / "docs/results").glob("*.md")}
    assert written == {path.name for path in pages.TEMPLATES.glob("*.md")}
    index = (ROOT / "docs/results/index.md").read_text(encoding="utf-8")
    assert {name for name in written if f"({name})" not in index} == {"index.md"}


def test_every_table_is_on_a_page_or_said_to_be_none() -> None:
    shown = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs/results").glob("*.md"))
    tables = {path.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("*.csv")}
    assert {name for name in tables if f"experiments/results/{name}" not in shown} == {
        "generator/tuning.csv"
    }  # NOTES.md


@pytest.mark.parametrize("table", ["generator/digits", "tickets/lottery", "benchmarks/training"])
def test_a_changed_cell_is_seen(table: str, tmp_path: Path) -> None:
    """The negative control of the check."""
    results = tmp_path / "results"
    shutil.copytree(RESULTS, results)
    pages.main(check=True, pages=ROOT / "docs/results", results=results)
    path = results / f"{table}.csv"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    column = {"generator/digits": "accuracy", "tickets/lottery": "stops at", "benchmarks/training": "loop ms"}[table]
    cells = lines[1].split(",")
    at = lines[0].strip().split(",").index(column)
    cells[at] = str(float(cells[at]) + 1)
    path.write_text("".join([lines[0], ",".join(cells), *lines[2:]]), encoding="utf-8")
    with pytest.raises(SystemExit, match="out of date"):
        pages.main(check=True, pages=ROOT / "docs/results", results=results)


def rows(*accuracies: float) -> list[dict[str, str]]:
    return [{"accuracy": str(a), "std": "0.5", "none": "", "n": "8000", "kind": "a"} for a in accuracies]


@pytest.mark.parametrize(
    ("accuracies", "spec", "text"),
    [
        ((0.5,), "accuracy | .3f", "0.500"),
        ((0.25, 0.75), "accuracy | .2f", "0.50 ± 0.35"),
        ((0.25, 0.75), "accuracy | .1%", "50.0 ± 35.4"),
        ((0.25, 0.75), "accuracy | to g", "0.25 to 0.75"),
        ((0.25, 0.75), "accuracy | #", "2"),
        ((0.25,), "accuracy ± std | +.2f", "+0.25 ± 0.50"),
        ((0.25,), "accuracy ± none | .2f", "0.25"),
        ((0.25, 0.75), "n | ,d", "8,000"),
        ((0.25, 0.75), "kind | s", "a"),
        ((float("nan"),), "accuracy | .3f", "–"),
    ],
)
def test_cells(accuracies: tuple[float, ...], spec: str, text: str) -> None:
    assert pages.cell(rows(*accuracies), spec) == text


def test_text_that_differs_in_one_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="several values"):
        pages.cell(rows(0.25, 0.75), "accuracy | s")


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("networks,accuracy\nsamples,0.5\n", encoding="utf-8")
    source = pages.Source(tmp_path)
    assert source.value("x", "accuracy | .1f", {"networks": "samples"}) == "0.5"
    with pytest.raises(ValueError, match="no row where"):
        source.value("x", "accuracy | .1f", {"networks": "tickets"})


def test_the_figure_of_the_readme_is_drawn_from_the_tables(tmp_path: Path) -> None:
    overview.main(results=RESULTS, figures=tmp_path)
    assert (tmp_path / "overview.png").stat().st_size > 50_000
    with pytest.raises(FileNotFoundError):
        overview.main(results=tmp_path, figures=tmp_path)
