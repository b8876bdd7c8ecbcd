"""Executor: who runs the shards of a collection, and workers that end with the process that started them."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from typing import Any, Protocol, runtime_checkable

_NAME = "weightspace: waits for the end of the parent process"


@runtime_checkable
class Executor(Protocol):
    """Anything with the `map` of concurrent.futures: a ProcessPoolExecutor, or `OnRay`."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        """Apply the function to every item, somewhere."""
        ...


def end_with_parent() -> None:
    """End this worker as soon as the process that started it is gone, even if that one was killed.

    Does nothing in a process that multiprocessing has not started, and nothing the second time.
    """
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == _NAME for thread in threading.enumerate()):
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)  # what is half written stays under a temporary name, and the run resumes

    threading.Thread(target=watch, name=_NAME, daemon=True).start()
