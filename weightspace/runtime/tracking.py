"""What long steps say of themselves in numbers, and who listens.

A step opens a `stage`, counts what is done, and offers numbers with `log`; a hundred times in its course they go to the
log of the run's folder and to the trackers of `track`. Worker processes have no trackers: what their folders' logs hold
is passed on when a part is done (`weightspace.training.part_logs`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

from weightspace.runtime import checks

_TIMES = 100  # that a stage is told in its course


@runtime_checkable
class Tracker(Protocol):
    """Takes numbers in the course of training: of TensorBoard, Weights & Biases, a file, or your own."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers.

        Args:
            step: Steps that the stage has done, over all its blocks.
            values: Numbers by name, such as "flow/loss": the stage, and what it is.
        """
        ...


Log = Callable[[int, Mapping[str, float]], None]

_trackers: ContextVar[tuple[Tracker, ...]] = ContextVar("trackers", default=())
_folder: ContextVar[Log | None] = ContextVar("folder", default=None)
_stage: ContextVar["Stage | None"] = ContextVar("stage", default=None)


@contextmanager
def track(*trackers: Tracker) -> Iterator[None]:
    """Inside the block, what is trained, searched and fitted says how it goes to these trackers.

        with ws.track(ws.trackers.TensorBoard("runs/board")):
            zoo = ws.collect(task, n=300, folder="runs/zoo")

    Args:
        trackers: Trackers, beside those of an outer block.

    Raises:
        InputError: One of them has no method `log`.
    """
    for tracker in trackers:
        checks.having(tracker, "tracker", methods=("log",), wanted="a tracker, such as trackers.CSV('loss.csv')")
    before = _trackers.set((*_trackers.get(), *trackers))
    try:
        yield
    finally:
        _trackers.reset(before)


@contextmanager
def into_folder(log: Log) -> Iterator[None]:
    """Inside the block the numbers go to this folder's log too, and no more to that of a folder around it.

    Args:
        log: Function that takes a step and numbers by name.
    """
    before = _folder.set(log)
    try:
        yield
    finally:
        _folder.reset(before)


@contextmanager
def paused() -> Iterator[None]:
    """Inside the block nothing is said, as of training that is only timed."""
    before = _stage.set(None)
    try:
        yield
    finally:
        _stage.reset(before)


@contextmanager
def stage(name: str, total: int) -> Iterator["Stage"]:
    """A stage, until the end of the block.

    Args:
        name: Name in front of its numbers; that of a stage around it comes first.
        total: Number of its steps.
    """
    outer = _stage.get()
    made = Stage(name if outer is None else f"{outer.name}/{name}", total)
    before = _stage.set(made)
    try:
        yield made
    finally:
        _stage.reset(before)


def is_followed() -> bool:
    """Whether there are trackers."""
    return bool(_trackers.get())


def pass_on(step: int, values: Mapping[str, float]) -> None:
    """Give the trackers numbers that another process has written.

    Args:
        step: Steps that were done.
        values: Numbers by name.
    """
    for tracker in _trackers.get():
        tracker.log(step, values)


class Stage:
    """A stage that is going on.

    Args:
        name: Name in front of its numbers.
        total: Number of its steps.
    """

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, max(1, total), 0
        self._told = 0

    def advance(self, steps: int = 1) -> None:
        """Count steps that are done.

        Args:
            steps: How many more.
        """
        self.done += steps

    def skip(self, steps: int) -> None:
        """Count steps that an earlier process has done, and told of.

        Args:
            steps: How many.
        """
        self.done += steps
        self._told = self._part()

    def log(self, values: Callable[[], Mapping[str, float]]) -> None:
        """Say how it goes, if a hundredth of the stage was done since it was last said.

        Args:
            values: Function of the numbers by name, which is called only then.
        """
        if self._part() > self._told:
            self._told = self._part()
            self.tell(values())

    def tell(self, values: Mapping[str, float]) -> None:
        """Say how it goes, now.

        Args:
            values: Numbers by name.
        """
        named = {f"{self.name}/{name}": value for name, value in values.items()}
        folder = _folder.get()
        if folder is not None and named:
            folder(self.done, named)
        for tracker in _trackers.get() if named else ():
            tracker.log(self.done, named)

    def _part(self) -> int:
        return self.done * _TIMES // self.total


def log(values: Callable[[], Mapping[str, float]]) -> None:
    """Say how the stage that is going on goes; without one nothing is said.

    Args:
        values: Function of the numbers by name.
    """
    current = _stage.get()
    if current is not None:
        current.log(values)
