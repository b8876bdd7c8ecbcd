"""Parts of an evaluation that are kept in its folder as they are measured: one that was stopped goes on after them.

Workers measure parts at the same time: each writes its own into the folder, where they are read afterwards.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from weightspace.errors import StorageError
from weightspace.runtime.executor import Executor, as_worker
from weightspace.runtime.progress import progress
from weightspace.storage.files import dump_json, read_manifest, write_text
from weightspace.storage.system_errors import exists
from weightspace.storage.typed import from_json, to_json

T = TypeVar("T")
_FORMAT, _VERSION = "weightspace.part", 1


@dataclass(frozen=True)
class Part:
    """Something that is measured by itself.

    Args:
        name: Name of its file, without the ending.
        what: What is measured, in words that are the same whenever the same is measured.
        kind: Class of the result.
    """

    name: str
    what: str
    kind: type


@runtime_checkable
class Measuring(Protocol):
    """Parts, and what measures them; it goes to workers whole, so it must be picklable."""

    @property
    def parts(self) -> Sequence[Part]:
        """The parts, in the order of their results."""
        ...

    def measure(self, i: int) -> Any:
        """Measure one part.

        Args:
            i: Its number.

        Returns:
            An object of its kind; None if a figure was not finite.
        """
        ...


@dataclass(frozen=True)
class Together:
    """The parts of several, one after another.

    Args:
        several: What measures them.
    """

    several: Sequence[Measuring]

    @property
    def parts(self) -> Sequence[Part]:
        return [part for one in self.several for part in one.parts]

    def measure(self, i: int) -> Any:
        for one in self.several:
            if i < len(one.parts):
                return one.measure(i)
            i -= len(one.parts)
        raise IndexError(i)

    def apart(self, results: Sequence[Any]) -> list[list[Any]]:
        """Results of all parts as a list for each of the several.

        Args:
            results: The results, in the order of the parts.
        """
        left = iter(results)
        return [[next(left) for _ in one.parts] for one in self.several]


@dataclass(frozen=True)
class Parts:
    """What has been measured, a JSON file a part with the checksum of what it holds.

    Args:
        folder: Folder of the run; None keeps nothing.
        executor: Workers that measure parts at the same time, one thread each; they need the folder.
    """

    folder: Path | None = None
    executor: Executor | None = None

    def all(self, measuring: Measuring, what: str) -> list[Any]:
        """The results of all parts, of which those that are not in the folder are measured now.

        Args:
            measuring: The parts.
            what: What is done, for the bar.
        """
        if self.executor is not None and self.folder is not None:
            self._by_workers(self.executor, self.folder, measuring, what)
        parts = enumerate(progress(measuring.parts, what))
        return [self.kept(part.name, part.what, part.kind, partial(measuring.measure, i)) for i, part in parts]

    def _by_workers(self, executor: Executor, folder: Path, measuring: Measuring, what: str) -> None:
        """Measure the missing parts in workers; a damaged one is told before."""
        planned = measuring.parts
        missing: list[int] = []
        for i, part in enumerate(planned):
            path = self._path(folder, part.name)
            if exists(path):
                _read(path, part.what, part.kind)
            else:
                missing.insert(0, i)  # the last of an evaluation, the training of MC dropout, takes longest
        if not missing:
            return
        work = partial(_measured_by_worker, measuring, folder)
        for _ in progress(executor.map(work, missing), what, total=len(missing)):
            pass
        lost = [planned[i].name for i in missing if not exists(self._path(folder, planned[i].name))]
        if lost:
            warnings.warn(
                f"what workers have measured of {', '.join(lost)} is not in {folder}, and is measured again in this "
                "process: give a folder that all workers see",
                stacklevel=2,
            )

    @staticmethod
    def _path(folder: Path, name: str) -> Path:
        return folder / f"{name}.json"

    def kept(self, name: str, what: str, kind: type[T], measure: Callable[[], T | None]) -> T | None:
        """A part that is in the folder, else one that is measured now and put there.

        Args:
            name: Name of its file, without the ending.
            what: What is measured, in words that are the same whenever the same is measured.
            kind: Class of the result.
            measure: Measures it; None means that a figure was not finite.

        Raises:
            StorageError: The file in the folder is damaged, or holds another part.
        """
        if self.folder is None:
            return measure()
        path = self._path(self.folder, name)
        if not exists(path):
            measured = measure()
            data = None if measured is None else to_json(measured)
            content = {"format": _FORMAT, "version": _VERSION, "what": what, "sha256": _sum(what, data), "result": data}
            write_text(path, dump_json(content, f"what was measured of {what!r}"))
        return _read(path, what, kind)


def _measured_by_worker(measuring: Measuring, folder: Path, i: int) -> None:
    """Measure a part into the folder."""
    as_worker()
    part = measuring.parts[i]
    Parts(folder).kept(part.name, part.what, part.kind, partial(measuring.measure, i))


def _read(path: Path, what: str, kind: type[T]) -> T | None:
    """A part of this run, through its file even when it was just measured: a resumed run goes on with the same."""
    remedy = "delete it, and the same evaluation measures this part again"
    try:
        content = read_manifest(path, _FORMAT, _VERSION, ("what", "sha256", "result"))
    except StorageError as error:
        raise StorageError(f"{error}; or {remedy}") from error
    if content["sha256"] != _sum(content["what"], content["result"]):
        raise StorageError(f"{path} was changed or damaged since it was written (another SHA-256): {remedy}")
    if content["what"] != what:
        found = f"{content['what']!r:.80}, not {what!r:.80}"
        raise StorageError(f"{path} holds {found}: it was begun by another version; {remedy}")
    return None if content["result"] is None else from_json(kind, content["result"], str(path))


def _sum(what: Any, data: Any) -> str:
    return hashlib.sha256(json.dumps([what, data], sort_keys=True).encode()).hexdigest()
