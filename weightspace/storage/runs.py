"""Run folders: a stage's configuration, its log, its output, and a mark when it is complete.

Running a stage again into the same folder returns at once if it is complete and continues it if it
was interrupted; a folder that holds anything else is refused. The configuration's hash decides.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from weightspace.errors import InputError, StorageError
from weightspace.storage.checksums import check_settings, drop_sums
from weightspace.storage.files import dump_json, write_text
from weightspace.storage.manifests import check_listed, drop_manifest, write_manifest
from weightspace.storage.reading import read_text
from weightspace.storage.yaml_text import parse_yaml

CONFIG = "config.yaml"
DONE = "complete.json"
METRICS = "metrics.jsonl"
_CONFIG_BYTES = 2**28
_LOCK = ".lock"
_HOLDER = ".lock.holder"  # the process that works in the folder; Windows lets nobody read a locked file


@dataclass(frozen=True)
class Run:
    """An open run folder."""

    folder: Path
    complete: bool

    def log(self, **metrics: Any) -> None:
        """Append a line to metrics.jsonl."""
        with open(self.folder / METRICS, "a", encoding="utf-8") as file:
            file.write(dump_json({"time": round(time.time(), 3), **metrics}, "the metrics") + "\n")

    def finish(self, **summary: Any) -> None:
        """Write the manifest of all files, and mark the run complete."""
        text = dump_json({"time": round(time.time(), 3), **summary}, "the summary")
        write_manifest(self.folder, {DONE: text})  # before the mark: a complete run has one
        drop_sums(self.folder)
        write_text(self.folder / DONE, text)


@contextmanager
def open_run(
    folder: Path, stage: str, config: Mapping[str, Any], inputs: Mapping[str, str] | None = None
) -> Iterator[Run]:
    """Open a run folder for one process.

    Args:
        stage: Verb of the command, such as "collect".
        config: Settings that decide the output, JSON-like.
        inputs: Fingerprint of each input, by name.

    Raises:
        StorageError: The folder holds another run or other files, another process works in it, or
            it cannot be written.
    """
    wanted = {"stage": stage, "config": dict(config), "inputs": dict(inputs or {})}
    wanted = json.loads(dump_json(wanted, "the configuration"))
    wanted["hash"] = _hash(wanted)
    path = folder / CONFIG
    if path.exists():
        _require_same(folder, wanted)  # before a lock file is made in somebody else's folder
    elif folder.exists() and (not folder.is_dir() or any(map(_foreign, folder.iterdir()))):
        raise StorageError(f"{folder} exists and holds something else: choose another folder, or delete it first")
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create the folder {folder}: {error}") from error
    opened = False
    try:
        with _lock(folder):
            run = _opened(folder, path, wanted)
            opened = True
            yield run
    except InputError:
        if opened:
            _remove_if_empty(folder, existed=existed)
        raise


def _opened(folder: Path, path: Path, wanted: Mapping[str, Any]) -> Run:
    """The run of a locked folder."""
    for leftover in folder.glob(".*.partial"):  # from a process that was killed while writing
        leftover.unlink()
    if path.exists():
        _require_same(folder, wanted)  # again: another process may have come first
    else:
        write_text(path, yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True))
    complete = (folder / DONE).exists()
    if complete:
        check_listed(folder, required=[CONFIG, DONE])
    else:
        check_settings(folder)
        drop_manifest(folder)
    return Run(folder, complete)


def _remove_if_empty(folder: Path, *, existed: bool) -> None:
    """Leave no trace of a mistake found before anything was written: the corrected command can use the same folder."""
    leftover = {path.name for path in folder.iterdir()}
    if leftover <= {CONFIG, _LOCK, _HOLDER, "engine.json", "engine.json.sha256"}:
        for name in leftover:
            (folder / name).unlink()
        if not existed:
            folder.rmdir()


def _foreign(path: Path) -> bool:
    return path.name not in (_LOCK, _HOLDER) and path.suffix != ".partial"


def _require_same(folder: Path, wanted: Mapping[str, Any]) -> None:
    found = read_config(folder)
    if found["hash"] != wanted["hash"]:
        raise StorageError(
            f"{folder} holds another run (it differs in {_differences(found, wanted)}): "
            "choose another folder, or delete it first"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """What a run folder says of its run: stage, config, inputs and their hash.

    Args:
        folder: Folder of a run.

    Raises:
        StorageError: The file config.yaml is missing or damaged.
    """
    path = folder / CONFIG
    try:
        found = parse_yaml(read_text(path, at_most=_CONFIG_BYTES), str(path))
        settings = {name: value for name, value in found.items() if name != "hash"}
        if set(settings) != {"stage", "config", "inputs"} or not isinstance(found["stage"], str):
            raise ValueError("it should have stage, config, inputs and hash")
        if found["hash"] != _hash(settings):
            raise ValueError("its settings are not those of its hash: something was changed")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:  # StorageError is a ValueError
        raise StorageError(
            f"{path} is damaged ({error}): restore it from a copy, or delete {folder} to start anew"
        ) from error
    return found


def _hash(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _differences(found: Any, wanted: Any, path: str = "") -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        names = sorted((found.keys() | wanted.keys()) - {"hash"})
        parts = (_differences(found.get(n), wanted.get(n), f"{path}.{n}".lstrip(".")) for n in names)
        return ", ".join(part for part in parts if part)
    return "" if found == wanted else f"{path}: {found!r} there, {wanted!r} asked"


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process a folder. The lock goes with the process, however it ends."""
    lock = FileLock(folder / _LOCK, timeout=0, mode=0o644)
    try:
        lock.acquire()
    except Timeout as error:
        raise StorageError(
            f"another process ({_holder(folder)}) is working in {folder}: wait for it, or choose another folder"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot write in {folder}: {error}; choose a writable folder") from error
    try:
        (folder / _HOLDER).write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        (folder / _HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    """The number of the process that works in a folder, as far as it is known."""
    for name in (_HOLDER, _LOCK):  # version 0.1 wrote it into the lock itself
        try:
            text = (folder / name).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if text:
            return text
    return "of unknown number"
