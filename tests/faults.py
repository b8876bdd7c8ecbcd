"""Faults of a disk: operations on files below a folder fail, one after another, with an error of the system.

    with Faults(folder, at=7, number=errno.ENOSPC, lasting=True):
        work()

The 7th operation that writes, and all after it, fail as on a full disk. `every_fault` tries all of them.
"""

import builtins
import errno
import fcntl
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import safetensors.torch
from safetensors import SafetensorError

from weightspace.errors import StorageError
from weightspace.storage import tensors as own_tensors
from weightspace.storage.system_errors import remedy_for

FULL_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FREES_SPACE = ("unlink", "rmdir", "chmod")


@dataclass
class Faults:
    """Lets operations below a folder fail.

    Args:
        root: The folder.
        at: The first operation that fails, from 1; 0 for none.
        number: The system's number of the error.
        lasting: Whether all later ones fail too; on a full disk, what frees space works.
        kind: "write", "read" or "lock".
    """

    root: Path
    at: int = 0
    number: int = errno.ENOSPC
    lasting: bool = False
    kind: str = "write"
    seen: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def count(self, kind: str, what: str, place: object) -> None:
        """Count an operation; raise OSError if it is to fail."""
        path = self._path(place)
        if kind != self.kind or path is None or not path.is_relative_to(self.root):
            return
        if self.number in FULL_DISKS and what in _FREES_SPACE:
            return
        self.seen.append(f"{what} {path.relative_to(self.root)}")
        now = len(self.seen)
        if now == self.at or (self.at and now > self.at and self.lasting):
            self.failed.append(self.seen[-1])
            raise OSError(self.number, os.strerror(self.number), str(path))

    @staticmethod
    def _path(place: object) -> Path | None:
        if isinstance(place, int):
            place = os.readlink(f"/proc/self/fd/{place}")
        return Path(os.path.abspath(os.fsdecode(place))) if isinstance(place, str | bytes | os.PathLike) else None

    def __enter__(self) -> "Faults":
        with ExitStack() as stack:
            opened = self._opening(io.open)
            stack.enter_context(patch.object(io, "open", opened))
            stack.enter_context(patch.object(builtins, "open", opened))
            stack.enter_context(patch.object(os, "open", self._opening_descriptors(os.open)))
            stack.enter_context(patch.object(os, "fsync", self._before("write", "fsync", lambda _: None)))
            for name in ("replace", "rename", "mkdir", "rmdir", "unlink", "chmod"):
                stack.enter_context(patch.object(os, name, self._before("write", name, getattr(os, name))))
            for name in ("stat", "listdir", "scandir"):
                stack.enter_context(patch.object(os, name, self._before("read", name, getattr(os, name))))
            stack.enter_context(patch.object(fcntl, "flock", self._before("lock", "flock", fcntl.flock)))
            for module in (safetensors.torch, own_tensors):
                read = self._before("read", "safe_open", module.safe_open)  # pyright: ignore[reportPrivateImportUsage]
                stack.enter_context(patch.object(module, "safe_open", read))
            write = self._serialising(safetensors.torch.serialize_file)  # pyright: ignore[reportPrivateImportUsage]
            stack.enter_context(patch.object(safetensors.torch, "serialize_file", write))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _before(self, kind: str, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(place: Any = ".", *rest: Any, **named: Any) -> Any:
            self.count(kind, what, place)
            return function(place, *rest, **named)

        return counted

    def _opening(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def opened(place: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            writes = bool(set(mode) & set("wax+"))
            kind = "write" if writes else "read"
            self.count(kind, "open", place)
            return _Watched(function(place, mode, *rest, **named), self, kind, place)

        return opened

    def _opening_descriptors(self, function: Callable[..., int]) -> Callable[..., int]:
        def opened(place: Any, flags: int, *rest: Any, **named: Any) -> int:
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)  # or a folder is opened to sync it
            if writes or self.number not in FULL_DISKS:
                self.count("write", "open", place)
            return function(place, flags, *rest, **named)

        return opened

    def _serialising(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def written(data: Any, place: Any, *rest: Any, **named: Any) -> Any:
            try:
                self.count("write", "safetensors", place)
            except OSError as error:  # as safetensors says it, with half the file written
                function(data, place, *rest, **named)
                os.truncate(place, os.path.getsize(place) // 2)
                raise SafetensorError(f"I/O error: {error.strerror} (os error {error.errno})") from None
            return function(data, place, *rest, **named)

        return written


class _Watched:
    """A file whose reads and writes are counted."""

    def __init__(self, file: Any, faults: Faults, kind: str, place: Any) -> None:
        self._file, self._faults, self._kind, self._place = file, faults, kind, place

    def __enter__(self) -> "_Watched":
        self._file.__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        self._file.__exit__(*args)

    def __iter__(self) -> Any:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._file, name)
        counted = {"write": ("write", "truncate"), "read": ("read", "readinto", "readline")}[self._kind]
        if name not in counted:
            return found

        def call(*args: Any) -> Any:
            try:
                self._faults.count(self._kind, name, self._place)
            except OSError:
                if name == "write":  # a part of it is on the disk
                    self._file.write(args[0][: len(args[0]) // 2])
                    self._file.flush()
                raise
            return found(*args)

        return call


@dataclass
class Outcome:
    """What came of all faults of one kind.

    Args:
        told: Points at which an error of ours was raised.
        absorbed: Points that made no difference.
        wrong: What else happened, one line a point.
    """

    told: int = 0
    absorbed: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def points(self) -> int:
        """How many faults were tried."""
        return self.told + self.absorbed + len(self.wrong)


def every_fault(
    work: Callable[[Path], object],
    place: Path,
    *,
    number: int,
    kind: str = "write",
    lasting: bool = False,
    ignored: tuple[str, ...] = (),
    prepare: Callable[[Path], object] = lambda _: None,
    first: int = 1,
    every: int = 1,
) -> Outcome:
    """Let each operation of some work fail in turn, until it passes; what follows is as if nothing had been.

    Every fault must end in an error of ours with what, where and what to do, leave other files as they were, and no
    temporary ones; doing the work again must give the same bytes as without a fault.

    Args:
        work: Writes files below the folder that it gets.
        place: An empty folder to work in.
        number: The system's number of the error.
        kind: Operations that fail: "write", "read" or "lock".
        lasting: Whether all later operations fail too.
        ignored: Names of files whose bytes hold times.
        prepare: Writes files that are there before.
        first: The first operation that fails.
        every: Distance of the operations that fail.
    """
    whole = place / "whole"
    _begin(whole, prepare)
    with patch.object(os, "fsync"):
        work(whole)
    expected, outcome, at = contents(whole, ignored), Outcome(), first
    shutil.rmtree(whole)
    while True:
        root = place / "f"
        before = _begin(root, prepare)
        faults = Faults(root, at, number, lasting, kind)
        error = None
        try:
            with faults:
                work(root)
        except Exception as found:
            error = found
        if not faults.failed:
            shutil.rmtree(root)
            return outcome
        wrong = problem(error, faults, before, root)
        stays = any(failed.startswith("unlink") for failed in faults.failed)  # then nothing could be removed
        with patch.object(os, "fsync"):
            wrong = wrong or _again(work, root, expected, ignored, stays)
        if wrong is not None:
            outcome.wrong.append(f"{at} ({faults.failed[0]}): {wrong}")
        elif error is None:
            outcome.absorbed += 1
        else:
            outcome.told += 1
        shutil.rmtree(root)
        at += every


def _begin(root: Path, prepare: Callable[[Path], object]) -> Mapping[str, str]:
    root.mkdir(parents=True)
    (root / "earlier.txt").write_text("years of work")
    prepare(root)
    return contents(root)


def contents(root: Path, ignored: tuple[str, ...] = ()) -> dict[str, str]:
    """A checksum of every file below a folder, but for locks."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name not in ignored
    }


def problem(error: Exception | None, faults: Faults, before: Mapping[str, str], root: Path) -> str | None:
    """What is wrong with how a fault ended.

    Args:
        error: What was raised.
        faults: What failed.
        before: Checksums of the files that were there.
        root: The folder.
    """
    now = contents(root)
    changed = [name for name, value in before.items() if now.get(name) != value]
    if changed:
        return f"{changed[0]} is another file now"
    left = [name for name in now if name.endswith(".partial")]
    if left and not any(failed.startswith("unlink") for failed in faults.failed):
        return f"{left[0]} stays"
    if error is None:
        return None
    text, system = str(error), OSError(faults.number, os.strerror(faults.number))
    if not isinstance(error, StorageError):
        return repr(error)
    for part in (system.strerror, str(root), remedy_for(system)):
        if part is not None and part.lower() not in text.lower():
            return f"the message lacks {part!r}: {text}"
    return "the message has several lines" if "\n" in text else None


def _again(
    work: Callable[[Path], object], root: Path, expected: Mapping[str, str], ignored: tuple[str, ...], stays: bool
) -> str | None:
    try:
        work(root)
    except Exception as error:
        return f"the next try failed: {error!r}"
    found = contents(root, ignored)
    found = {name: value for name, value in found.items() if not (stays and "/." in f"/{name}")}
    differing = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    return f"the next try differs in {', '.join(differing)}" if differing else None
