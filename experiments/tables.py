"""Tables of results as CSV files."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows with the same columns, floats to five digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows({k: f"{v:.5f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
