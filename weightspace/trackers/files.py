"""Trackers that add to a file."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weightspace.runtime import checks
from weightspace.storage.csv_text import cell
from weightspace.storage.logs import append_line
from weightspace.storage.system_errors import exists

_COLUMNS = "time,step,name,value"


@dataclass(frozen=True)
class CSV:
    """Adds a row for each number to a CSV file: time, step, name, value.

    Args:
        path: The file; what is in it stays.

    Raises:
        InputError: It is no path.
    """

    path: str | Path

    def __post_init__(self) -> None:
        checks.path(self.path, "path")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a row for each number.

        Args:
            step: Steps that are done.
            values: Numbers by name.

        Raises:
            StorageError: The file cannot be written.
        """
        path = Path(self.path)
        if not exists(path):
            append_line(path, _COLUMNS)
        now = round(time.time(), 3)
        for name, value in values.items():
            quoted = '"' + str(cell(name)).replace('"', '""') + '"' if set(name) & set(',"\n') else cell(name)
            append_line(path, f"{now},{step},{quoted},{value:.9g}")


@dataclass(frozen=True)
class JSONLines:
    """Adds a line of JSON for each step to a file, as the `metrics.jsonl` of run folders.

    Args:
        path: The file; what is in it stays.

    Raises:
        InputError: It is no path.
    """

    path: str | Path

    def __post_init__(self) -> None:
        checks.path(self.path, "path")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a line; what is not finite is written as null.

        Args:
            step: Steps that are done.
            values: Numbers by name.

        Raises:
            StorageError: The file cannot be written.
        """
        plain = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        append_line(Path(self.path), json.dumps({"time": round(time.time(), 3), "step": step, **plain}))
