"""Executor: who runs the shards of a collection."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Executor(Protocol):
    """Anything with the `map` of concurrent.futures: a ProcessPoolExecutor, or :class:`OnRay`."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        """Apply the function to every item, somewhere."""
        ...
