"""How a verb tells what it does: bars on a terminal, lines elsewhere, nothing if it is to be quiet."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from weightspace.errors import InputError
from weightspace.runtime import progress
from weightspace.runtime.tracking import track
from weightspace.trackers import CSV, JSONLines, TensorBoard, Tracker, WandB

_TRACKERS: Mapping[str, Callable[[str], Tracker]] = {
    "tensorboard": TensorBoard, "wandb": WandB, "csv": CSV, "jsonl": JSONLines,
}  # fmt: skip


class _Lines(logging.StreamHandler[TextIO]):
    """Lines on standard error; one that cannot be written ends the verb, as its other output does."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        raise  # noqa: PLE0704 (logging calls it where the error is handled)


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
    """While a verb runs: without a terminal, the log goes to standard error, and losses go to the tracker.

    Args:
        verb: The verb.
        command: Its options, of which `common.quiet` and `common.track` count.

    Raises:
        InputError: The tracker is written in another way, or what it needs is not installed.
    """
    common = getattr(command, "common", None)
    was, level = progress.is_quiet(), progress.LOGGER.level
    tracker = read_tracker(getattr(common, "track", None))
    progress.quiet(was or getattr(common, "quiet", False))
    handler: logging.Handler = logging.NullHandler()
    if not (progress.is_quiet() or progress.is_live() or sys.stderr is None):
        handler = _Lines(sys.stderr)
        handler.setFormatter(logging.Formatter(f"weightspace {verb}: %(message)s"))
        progress.LOGGER.setLevel(logging.INFO)
    progress.LOGGER.addHandler(handler)
    try:
        with track(*[] if tracker is None else [tracker]):
            yield
    finally:
        if tracker is not None and hasattr(tracker, "close"):
            tracker.close()  # pyright: ignore[reportAttributeAccessIssue]
        progress.LOGGER.removeHandler(handler)
        progress.LOGGER.setLevel(level)
        progress.quiet(was)


def read_tracker(text: str | None) -> Tracker | None:
    """Read KIND:WHERE of a tracker.

    Args:
        text: What --track has; None is no tracker.

    Raises:
        InputError: It is written in another way, or what it needs is not installed.
    """
    if text is None:
        return None
    kind, colon, where = text.partition(":")
    if kind not in _TRACKERS or not colon or not where:
        raise InputError(
            f"a tracker is written tensorboard:FOLDER, wandb:PROJECT, csv:FILE or jsonl:FILE, got {text!r}"
        )
    return _TRACKERS[kind](where)
