"""Tables of results: one CSV file an experiment, with the settings of each row in columns."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from weightspace.storage.files import make_folder, write_text

RESULTS = Path("experiments/results")
FIGURES = Path("docs/figures")

Row = Mapping[str, object]


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write a whole table in place of the one that is there.

    Args:
        path: CSV file; its folder is made.
        rows: Rows of the table; a column that a row lacks, or None, is left empty there. Floats get five
            decimal places.
    """
    _save(path, [{name: _figure(value) for name, value in row.items()} for row in rows])


def add(path: Path, rows: Sequence[Row], settings: Sequence[str]) -> None:
    """Put rows into a table: in place of those with the same settings, and below all others.

    Args:
        path: CSV file; it is made if it is not there.
        rows: New rows; each has a value for every setting.
        settings: Columns that say what a row was measured with. They come first, as they are (None as "none").

    Raises:
        ValueError: A row has no value for a setting.
    """
    if missing := {name for row in rows for name in settings if name not in row}:
        raise ValueError(f"{path}: rows have no value for {', '.join(sorted(missing))}: give one to each row")
    new: dict[tuple[object, ...], list[dict[str, str]]] = {}
    for row in rows:
        text = {name: _setting(row[name]) for name in settings}
        text |= {name: _figure(value) for name, value in row.items() if name not in settings}
        new.setdefault(_key(text, settings), []).append(text)
    replaced = set(new)
    table: list[dict[str, str]] = []
    for row in read(path) if path.exists() else []:
        key = _key(row, settings)
        table += new.pop(key, []) if key in replaced else [row]
    _save(path, [*table, *(row for group in new.values() for row in group)])


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a table, as they are written."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _save(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), restval="")
    table.writeheader()
    table.writerows(rows)
    make_folder(path.parent)
    write_text(path, text.getvalue())


def _figure(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.5f}" if isinstance(value, float) else str(value)


def _setting(value: object) -> str:
    return "none" if value is None else str(value)


def _key(row: Mapping[str, str], settings: Sequence[str]) -> tuple[object, ...]:
    """Settings of a row, numbers as numbers: 0.1 and 0.10000 are the same."""
    return tuple(_number(row.get(name, "")) for name in settings)


def _number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text
