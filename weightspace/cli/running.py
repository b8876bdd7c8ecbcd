"""A verb that runs: what to say when it is stopped, and where its output goes."""

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from weightspace.runtime import stopping

_UNREAD = 141  # as of a program that is ended by SIGPIPE
# Verbs that write when all is done.
_AT_THE_END = {"merge", "import", "tickets control", "adapt merge", "adapt apply", "bench"}


class Command(Protocol):
    """What a command line asks for."""

    def run(self) -> None:
        """Do it."""
        ...


class Running:
    """A command line on its way.

    Args:
        words: The words after `weightspace`.
    """

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.verb = " ".join(words[: 2 if words[:1] in (["tickets"], ["adapt"]) else 1])
        self.command: Command | None = None

    def stopped(self) -> str:
        """What to say when it is stopped: what is kept, and how to go on."""
        out = getattr(self.command, "out", None)
        if self.command is None:
            kept = "nothing was begun, run the same command again"
        elif out is None:
            kept = "nothing was changed, run the same command again"
        elif self.verb in _AT_THE_END:
            kept = f"{out} is written at the end, run the same command again"
        else:
            kept = f"what is finished is kept in {out}, run the same command again to continue"
        return f"weightspace {self.verb}".rstrip() + f": stopped ({stopping.cause()}): {kept}"


def with_output(run: Callable[[], int], name: str) -> int:
    """Run with the last of the output written before the end; a pipe that nobody reads ends it without a word.

    Args:
        run: What to run; it returns an exit code, or raises SystemExit with one.
        name: What to call it in a message.
    """
    try:
        try:
            result = run()
        except SystemExit as stop:
            result = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if sys.stdout is not None:
            sys.stdout.flush()
        return result
    except OSError as error:
        unread = is_unread(error)
        _discard_output()
        if unread:
            return _UNREAD
        print(f"{name}: standard output cannot be written ({error}): free some space there", file=sys.stderr)
        return 1


def is_unread(error: BaseException) -> bool:
    """Whether an error says that nobody reads standard output or standard error any more.

    Args:
        error: The error.
    """
    return isinstance(error, BrokenPipeError) and any(map(_has_no_reader, (sys.stdout, sys.stderr)))


def _has_no_reader(stream: Any) -> bool:
    if not hasattr(select, "poll"):
        return False
    with suppress(OSError, ValueError, AttributeError):
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False


def _discard_output() -> None:
    """What is still in the buffers goes nowhere, or Python would try again at its end."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None or not (stream is sys.stdout or _has_no_reader(stream)):
            continue
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
