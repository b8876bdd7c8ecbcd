"""What workers wrote of their parts goes to the trackers of the process that waits for them."""

import json
import math
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from weightspace.runtime import tracking
from weightspace.storage.reading import read_text
from weightspace.storage.runs import METRICS

FOUND = "found"
"""Folder of the result of a finder that keeps its levels in the folder of its run."""


def told(parts: Iterable[Path]) -> Iterator[Path]:
    """Pass parts on; the trackers get the numbers of each when it is done, named by the part.

    Args:
        parts: Folders of the collections that workers made.
    """
    for part in parts:
        run = part.parent if part.name == FOUND else part
        for file in sorted(run.rglob(METRICS)) if tracking.is_followed() else ():
            for step, values in _numbers(file):
                tracking.pass_on(step, {f"parts/{run.name}/{name}": value for name, value in values.items()})
        yield part


def _numbers(file: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """The lines of a run's log that say how training went."""
    for number, line in enumerate(read_text(file).splitlines(), 1):
        try:
            said = json.loads(line)
            if isinstance(said, dict) and isinstance(said.get("step"), int):
                values = {name: value for name, value in said.items() if name not in ("step", "time")}
                yield said["step"], {k: math.nan if v is None else float(v) for k, v in values.items()}
        except (ValueError, TypeError):
            warnings.warn(f"line {number} of {file} is damaged: trackers do not get it", stacklevel=2)
