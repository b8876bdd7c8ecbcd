"""Tables of results as CSV files."""

import csv
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows with the same columns, floats to five digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows({k: f"{v:.5f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def add(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows below those that a file has already."""
    before: list[Mapping[str, object]] = []
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            before = [*csv.DictReader(file)]
    write(path, [*before, *rows])


def variant(main: Callable[..., object], **given: object) -> str:
    """What a file's name says of settings other than those by default, so that no table takes another's place."""
    usual = {name: one.default for name, one in signature(main).parameters.items()}
    other = {name: value for name, value in given.items() if value != usual[name]}
    return "".join(f"_{name}" if value is True else f"_{name}-{value}" for name, value in other.items())
