"""Stopping the command: a signal ends it within seconds, with one line and a code of its own, wherever it is.

The command alone is stopped like this (`is_command`), never a program that uses the library: notebooks and other
programs keep their own handlers. This module is imported before all others, because loading them takes seconds.

While nothing has begun, or all is done, a signal ends the process at once. While a verb works it raises
KeyboardInterrupt, and what is open is closed. If that takes longer than `GRACE`, because a library is inside a long
call or something catches the exception, or if a second signal comes, a thread ends the process: what is on disk is
always complete, so this loses no more.
"""

import atexit
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

GRACE = 3.0
"""Seconds that work has to come to an end after a signal."""

_NEW_LINE = "\n"
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # the last two are not on every system
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


class _State:
    """What is going on in this process.

    Args:
        at_fork: Whether Python knows what is done when this process forks.
    """

    def __init__(self, at_fork: bool = False) -> None:
        self.at_fork = at_fork
        self.first: int | None = None  # the first signal that came
        self.installed = False
        self.handled = False  # whether the main thread knows of it
        self.begun = False
        self.working = False
        self.line: Callable[[], str] = lambda: (
            f"weightspace: stopped ({cause()}): nothing was begun, run the same command again"
        )
        self.saying = threading.Lock()
        self.said = False


_state = _State()


def is_command() -> bool:
    """Whether this process was started as `weightspace ...` or as `python -m weightspace ...`."""
    words = sys.orig_argv
    if sys.argv[:1] == ["-m"]:  # the package is imported before its __main__ runs
        return "-m" in words and words[words.index("-m") + 1 :][:1] == ["weightspace"]
    worker = "--multiprocessing-fork" in words  # which has the arguments of the process that started it
    return bool(sys.argv) and Path(sys.argv[0]).stem == "weightspace" and not worker


def install() -> None:
    """From now on signals end this process; those that were ignored when it was started stay ignored, as nohup wants.

    Does nothing the second time, nor outside the main thread.
    """
    if _state.installed or threading.current_thread() is not threading.main_thread():
        return
    _state.installed = True
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    threading.Thread(target=_watch, args=(reading,), name="weightspace: ends what is stopped", daemon=True).start()
    sys.unraisablehook = _unraisable
    if hasattr(os, "register_at_fork") and not _state.at_fork:
        _state.at_fork = True
        os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_forget)


def work(line: Callable[[], str], verb: Callable[[], int]) -> int:
    """Run a verb, in which a signal raises KeyboardInterrupt; the process ends here if one came.

    Args:
        line: What to say if it is stopped.
        verb: What to run; it returns an exit code.
    """
    _state.line = line
    result = 0
    try:
        try:
            _state.begun = _state.working = True
            result = verb()
        finally:
            _state.working = False
    except BaseException:
        if _state.first is None:
            raise
        # Otherwise the signal is why: it makes other errors on its way, of a pool whose workers it ended, say.
    if _state.first is not None:
        _flush()  # the end of a progress bar's line, say
        _say(below=_bar_is_open())
        atexit._run_exitfuncs()  # here the thread still ends what takes too long; in Python's own end it cannot
        _end()
    return result


def code() -> int:
    """The exit code of the signal that stopped this process; without one that of Ctrl-C."""
    return 128 + (signal.SIGINT if _state.first is None else _state.first)


def cause() -> str:
    """The name of the signal that stopped this process; without one that of Ctrl-C."""
    return signal.Signals(code() - 128).name


def _handle(number: int, _frame: FrameType | None) -> None:
    """What Python calls in the main thread, between two of its steps."""
    repeated, _state.handled = _state.handled, True
    _state.first = _state.first or number
    if repeated or not _state.working:
        _say(below=_state.begun)
        _end()
    raise KeyboardInterrupt


def _block() -> None:
    """A signal to a process that is being forked waits until it has its own handlers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _forget() -> None:
    """A process that was forked is not the command, unless it becomes one: it has no thread that ends it, and signals
    say nothing to that of its parent.
    """
    global _state
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_DFL)
    _state = _State(at_fork=True)
    _unblock()


def _watch(reading: socket.socket) -> None:
    """What the thread does: the numbers of signals come through the socket, even while the main thread is busy."""
    while (number := reading.recv(1)[0]) not in _SIGNALS or signal.getsignal(number) is not _handle:
        pass
    _state.first = _state.first or number
    until = time.monotonic() + (GRACE if _state.working else 0)
    while (left := until - time.monotonic()) > 0 and select.select([reading], [], [], left)[0]:
        if reading.recv(1)[0] in _SIGNALS:
            break
    _say(below=_state.begun)
    _end()


def _unraisable(arguments: Any) -> None:
    """An exception where Python cannot raise it, such as in `__del__`; the one of a signal ends the process."""
    if _state.first is not None:
        _say(below=_state.begun)
        _end()
    sys.__unraisablehook__(arguments)


def _say(*, below: bool = False) -> None:
    """Print the line, once: not through Python's streams, whose locks the main thread may hold.

    Args:
        below: Whether a progress bar may stand in this line of the terminal.
    """
    held = _state.saying.acquire(timeout=1)
    with suppress(Exception):  # the terminal is closed, say; nothing keeps this process from its end
        if not _state.said:
            descriptor = sys.stderr.fileno()
            if os.name == "nt" or select.select([], [descriptor], [], 1)[1]:  # Windows selects sockets alone
                line = f"{below * _NEW_LINE}{_state.line()}\n".encode(errors="replace")
                _state.said = True
                os.write(descriptor, line)
    if held:
        _state.saying.release()


def _bar_is_open() -> bool:
    """Whether a progress bar, of this package or another, was shown and not closed; the line of a closed one ended."""
    ours: Any = sys.modules.get("weightspace.runtime.progress")
    bars: Any = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    with suppress(Exception):
        if ours is not None and ours.line_is_open():
            return True
        return any(bar.last_print_n > bar.initial for bar in list(bars._instances))
    return False


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _end() -> None:
    os._exit(code())


if is_command():
    install()
