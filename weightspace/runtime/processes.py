"""Processes: workers on this machine that end with the process that started them, whatever ends it."""

import hashlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from tqdm import tqdm

from weightspace.errors import InputError, StorageError
from weightspace.runtime import allocator
from weightspace.runtime.executor import end_with_parent
from weightspace.runtime.progress import quiet
from weightspace.runtime.user_code import keep_place, place_of

_SECONDS_TO_END = 5.0  # of a worker without further work; then it is killed
_PERHAPS: Mapping[int | None, str] = {
    -9: "; it may have run out of memory",
    1: '; it says why above, and a script that begins processes needs `if __name__ == "__main__":` around it',
}


@contextmanager
def processes(workers: int) -> Iterator["Processes"]:
    """Worker processes, as the executor of `collect_on`, `WeightMatching.fit` and others.

    They are killed when the block is left by an exception, Ctrl-C included, and end by themselves when this process is
    killed. Ctrl-C reaches this process alone. A worker is started when it is first needed, as a new interpreter, so a
    script needs its `if __name__ == "__main__":`.

    Args:
        workers: Number of processes.

    Raises:
        InputError: The number of processes is below 1.
        StorageError: A worker ended before its work was done.
    """
    if workers < 1:
        raise InputError(f"ask for at least one process, got {workers}")
    pool = Processes(workers)
    try:
        yield pool
    except BaseException:
        pool.kill([*pool.workers, *pool.apart])
        raise
    pool.close()


class _Worker:
    """A process that applies a function to items, one at a time."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,))
        with _interrupts_blocked():
            self.process.start()
        theirs.close()  # the worker alone holds this end now, so that its death ends the connection
        self.known: bytes = b""  # digest of the function that it holds, which may be large

    def give(self, function: "_Packed", item: bytes) -> None:
        """Begin an item; the function is sent if it is another than before."""
        try:
            self.connection.send_bytes(b"" if function.digest == self.known else function.data)
            self.connection.send_bytes(item)
        except OSError:
            raise self._ended() from None
        self.known = function.digest

    def take(self) -> bytes:
        """What it answers."""
        try:
            return self.connection.recv_bytes()
        except (EOFError, OSError):
            raise self._ended() from None

    def _ended(self) -> StorageError:
        self.process.join(_SECONDS_TO_END)
        code = self.process.exitcode
        how = f"by signal {-code}" if code is not None and code < 0 else f"with code {code}"
        return StorageError(
            f"a worker process ended {how}{_PERHAPS.get(code, '')}: run the same again, what is finished is kept"
        )


class Processes:
    """Workers, and the one map at a time that uses them; it has no threads.

    Args:
        size: Number of workers at most.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.workers: list[_Worker] = []
        self.apart: list[_Worker] = []  # with an item that was begun
        self._mapping = False

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        """Apply the function to every item; results come in the order of the items.

        Items are taken while results are asked for.
        """
        if self._mapping:
            raise _busy()
        message, items = _Packed(function), enumerate(items)
        busy: dict[Any, tuple[_Worker, int]] = {}  # by connection
        done: dict[int, Any] = {}
        taken = 0
        self._mapping = True
        try:
            while True:
                while len(busy) < max(1, self.size - len(self.apart)) and (following := next(items, None)) is not None:
                    i, item = following
                    worker = self._free(busy)
                    worker.give(message, _packed(item))
                    busy[worker.connection] = worker, i
                if taken in done:
                    yield done.pop(taken)
                    taken += 1
                elif busy:
                    for connection in wait(list(busy)):
                        worker, i = busy[connection]
                        answer = worker.take()
                        del busy[connection]
                        done[i] = _result(answer)
                else:
                    return
        finally:
            self.kill([worker for worker, _ in busy.values()])
            self._mapping = False

    def begin(self, function: Callable[[Any], Any], item: Any, /) -> Callable[[], Any]:
        """Begin one item at once, beside whatever this process does next; what is returned waits for its result.

            done = pool.begin(train, networks)
            ...
            trained = done()

        Its worker takes part in no map until the result is taken; at the end of the block it is killed.
        """
        if self._mapping:
            raise _busy()
        message, packed = _Packed(function), _packed(item)
        worker = self._free(())
        try:
            worker.give(message, packed)
        except StorageError:
            self.kill([worker])
            raise
        self.workers.remove(worker)
        self.apart.append(worker)

        def result() -> Any:
            if worker not in self.apart:
                raise InputError("the result of what was begun can be taken once")
            try:
                answer = worker.take()
            except BaseException:  # Ctrl-C too: its answer would be taken for that of the next item
                self.kill([worker])
                raise
            self.apart.remove(worker)
            self.workers.append(worker)
            return _result(answer)

        return result

    def _free(self, busy: Container[Any]) -> _Worker:
        """A worker without an item, if need be a new one."""
        for worker in self.workers:
            if worker.connection not in busy:
                return worker
        self.workers.append(_Worker())
        return self.workers[-1]

    def kill(self, workers: Iterable[_Worker]) -> None:
        """End workers at once; others take their places when they are needed."""
        ended = [worker for worker in workers if worker in self.workers or worker in self.apart]
        for worker in ended:
            worker.process.kill()
            worker.connection.close()
        for worker in ended:
            worker.process.join()
            (self.workers if worker in self.workers else self.apart).remove(worker)

    def close(self) -> None:
        """Let the workers end, which have no more work."""
        for worker in self.workers:
            worker.connection.close()
        for worker in self.workers:
            worker.process.join(_SECONDS_TO_END)
        self.kill([*self.workers, *self.apart])


