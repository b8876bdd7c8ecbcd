"""A report as one HTML page: no script from elsewhere, no network, light and dark, printable."""

import base64
import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from weightspace.report.plots.style import Figure, save
from weightspace.report.results import Verdict
from weightspace.storage.files import write_bytes

_LONGEST = 100  # letters of a file's name
WIDTH = 80
"""Letters of a line on a terminal."""


@dataclass(frozen=True)
class Table:
    """A table with its explanation.

    Args:
        heading: Title above the table.
        rows: Rows of text, the header first; the first column names the row.
        legend: Pairs (term, explanation) on the columns.
        highlighted: Names of the rows that are set off.
        notes: Pairs (row, what it is).
        first: Columns that matter most, the first most of all, where the width is short.
    """

    heading: str
    rows: Sequence[Sequence[str]]
    legend: Sequence[tuple[str, str]] = ()
    highlighted: Sequence[str] = ()
    notes: Sequence[tuple[str, str]] = ()
    first: Sequence[str] = ()

    def text(self) -> str:
        """The table in columns, with a line under the header: as many columns as fit, and the names of the others."""
        header = self.rows[0]
        known = [header.index(name) for name in self.first if name in header]
        order = [*known, *(i for i in range(1, len(header)) if i not in known)]
        widths = [max(len(row[i]) for row in self.rows) for i in range(len(header))]
        shown, left = [0], WIDTH - widths[0]
        for i in order:
            if widths[i] + 2 <= left or len(shown) == 1:
                shown.append(i)
                left -= widths[i] + 2
        lines = columns([[row[i] for i in sorted(shown)] for row in self.rows])
        text = "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
        others = ", ".join(dict.fromkeys(header[i] for i in order if i not in shown))
        return text if not others else f"{text}\n{wrapped(f'(the page also has: {others})')}"


def wrapped(text: str) -> str:
    """A paragraph in lines that fit a terminal; what is continued is set in.

    Args:
        text: The paragraph.
    """
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines of text, with every column as wide as its longest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


@dataclass(frozen=True)
class Picture:
    """A figure with its explanation.

    Args:
        name: Short name, which also names its files.
        caption: Text that says what is shown, what is good and what is bad.
        figure: The figure.
    """

    name: str
    caption: str
    figure: Figure

    @property
    def file_name(self) -> str:
        """Its name as the name of a file, without an ending; nothing in it leads to another folder."""
        return re.sub(r'[\s/\\:*?"<>|\x00-\x1f]', "_", self.name).lstrip(".")[:_LONGEST] or "figure"

    @cached_property
    def drawn(self) -> bytes:
        """The figure as PNG; it is drawn once, for the page and for the file."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png")
        return buffer.getvalue()

    @property
    def png(self) -> str:
        """The figure as PNG, in base64."""
        return base64.b64encode(self.drawn).decode()

    def write(self, folder: Path, kind: Literal["png", "svg"]) -> str:
        """Write the figure to a file of its name in a folder, and return the file's name.

        Args:
            folder: The folder.
            kind: The format.
        """
        name = f"{self.file_name}.{kind}"
        if kind == "png":
            write_bytes(folder / name, self.drawn)
        else:
            save(self.figure, folder / name)
        return name


def render(
    title: str,
    introduction: str,
    *,
    tables: Sequence[Table],
    pictures: Sequence[Picture],
    findings: Sequence[str] = (),
    verdicts: Sequence[Verdict] = (),
    lead: str = "",
) -> str:
    """The text of a page, with figures embedded as PNG; see templates/page.html.

    Args:
        title: Title of the page.
        introduction: Text under the title, or below the verdicts where there is a lead.
        tables: Tables, in order.
        pictures: Figures, in order, below the tables.
        findings: What the tables say, in words.
        verdicts: Verdicts, shown first, each with its test.
        lead: The result in one sentence; it comes first, then the outcomes and the first figure.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("weightspace.report"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html").render(
        title=title,
        introduction=introduction,
        tables=tables,
        pictures=pictures,
        findings=findings,
        verdicts=verdicts,
        lead=lead,
    )
