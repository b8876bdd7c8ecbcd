"""One progress bar for every long step."""

from collections.abc import Iterable
from typing import TypeVar
from weakref import WeakSet

from tqdm import tqdm

T = TypeVar("T")
_bars: "WeakSet[tqdm]" = WeakSet()


def progress(items: Iterable[T], what: str, *, total: int | None = None) -> "tqdm[T]":
    """Iterate with a bar on standard error; it stays after the loop, as a log of what was done.

    Steps that take less than half a second show nothing. A bar that is kept in a variable is closed by `with`; that of
    a loop ends with the loop, however it is left.
    """
    bar = tqdm(items, desc=what, total=total, dynamic_ncols=True, mininterval=0.5, delay=0.5)
    _bars.add(bar)
    return bar


def is_open() -> bool:
    """Whether a bar may stand in the line of the terminal."""
    return any(not bar.disable for bar in list(_bars))
