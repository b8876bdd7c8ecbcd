"""Tables as CSV that no spreadsheet takes for formulas."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cell(value: Any) -> Any:
    """A value for a cell: text that a spreadsheet would compute begins with an apostrophe; numbers stay numbers.

    Args:
        value: Value of any type.
    """
    if isinstance(value, list | tuple | dict):
        value = str(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) and not _number(value) else value


def table_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], floats: str) -> str:
    """A table as the text of a CSV file, the columns' names first.

    Args:
        columns: Names of the columns.
        rows: Cells of each row, by column.
        floats: Format of floats, such as "{:.6g}".
    """
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, [*columns])
    table.writerow({name: cell(name) for name in columns})
    for row in rows:
        table.writerow({k: floats.format(v) if isinstance(v, float) else cell(v) for k, v in row.items()})
    return text.getvalue()


def quoted(text: str) -> str:
    """A text as a cell between quotation marks.

    Args:
        text: Text of any kind.
    """
    return '"' + str(cell(text)).replace('"', '""') + '"'


def text_of(value: str) -> str:
    """The inverse of `cell`, for text that was read back.

    Args:
        value: Content of a cell.
    """
    return value[1:] if value.startswith("'") and value[1:].startswith(_FORMULA) else value


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()
