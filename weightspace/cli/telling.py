"""How a verb tells what it does: bars on a terminal, lines elsewhere, nothing if it is to be quiet."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from weightspace.runtime import progress


@contextmanager
def warnings_as_lines(verb: str) -> Iterator[None]:
    """Warnings are printed without the place in the code where they arise, above the bar that is open.

    Args:
        verb: The verb.
    """
    form, show = warnings.formatwarning, warnings.showwarning

    def show_above(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        progress.above(lambda: show(message, category, filename, lineno, file, line))

    warnings.formatwarning = lambda message, *_args, **_named: f"weightspace {verb}: {message}\n"
    warnings.showwarning = show_above
    try:
        yield
    finally:
        warnings.formatwarning, warnings.showwarning = form, show


@contextmanager
def telling(verb: str, command: Any) -> Iterator[None]:
    """While a verb runs: without a terminal, the log goes to standard error.

    Args:
        verb: The verb.
        command: Its options, of which `common.quiet` counts.
    """
    was, level = progress.is_quiet(), progress.LOGGER.level
    progress.quiet(was or getattr(getattr(command, "common", None), "quiet", False))
    handler: logging.Handler = logging.NullHandler()
    if not (progress.is_quiet() or progress.is_live() or sys.stderr is None):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(f"weightspace {verb}: %(message)s"))
        progress.LOGGER.setLevel(logging.INFO)
    progress.LOGGER.addHandler(handler)
    try:
        yield
    finally:
        progress.LOGGER.removeHandler(handler)
        progress.LOGGER.setLevel(level)
        progress.quiet(was)
