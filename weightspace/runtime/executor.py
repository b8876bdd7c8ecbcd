"""Executor: who runs the shards of a collection, and workers that end with the process that started them."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from typing import Any, Protocol, runtime_checkable

from weightspace.errors import InputError
from weightspace.runtime import checks, devices, threads

WANTED = "workers with a method map, such as the pool of `with weightspace.processes(2) as pool:`"
"""What an executor is, for messages."""
_NAME = "weightspace: waits for the end of the parent process"


@runtime_checkable
class Executor(Protocol):
    """Anything with the `map` of concurrent.futures: a ProcessPoolExecutor, or `OnRay`."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        """Apply the function to every item, somewhere."""
        ...


def device_for(device: str, executor: Executor | None) -> str:
    """The device to compute on: workers use the CPU.

    Args:
        device: What the user asked for; "auto" is the CPU where workers compute.
        executor: Workers, if there are any.

    Raises:
        InputError: The device is not available, or workers are to compute on a card.
    """
    checks.given(executor, "executor", checks.having, methods=("map",), wanted=WANTED)
    if executor is None:
        return devices.pick(device)
    if device not in ("auto", "cpu"):
        raise InputError(f"workers compute on the CPU, got device {device!r}: leave one of the two out")
    return "cpu"


def as_worker() -> None:
    """Begin an item of an executor: on one thread, in a process that ends with the one that started it."""
    end_with_parent()
    threads.use(1)


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
