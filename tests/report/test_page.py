"""The page in a real browser: no errors, every figure shown, tables sort, nothing fetched."""

import shutil
import subprocess
from pathlib import Path

import pytest

import weightspace as ws
from tests.evaluation.cases import few_points

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

# Runs in the page: collects errors, sorts a table twice, and writes what it saw into the document.
PROBE = """
<script>
window.problems = [];
window.addEventListener("error", event => window.problems.push(String(event.message)));
</script>
"""
CHECK = """
<script>
window.addEventListener("load", () => {
  const table = document.querySelector("table"), column = COLUMN;
  const values = () => [...table.tBodies[0].rows].map(row => parseFloat(row.cells[column].textContent));
  const button = table.querySelectorAll("th button")[column];
  button.click(); const down = values(); button.click(); const up = values();
  const shown = [...document.images].filter(image => image.complete && image.naturalWidth > 0).length;
  const tops = [".lead", ".badges", "img", "table"].map(one => document.querySelector(one).getBoundingClientRect().top);
  const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  document.body.insertAdjacentHTML("beforeend", "<pre id=found>" + JSON.stringify({
    problems: window.problems, shown, total: document.images.length, down, up, wide, tops}) + "</pre>");
});
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium (Debian: apt install chromium)")
def test_the_page_works_in_a_browser(tickets: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    import json

    with few_points():
        report = ws.evaluate(tickets[6:], task, training=tickets[:6], dropout=None)
    report.html(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    column = report.tables()[0].rows[0].index("NLL")
    page = page.replace("<head>", "<head>" + PROBE).replace("</body>", CHECK.replace("COLUMN", str(column)) + "</body>")
    (tmp_path / "probed.html").write_text(page)
    found = json.loads(dom(tmp_path).partition('<pre id="found">')[2].partition("</pre>")[0])
    assert found["problems"] == []
    assert found["shown"] == found["total"] == len(report.plot())
    assert found["down"] == sorted(found["down"], reverse=True)
    assert found["up"] == sorted(found["up"])
    assert found["down"][0] > found["up"][0]
    assert found["tops"] == sorted(found["tops"])  # a sentence, outcomes, a picture, then tables
    assert found["tops"][2] < 844  # on the first screen of a phone
    assert not found["wide"]  # on a phone, wide tables scroll inside their own box

    broken = page.replace("for (const table of", "for (const table fo")  # the control: an error would be seen
    (tmp_path / "probed.html").write_text(broken)
    assert "SyntaxError" in dom(tmp_path)


def dom(folder: Path) -> str:
    assert BROWSER is not None
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=390,844",
        "--virtual-time-budget=5000",
        "--dump-dom",
        (folder / "probed.html").as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
