"""Executors of tests."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Sending:
    """An executor in this process that sends what it works on as workers get it, and may lose one.

    Args:
        lost: Items before the one at which it fails.
    """

    def __init__(self, lost: int | None = None) -> None:
        self.done, self.lost = list[Any](), lost

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        sent = pickle.loads(pickle.dumps(function))
        for item in items:
            if len(self.done) == self.lost:
                raise ConnectionError("a worker was lost")
            self.done.append(item)
            yield sent(pickle.loads(pickle.dumps(item)))
