"""One progress bar for every long step."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], what: str, *, total: int | None = None) -> "tqdm[T]":
    """Iterate with a bar on standard error; it stays after the loop, as a log of what was done.

    Steps that take less than half a second show nothing. A bar that is kept in a variable is closed by `with`; that of
    a loop ends with the loop, however it is left.
    """
    return tqdm(items, desc=what, total=total, dynamic_ncols=True, mininterval=0.5, delay=0.5)
