"""Do the pages of results say what the tables say?

    python -m experiments.common.pages             (seconds; writes docs/results/*.md)
    python -m experiments.common.pages --check     (fails when a page is out of date)

Writes the pages, or checks them. Each page has a template in experiments/common/templates: text, with tables and single
figures that are filled in from experiments/results. A cell names a column and a format, such as "accuracy | .3f": the
mean over the rows of its group, ± their standard deviation where they differ. "accuracy ± std | .1%" takes both from
the table itself. Formats: Python's for numbers (".1%" is percent without the sign), "s" for text, "#" to count
different values, and "to g" for smallest to largest.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import tyro

from experiments.common import tables
from weightspace.storage.files import make_folder, write_text

TEMPLATES = Path(__file__).parent / "templates"
SITE = TEMPLATES / "site"  # pages that are not of results alone
PAGES = Path("docs/results")
NOTE = "<!-- Written by `python -m experiments.common.pages` from experiments/results. Edit {template} instead. -->\n\n"
NOTHING = "–"

Rows = list[dict[str, str]]


def main(check: bool = False, pages: Path = PAGES, results: Path = tables.RESULTS) -> None:
    """Write the pages of results, or check them.

    Args:
        check: Pages are compared with the tables and left as they are; one that differs is an error.
        pages: Folder of the pages.
        results: Folder of the result tables.
    """
    stale: list[str] = []
    found = [(template, pages / template.name) for template in sorted(TEMPLATES.glob("*.md"))]
    found += [(template, pages.parent / template.name) for template in sorted(SITE.glob("*.md"))]
    for template, page in found:
        text = render(template, results)
        if check:
            if not page.exists() or page.read_text(encoding="utf-8") != text:
                stale.append(str(page))
        else:
            make_folder(page.parent)
            write_text(page, text)
    if stale:
        raise SystemExit(f"out of date: {', '.join(stale)}; run `python -m experiments.common.pages`")


def render(template: Path, results: Path) -> str:
    """A page's text."""
    source = Source(results)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    environment.filters["combine"] = lambda one, other: {**one, **other}
    environment.globals.update(table=source.table, pivot=source.pivot, value=source.value)
    name = f"experiments/common/templates/{template.relative_to(TEMPLATES).as_posix()}"
    return NOTE.format(template=name) + environment.from_string(template.read_text(encoding="utf-8")).render()


