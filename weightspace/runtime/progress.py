"""Progress of long steps: one line of the terminal, whatever is nested in what, and the log.

The outermost step that is open owns the line; steps inside it show what they do in the same line, behind its name, and
leave nothing. What stays is one line for each outermost step. Where nobody watches (a file, a pipe) there is no bar:
the logger "weightspace" says at level INFO what ended, and every minute how far it is.
"""

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from shutil import get_terminal_size
from types import TracebackType
from typing import Any, Generic, TypeVar

from tqdm import tqdm

T = TypeVar("T")

LOGGER = logging.getLogger("weightspace")
"""Where the library says what it does; it prints nothing itself. Silent until a program configures logging."""
LOGGER.addHandler(logging.NullHandler())

QUIET = "WEIGHTSPACE_QUIET"
"""Environment variable that hides all bars: any value but nothing and 0."""

_DELAY = 0.5  # seconds that a step takes before anything is shown
_EVERY = 0.1  # seconds between two pictures
_TOLD_EVERY = 60.0  # seconds between two lines of the log
_NARROWEST, _WIDEST_NAME = 40, 0.6
_CLEAR = "\r\x1b[K"

_open: list["Progress[Any]"] = []
_quiet = False


def quiet(on: bool = True) -> None:
    """Show no bars from now on, in this process.

    Args:
        on: False shows them again.
    """
    global _quiet
    _quiet = on


def is_quiet() -> bool:
    """Whether no bars are wanted: by `quiet`, or by the environment."""
    return _quiet or os.environ.get(QUIET, "0") not in ("", "0")


def progress(items: Iterable[T], what: str, *, total: int | None = None) -> "Progress[T]":
    """Iterate with a bar on standard error; that of an outermost step stays after the loop, as a log of what was done.

    Steps that take less than half a second show nothing. A bar that is kept in a variable is closed by `with`; that of
    a loop ends with the loop, however it is left.

    Args:
        items: What to go through.
        what: What is done.
        total: Number of items, if they do not have a length.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # pyright: ignore[reportArgumentType]
    return Progress(items, what, total)


def whole(what: str, total: int | None = None) -> "Progress[int]":
    """A step made of steps that have bars of their own: theirs are shown in its line.

    Args:
        what: What is done.
        total: Number of its steps, if it is known; each is counted with `update`.
    """
    return Progress(range(total or 0), what, total)


class Progress(Generic[T]):
    """A step with a bar: it begins with its loop or its `with`, and ends with it.

    Args:
        items: What to go through.
        what: What is done.
        total: Number of items or parts; None if it is not known.
    """

    def __init__(self, items: Iterable[T], what: str, total: int | None) -> None:
        self.what, self.total, self.n = what, total, 0
        self.begun, self.closed = False, False
        self._items, self._note, self._shown, self._before = items, "", False, 0
        self._start = self._pictured = self._told = time.monotonic()

    def __iter__(self) -> Iterator[T]:
        with self:
            for item in self._items:
                yield item
                self.update()

    def __enter__(self) -> "Progress[T]":
        if not self.begun:
            self.begun, self._before = True, self.n  # what an earlier process did says nothing of the speed
            self._start = self._pictured = self._told = time.monotonic()
            _open.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(done=kind is None)

    def update(self, steps: int = 1) -> None:
        """Count steps that are done.

        Args:
            steps: How many more.
        """
        self.n += steps
        now = time.monotonic()
        if now - self._pictured >= _EVERY:
            self._picture(now)
        if now - self._told >= _TOLD_EVERY and self._is_outermost():
            self._told = now
            LOGGER.info("%s", self.line(80))

    def note(self, **values: float) -> None:
        """Show numbers behind the bar.

        Args:
            values: Numbers by name, such as the loss.
        """
        self._note = ", ".join(f"{name}={value:.3g}" for name, value in values.items())

    def close(self, *, done: bool = True) -> None:
        """End the step.

        Args:
            done: Whether it came to its end.
        """
        if self.closed or not self.begun:
            return
        outermost, at = self._is_outermost(), self._at()
        outer = _open[at - 1] if at else None
        seconds = time.monotonic() - self._start
        last = self.line(_columns()) if outermost else ""
        self.closed = True
        if self in _open:  # it is not in a process that was forked meanwhile
            _open.remove(self)
        if outermost and is_live() and (self._shown or seconds >= _DELAY):
            _write(f"{_CLEAR}{last}\n")
        elif self._shown and outer is not None:
            _write(_CLEAR)
            outer._picture(time.monotonic())
        if outermost and seconds >= _DELAY:
            LOGGER.info("%s: %s after %s", self.what, "done" if done else "stopped", _duration(seconds))

    def line(self, columns: int) -> str:
        """The step as one line of text, behind the names of the steps that it is in.

        Args:
            columns: Length of the line at most.
        """
        names = [*(bar._name() for bar in _open[: self._at()]), self.what]
        name = _shortened(" › ".join(names), int(_WIDEST_NAME * columns))
        seconds = time.monotonic() - self._start
        if not self.total:
            return f"{name} [{_duration(seconds)}]"[:columns]
        n = min(self.n, self.total)
        return tqdm.format_meter(
            n, self.total, seconds, ncols=columns, prefix=name, postfix=self._note, initial=min(self._before, n)
        )

    def _name(self) -> str:
        return f"{self.what} {min(self.n + 1, self.total)}/{self.total}" if self.total else self.what

    def _at(self) -> int:
        """How many steps it is in."""
        return _open.index(self) if self in _open else 0

    def _is_outermost(self) -> bool:
        return not _open or _open[0] is self

    def _picture(self, now: float) -> None:
        """Draw it, if it has the line: a step inside it that is drawn hides it."""
        self._pictured = now
        if now - self._start < _DELAY or not (_open and _open[-1] is self and is_live()):
            return
        for bar in _open:
            bar._shown = True
        _write(f"{_CLEAR}{self.line(_columns())}")


def is_live() -> bool:
    """Whether bars are drawn: on a terminal and in a notebook, unless they are not wanted."""
    if is_quiet() or sys.stderr is None:
        return False
    in_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    try:
        return in_notebook or sys.stderr.isatty()
    except ValueError:  # it is closed
        return False


def line_is_open() -> bool:
    """Whether a bar stands in the last line of the terminal, which has not ended."""
    return any(bar._shown for bar in _open)


def above(write: Callable[[], object]) -> None:
    """Write something to standard error above the bar that is open.

    Args:
        write: Function that writes whole lines.
    """
    if line_is_open() and is_live():
        _write(_CLEAR)
        for bar in _open:
            bar._shown = False
    write()


def _write(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _columns() -> int:
    """Columns of the terminal less one, as some begin a new line after the last."""
    try:
        found = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError, AttributeError):
        found = 0
    return max(_NARROWEST, (found or get_terminal_size().columns) - 1)


def _shortened(text: str, columns: int) -> str:
    """The text, or its end: what is done now says more than what it belongs to."""
    return text if len(text) <= columns else "…" + text[-max(1, columns - 1) :]


def _duration(seconds: float) -> str:
    """Such as 3.2 s, 45 s, 2:05 min or 1:02:05 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(math.floor(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