def _busy() -> InputError:
    return InputError("these processes are busy: take all results of one map before the next begins")


def _serve(connection: Connection) -> None:
    """What a worker does until the connection ends; then it ends without tidying up, which takes seconds."""
    _work(connection)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or there is none
            stream.flush()
    os._exit(0)


def _work(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it decides
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    allocator.keep()
    quiet()  # the bars of several processes would be drawn over each other
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which is reported as leaked when this is killed
    end_with_parent()
    function: Any = None
    while True:
        try:
            told, item = connection.recv_bytes(), connection.recv_bytes()
        except (EOFError, OSError):
            return
        try:
            if told:
                function = None
                function = _unpacked(told)
            answer = pickle.dumps((function(_unpacked(item)), None), pickle.HIGHEST_PROTOCOL)
        except BaseException as error:  # whatever it is, it is raised where the results are taken
            answer = _packed_error(error)
        try:
            connection.send_bytes(answer)
        except OSError:
            return


class _Packed:
    """A function as it is sent, and the digest by which a worker is known to have it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.data = _packed(function)
        self.digest = hashlib.blake2b(self.data).digest()


def _packed(value: Any) -> bytes:
    """A plain pickle: those of multiprocessing would move the tensors of this process into shared memory."""
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(f"{error}: what other processes work on is defined at the top of a module") from error


def _result(answer: bytes) -> Any:
    """The result of an item; an error that was raised there is raised here."""
    result, error = pickle.loads(answer)
    if error is not None:
        raise error
    return result


def _unpacked(data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except (AttributeError, ImportError) as error:
        raise InputError(f"{error}: what other processes work on is defined in a module that they import") from error


def _packed_error(error: BaseException) -> bytes:
    """An error with its traceback as a note; one that cannot be sent becomes a RuntimeError."""
    keep_place(error)
    error.add_note("".join(traceback.format_exception(error)))
    try:
        data = pickle.dumps((None, error), pickle.HIGHEST_PROTOCOL)
        pickle.loads(data)
        return data
    except Exception:
        other = RuntimeError(f"{type(error).__name__}: {error}")
        keep_place(other, place_of(error))
        return pickle.dumps((None, other), pickle.HIGHEST_PROTOCOL)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process that is started inside has Ctrl-C blocked from its first moment; here a signal waits until after."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # when multiprocessing starts it, it unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
