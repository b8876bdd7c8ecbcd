"""One process a folder: a lock that goes with its process, and a note on who has it."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from weightspace.errors import StorageError
from weightspace.storage.files import write_text
from weightspace.storage.leftovers import host, leftovers, remove_leftover
from weightspace.storage.reading import read_text
from weightspace.storage.system_errors import told

LOCK = ".lock"
HOLDER = ".lock.holder"  # beside the lock, as Windows lets nobody read a locked file
_BYTES = 2**12
_SHOWN = 300


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder; those who come meanwhile are told who works in it.

    The lock is the system's: it goes with the process, however that ends, so that there is none to take over.

    Args:
        folder: An existing folder.

    Raises:
        StorageError: Another process works in it, it cannot be written, or its file system has no locks.
    """
    lock = FileLock(folder / LOCK, timeout=0, mode=0o644, fallback_to_soft=False)
    with told("write in", folder):
        try:
            lock.acquire()
        except Timeout as error:
            raise _held(folder) from error
    try:
        with told("read", folder):
            for leftover in leftovers(folder):  # of a process that was killed while writing
                remove_leftover(leftover)
        write_text(folder / HOLDER, _note())
        yield
    finally:
        remove_leftover(folder / HOLDER)
        try:
            lock.release()
        except OSError:  # a folder that is gone, or a file system that lost its locks: a closed file has none
            descriptor, lock._context.lock_file_fd = lock._context.lock_file_fd, None
            with contextlib.suppress(OSError):
                os.close(-1 if descriptor is None else descriptor)


def _note() -> str:
    """Who this process is: number, machine, since when, and its command."""
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    program, *words = sys.argv or [""]
    name = Path(program).parent.name if Path(program).name == "__main__.py" else Path(program).name
    command = _printable(" ".join([name or "python", *words]))
    return f"{os.getpid()}\n{host()}\n{since}\n{command}\n"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_SHOWN]


def _held(folder: Path) -> StorageError:
    """What a second process is told."""
    words = _words(folder)
    if not words:
        return StorageError(
            f"another process (of unknown number) is working in {folder}: wait for it, or choose another folder"
        )
    pid, where, since, command = [*words, "", "", ""][:4]
    who = "".join(
        [pid, f" on {where}" if where else "", f" since {since}" if since else "", f": {command}" if command else ""]
    )
    remedy = "wait for it, or choose another folder"
    if where and where != host():
        remedy += f". If nothing runs on {where} any more, its lock goes when that machine is up again or is unmounted"
    return StorageError(f"another process ({who}) is working in {folder}: {remedy}")


def _words(folder: Path) -> list[str]:
    """What the process that works in a folder says of itself, as far as it can be shown."""
    for name in (HOLDER, LOCK):  # version 0.1 wrote its number into the lock itself
        try:
            text = read_text(folder / name, at_most=_BYTES)
        except StorageError:
            continue
        words = [_printable(line) for line in text.splitlines()]
        if words and words[0]:
            return words
    return []
