"""The report as one HTML page: no script from elsewhere, no network, light and dark, printable."""

import base64
import html
import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; --ink: #1e293b; --paper: #ffffff; --soft: #f1f5f9; --line: #cbd5e1; --mark: #fff3e8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e2e8f0; --paper: #0f172a; --soft: #1e293b; --line: #334155; --mark: #43291a; }
}
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1240px; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { background: var(--soft); }
tr.judged td { background: var(--mark); font-weight: 600; }
figure { margin: 1.2rem 0; }
img { max-width: 100%; background: #ffffff; border-radius: 6px; }
figcaption { font-size: 0.9rem; opacity: 0.85; max-width: 46rem; }
@media print { body { max-width: none; } figure { break-inside: avoid; } }
"""

_CAPTIONS = {
    "accuracy": "Test accuracy of every network. Good: samples lie where the tickets lie. "
    "Bad: they lie where averages lie, or spread far to the left.",
    "accuracy and distance": "Good and new is the upper right: accurate, and as far from every training ticket as "
    "those are from each other (shaded band). Far left are copies, far below are broken networks.",
    "density per layer": "How much of each layer is kept. Good: samples spend their weights as tickets do.",
}

_LEGEND = """
<b>distance</b>: median distance to the nearest training ticket, after alignment, relative to that among training
tickets (1 = as far as another ticket). <b>error IoU</b>: largest overlap of test errors with a training ticket's.
<b>dispersion</b>: spread around the mean network relative to the training tickets' (below 0.8: drawn towards the mean).
<b>mask overlap</b>: shared non-zeros over non-zeros, between networks of the row. Accuracy is mean ± standard deviation
over networks.
"""


def render(
    title: str, introduction: str, findings: Sequence[str], table: Sequence[Sequence[str]], notes: Sequence[tuple[str, str]],
    judged: str, figures: Mapping[str, Figure], *, heading: str = "Samples beside their baselines", legend: str = _LEGEND,
) -> str:  # fmt: skip
    """The page's text, with figures embedded as PNG.

    Args:
        title: of the page.
        introduction: a sentence under it.
        findings: what the table says, in words.
        table: rows of text, the header first; the first column names the row.
        notes: what each row is.
        judged: name of the row that is set off.
        figures: by name or caption.
        heading: above the table.
        legend: HTML under the table that explains its columns.
    """
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table[0])
    body = ""
    for row in table[1:]:
        kind = ' class="judged"' if row[0] == judged else ""
        body += f"<tr{kind}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>\n"
    listed = "".join(f"<li>{html.escape(line)}</li>" for line in findings)
    explained = "".join(f"<li><b>{html.escape(name)}</b>: {html.escape(note)}</li>" for name, note in notes)
    pictures = "".join(
        f'<figure><img alt="{html.escape(name)}" src="data:image/png;base64,{_png(figure)}">'
        f"<figcaption>{html.escape(_CAPTIONS.get(name, name))}</figcaption></figure>\n"
        for name, figure in figures.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<p>{html.escape(introduction)}</p>
<h2>What it says</h2><ul>{listed}</ul>
<h2>{html.escape(heading)}</h2>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>
{body}</tbody></table></div>
<p>{legend}</p>{f"<ul>{explained}</ul>" if explained else ""}
<h2>Figures</h2>
{pictures}</body></html>
"""


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
