"""The records of networks as a table."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weightspace.storage.csv_text import cell
from weightspace.storage.files import write_text

_INDEX = "network"


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write a row for each record, with the position of its network first; nested entries become dotted columns.

    Args:
        path: CSV file to write.
        records: Records in order.

    Raises:
        StorageError: The file cannot be written.
    """
    rows = [_flatten(record) for record in records]
    names = list(dict.fromkeys(name for row in rows for name in row))
    shown = {name: f"record.{name}" if name == _INDEX else name for name in names}
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow([_INDEX, *(cell(shown[name]) for name in names)])
    table.writerows([i, *(cell(row.get(name, "")) for name in names)] for i, row in enumerate(rows))
    write_text(path, text.getvalue())


def _flatten(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
