"""Turns a percent script into a page: text, code, what the code printed, and its figures.

A script has cells: `# %% [markdown]` begins text, in comments, and `# %%` begins code. The cells of one script share
their names. A cell that fails stops the build.
"""

import contextlib
import hashlib
import io
import json
import re
import tempfile
import warnings
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)


class CellFailed(Exception):
    """A cell of a script fails; the message says which, and shows it."""


@dataclass(frozen=True)
class Page:
    """A page in Markdown and its pictures.

    Args:
        text: The Markdown.
        pictures: PNG files by name.
        names: What the script's names stand for at its end.
    """

    text: str
    pictures: dict[str, bytes]
    names: dict[str, Any] = field(default_factory=dict)


def cells(script: str) -> list[tuple[str, str]]:
    """The cells of a script: ("markdown" or "code", source). What stands before the first cell is left out."""
    _, *parts = CELL.split(script)
    marks, sources = parts[::2], parts[1::2]
    return [
        ("markdown" if mark.strip() == "[markdown]" else "code", source.strip("\n"))
        for mark, source in zip(marks, sources, strict=True)
    ]


def run(script: str, name: str, *, dpi: int = 120) -> Page:
    """Run a script cell by cell, in a folder of its own, and write down what happened.

    Args:
        script: The script's text.
        name: Its name: of its pictures, and in messages.
        dpi: Dots per inch of the pictures.

    Raises:
        CellFailed: A cell fails.
    """
    import matplotlib

    matplotlib.use("Agg")
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    names: dict[str, Any] = {"__name__": name}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number, (kind, source) in enumerate(cells(script), 1):
            if kind == "markdown":
                parts.append(re.sub(r"^# ?", "", source, flags=re.MULTILINE))
                continue
            printed = _execute(source, f"{name}.py, cell {number}", names)
            parts.append(f"```python\n{source}\n```")
            if printed:
                parts.append(f"```text\n{printed}\n```")
            for title, picture in _figures(dpi):
                file = f"{name}-{len(pictures) + 1}.png"
                pictures[file] = picture
                parts.append(f"![{title}]({file})")
    return Page("\n\n".join(parts) + "\n", pictures, names)


def _execute(source: str, where: str, names: dict[str, Any]) -> str:
    """Run one cell and return what it printed."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a page shows what the code prints
            exec(compile(source, where, "exec"), names)
    except Exception as error:
        raise CellFailed(f"{where} fails: {type(error).__name__}: {error}\n{source}") from error
    return printed.getvalue().rstrip()


def _figures(dpi: int) -> list[tuple[str, bytes]]:
    """Titles and PNG files of all open figures, which are closed."""
    from matplotlib import pyplot

    found: list[tuple[str, bytes]] = []
    for number in pyplot.get_fignums():
        figure, file = pyplot.figure(number), io.BytesIO()
        figure.savefig(file, dpi=dpi, bbox_inches="tight")
        title = figure.get_suptitle() or "; ".join(filter(None, (axes.get_title() for axes in figure.axes)))
        found.append((" ".join(title.split()), file.getvalue()))
        pyplot.close(figure)
    return found


def cached(script: Path, library: Path, cache: Path) -> Page:
    """The page of a script; it runs again only when it, the library or this file has changed.

    Args:
        script: The script.
        library: Folder of the library that it shows.
        cache: Folder of pages.
    """
    digest = hashlib.sha256()
    for file in [Path(__file__), script, *sorted(library.rglob("*.py"))]:
        digest.update(file.read_bytes())
    kept = cache / f"{script.stem}-{digest.hexdigest()[:16]}.json"
    if not kept.exists():
        page = run(script.read_text(encoding="utf-8"), script.stem)
        cache.mkdir(parents=True, exist_ok=True)
        for old in cache.glob(f"{script.stem}-*.json"):
            old.unlink()
        pictures = {name: b64encode(picture).decode() for name, picture in page.pictures.items()}
        kept.write_text(json.dumps({"text": page.text, "pictures": pictures}), encoding="utf-8")
    read = json.loads(kept.read_text(encoding="utf-8"))
    return Page(read["text"], {name: b64decode(picture) for name, picture in read["pictures"].items()})
