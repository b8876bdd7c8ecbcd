"""A report as one HTML page: no script from elsewhere, no network, light and dark, printable."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from weightspace.report.results import Verdict

_STYLE = """
:root { color-scheme: light dark; --ink: #1e293b; --paper: #ffffff; --soft: #f1f5f9; --line: #cbd5e1; --mark: #fff3e8;
  --pass: #15803d; --fail: #b91c1c; --open: #64748b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e2e8f0; --paper: #0f172a; --soft: #1e293b; --line: #334155; --mark: #43291a; }
}
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1240px; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
th, th:first-child { background: var(--soft); }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
th[aria-sort=ascending] button::after { content: " \\25B2"; } th[aria-sort=descending] button::after { content: " \\25BC"; }
tr.judged td, tr.judged td:first-child { background: var(--mark); font-weight: 600; }
.verdicts { list-style: none; padding: 0; } .verdicts li { margin: 0.7rem 0; padding-left: 0.9rem; border-left: 4px solid; }
.verdicts .pass { border-color: var(--pass); } .verdicts .fail { border-color: var(--fail); }
.verdicts .open { border-color: var(--open); }
.badge { display: inline-block; color: #ffffff; border-radius: 4px; padding: 0 0.45rem; font-size: 0.8rem; margin-right: 0.4rem; }
.pass .badge { background: var(--pass); } .fail .badge { background: var(--fail); } .open .badge { background: var(--open); }
.test, .legend, figcaption { font-size: 0.9rem; opacity: 0.85; max-width: 52rem; }
figure { margin: 1.2rem 0; }
figure > div { overflow-x: auto; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 6px; }
@media (max-width: 40rem) { body { padding: 0.8rem; } img { max-width: none; width: 44rem; } }
@media print { body { max-width: none; } figure, li { break-inside: avoid; } .scroll { overflow: visible; }
  table { font-size: 0.6rem; } th, td { padding: 0.15rem 0.3rem; } }
"""

# A click on a heading sorts by it; numbers by value, whatever follows them.
_SCRIPT = """
for (const table of document.querySelectorAll("table"))
  table.querySelectorAll("th").forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0], key = row => row.cells[column].textContent;
    const rows = [...body.rows].sort((a, b) => {
      const x = parseFloat(key(a)), y = parseFloat(key(b));
      if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1;
      const order = isNaN(x) ? key(a).localeCompare(key(b)) : x - y;
      return down ? -order : order;
    });
    body.append(...rows);
  }));
"""


@dataclass(frozen=True)
class Table:
    """A table with its explanation.

    Args:
        heading: above it.
        rows: of text, the header first; the first column names the row.
        legend: (term, explanation) pairs on its columns.
        judged: names of the rows that are set off.
        notes: (row, what it is) pairs.
    """

    heading: str
    rows: Sequence[Sequence[str]]
    legend: Sequence[tuple[str, str]] = ()
    judged: Sequence[str] = ()
    notes: Sequence[tuple[str, str]] = ()

    def text(self) -> str:
        """In columns, with a line under the header."""
        widths = [max(len(row[i]) for row in self.rows) for i in range(len(self.rows[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in self.rows]
        return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


@dataclass(frozen=True)
class Picture:
    """A figure with a name, and a caption that says what is good and what is bad."""

    name: str
    caption: str
    figure: Figure


def render(
    title: str, introduction: str, *, tables: Sequence[Table], pictures: Sequence[Picture],
    findings: Sequence[str] = (), verdicts: Sequence[Verdict] = (),
) -> str:  # fmt: skip
    """The page's text, with figures embedded as PNG.

    Args:
        title: of the page.
        introduction: a sentence under it.
        findings: what the tables say, in words.
        verdicts: shown first, each with its test.
    """
    said = f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in findings)}</ul>" if findings else ""
    if verdicts:
        said += f'<ul class="verdicts">{"".join(map(_verdict, verdicts))}</ul>'
    shown = "".join(
        f'<figure><div><img alt="{html.escape(p.name)}" src="data:image/png;base64,{_png(p.figure)}"></div>'
        f"<figcaption><b>{html.escape(p.name)}</b>. {html.escape(p.caption)}</figcaption></figure>\n"
        for p in pictures
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<p>{html.escape(introduction)}</p>
{f"<h2>What it says</h2>{said}" if said else ""}
{"".join(map(_table, tables))}<h2>Figures</h2>
{shown}<script>{_SCRIPT}</script></body></html>
"""


def _verdict(verdict: Verdict) -> str:
    claim, words, test = (html.escape(text) for text in (verdict.claim, verdict.words, verdict.test))
    outcome = html.escape(verdict.outcome)
    return (
        f'<li class="{outcome}"><span class="badge">{outcome}</span><b>{claim}</b>: {words}'
        f'<div class="test">Test: {test}.</div></li>'
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col"><button>{html.escape(cell)}</button></th>' for cell in table.rows[0])
    body = ""
    for row in table.rows[1:]:
        kind = ' class="judged"' if row[0] in table.judged else ""
        body += f"<tr{kind}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>\n"
    legend = " ".join(f"<b>{html.escape(term)}</b>: {html.escape(text)}." for term, text in table.legend)
    notes = "".join(f"<li><b>{html.escape(name)}</b>: {html.escape(note)}</li>" for name, note in table.notes)
    rows_are = (
        f'<details class="legend"><summary>What the rows are</summary><ul>{notes}</ul></details>' if notes else ""
    )
    return f"""<h2>{html.escape(table.heading)}</h2>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>
{body}</tbody></table></div>
<p class="legend">{legend}</p>{rows_are}
"""


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