@dataclass(frozen=True)
class Source:
    """Tables of results, from which templates take tables and figures.

    Args:
        results: Folder of the result tables.
    """

    results: Path

    def rows(self, name: str, where: Mapping[str, object] | None) -> Rows:
        """Rows of a table with these values.

        Raises:
            ValueError: No row has them.
        """
        rows = tables.read(self.results / f"{name}.csv")
        for column, wanted in (where or {}).items():
            accepted = {number(str(one)) for one in (wanted if isinstance(wanted, list) else [wanted])}
            rows = [row for row in rows if number(row[column]) in accepted]
        if not rows:
            raise ValueError(f"{name}.csv has no row where {where}")
        return rows

    def value(self, name: str, spec: str, where: Mapping[str, object] | None = None) -> str:
        """One figure, for running text."""
        return cell(self.rows(name, where), spec)

    def table(
        self,
        name: str,
        columns: Mapping[str, str],
        by: Sequence[str] = ("networks",),
        where: Mapping[str, object] | None = None,
        keep: Sequence[str] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> str:
        """A table with one line for each group of rows.

        Args:
            name: Table of results, such as "generator/digits".
            columns: Cell for each heading.
            by: Columns that say which rows belong together.
            where: Values that rows must have; a list holds several values of one column.
            keep: Values of the first column of `by` to show, in this order; None shows all, in the table's order.
            names: Words to show in place of a text.
        """
        groups = grouped(self.rows(name, where), by)
        if keep is not None:
            if missing := set(keep) - {key[0] for key in groups}:
                raise ValueError(f"{name}.csv has no {by[0]} {sorted(missing)}")
            groups = {key: groups[key] for wanted in keep for key in groups if key[0] == wanted}
        lines = [[shown(cell(rows, spec), names) for spec in columns.values()] for rows in groups.values()]
        return markdown(list(columns), lines, name)

    def pivot(
        self,
        name: str,
        rows: Sequence[str],
        columns: str,
        value: str,
        where: Mapping[str, object] | None = None,
        keep: Sequence[object] | None = None,
        lines: Sequence[str] | None = None,
        extra: Mapping[str, str] | None = None,
        names: Mapping[str, str] | None = None,
        star: str | None = None,
    ) -> str:
        """A table with a line for each value of one column and a row of cells for the values of another.

        Args:
            name: Table of results.
            rows: Columns whose values are the lines.
            columns: Column whose values are the headings.
            value: Cell.
            where: Values that rows must have.
            keep: Values of `columns` to show, in this order; None shows all.
            lines: Values of the first column of `rows` to show, in this order; None shows all.
            extra: Further cells of a line, each over all its rows.
            names: Words to show in place of a text, in lines and headings.
            star: Column that puts an asterisk to a cell when it is above zero.
        """
        selected = self.rows(name, where)
        headings = [str(one) for one in keep] if keep else list(dict.fromkeys(row[columns] for row in selected))
        groups = grouped(selected, rows)
        if lines is not None:
            groups = {key: groups[key] for wanted in lines for key in groups if key[0] == wanted}
        table: list[list[str]] = []
        for key, group in groups.items():
            cells: list[str] = []
            for heading in headings:
                here = [row for row in group if near(row[columns], heading)]
                mark = " *" if star and any(float(row[star]) > 0 for row in here) else ""
                cells.append(cell(here, value) + mark if here else NOTHING)
            if set(cells) != {NOTHING}:
                more = (cell(group, spec) for spec in (extra or {}).values())
                table.append([shown(text, names) for text in (*map(short, key), *cells, *more)])
        return markdown([shown(short(one), names) for one in (*rows, *headings, *(extra or {}))], table, name)


def cell(rows: Rows, spec: str) -> str:
    """The text of a cell.

    Raises:
        ValueError: A format for text meets rows that differ.
    """
    column, _, form = (part.strip() for part in spec.partition("|"))
    name, _, spread = (part.strip() for part in column.partition(" ± "))
    texts = list(dict.fromkeys(row[name] for row in rows))
    if form == "#":
        return str(len(texts))
    if form == "s":
        if len(texts) > 1:
            raise ValueError(f"{name} has several values in one cell: {', '.join(texts)}")
        return texts[0] or NOTHING
    values = [value for value in map(as_float, (row[name] for row in rows)) if math.isfinite(value)]
    if not values:
        return NOTHING
    if form.startswith("to "):
        low, high = (formatted(one, form.removeprefix("to ")) for one in (min(values), max(values)))
        return low if low == high else f"{low} to {high}"
    if spread:
        (row,) = rows
        half = f" ± {formatted(float(row[spread]), form.lstrip('+'))}" if row[spread] else ""  # one network has none
        return formatted(values[0], form) + half
    mean = formatted(statistics.fmean(values), form)
    same = min(values) == max(values)
    return mean if same else f"{mean} ± {formatted(statistics.stdev(values), form.lstrip('+'))}"


def formatted(value: float, form: str) -> str:
    """A number in a format of Python's; ".1%" is percent without the sign, and "g" knows no exponents."""
    if form.endswith("d"):
        return format(round(value), form)
    if form.endswith("g") and abs(value) >= 1000:
        return format(round(value), ",d")
    return format(100 * value, form[:-1] + "f") if form.endswith("%") else format(value, form)


def grouped(rows: Rows, by: Sequence[str]) -> dict[tuple[str, ...], Rows]:
    """Rows by their values of some columns, in the order of the table."""
    groups: dict[tuple[str, ...], Rows] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    return groups


def markdown(headings: Sequence[str], lines: Iterable[Sequence[str]], name: str) -> str:
    """A table, and where it is from."""
    table = [headings, ["---"] * len(headings), *lines]
    text = "\n".join("| " + " | ".join(one.replace("|", "\\|") for one in line) + " |" for line in table)
    return f"{text}\n\nFrom `experiments/results/{name}.csv`."


def shown(text: str, names: Mapping[str, str] | None) -> str:
    """The words to show for a text."""
    return (names or {}).get(text, text)


def number(text: str) -> object:
    """The number that a text stands for, or the text."""
    value = as_float(text)
    return text if math.isnan(value) else value


def near(one: str, other: str) -> bool:
    """The same text, or numbers that differ by less than one in a thousand."""
    a, b = as_float(one), as_float(other)
    return one == other or math.isclose(a, b, rel_tol=1e-3)


def short(text: str) -> str:
    """Numbers with three digits at most, but whole ones as they are; other text unchanged."""
    value = as_float(text)
    return text if math.isnan(value) else format(value, ",.0f" if value == round(value) else ".3g")


def as_float(text: str) -> float:
    """The number that a text stands for, or NaN."""
    try:
        return float(text)
    except ValueError:
        return math.nan


if __name__ == "__main__":
    tyro.cli(main)
