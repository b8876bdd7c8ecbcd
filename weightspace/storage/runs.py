"""Run folders: a stage's configuration, its log, its output, and a mark when it is complete.

Running a stage again into the same folder returns at once if it is complete and continues it if it
was interrupted; a folder that holds anything else is refused. The configuration's hash decides.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from weightspace.errors import InputError, StorageError
from weightspace.runtime import tracking
from weightspace.storage.checksums import check_settings, drop_sums
from weightspace.storage.files import dump_json, make_folder, write_text
from weightspace.storage.leftovers import SUFFIX
from weightspace.storage.locks import HOLDER, LOCK, locked
from weightspace.storage.logs import append_line
from weightspace.storage.manifests import check_listed, drop_manifest, write_manifest
from weightspace.storage.reading import read_text
from weightspace.storage.system_errors import told
from weightspace.storage.yaml_text import parse_yaml

CONFIG = "config.yaml"
DONE = "complete.json"
METRICS = "metrics.jsonl"
_CONFIG_BYTES = 2**28


@dataclass(frozen=True)
class Run:
    """An open run folder."""

    folder: Path
    complete: bool
    _place: tuple[int, int] | None = field(default=None, repr=False)

    def check(self) -> None:
        """Raise StorageError if the folder is not there any more, or is another one of the same name."""
        with told("write in", self.folder):
            found = os.stat(self.folder)
        if self._place not in (None, (found.st_dev, found.st_ino)):
            raise StorageError(f"{self.folder} was removed and made anew during the run: run the same command again")

    def log(self, **metrics: Any) -> None:
        """Append a line to metrics.jsonl."""
        self.check()
        append_line(self.folder / METRICS, dump_json({"time": round(time.time(), 3), **metrics}, "the metrics"))

    def log_step(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line to metrics.jsonl; what is not finite is null.

        Args:
            step: Steps that are done.
            values: Numbers by name.
        """
        self.log(step=step, **{name: value if math.isfinite(value) else None for name, value in values.items()})

    def finish(self, **summary: Any) -> None:
        """Write the manifest of all files, and mark the run complete."""
        self.check()
        text = dump_json({"time": round(time.time(), 3), **summary}, "the summary")
        with told("finish the run in", self.folder):
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
    with told("open", folder):
        if path.exists():
            _require_same(folder, wanted)  # before a lock file is made in somebody else's folder
        elif folder.exists() and (not folder.is_dir() or any(map(_foreign, folder.iterdir()))):
            raise StorageError(f"{folder} exists and holds something else: choose another folder, or delete it first")
        existed = folder.exists()
        complete = path.exists() and (folder / DONE).exists()
    if complete:  # nothing is written any more: it needs no lock, and may lie where nobody can write
        yield _complete(folder)
        return
    make_folder(folder)
    opened = False
    try:
        with locked(folder):
            run = _opened(folder, path, wanted)
            opened = True
            with tracking.into_folder(run.log_step):
                yield run
    except InputError:
        if opened:
            _remove_if_empty(folder, existed=existed)
        raise


def _complete(folder: Path) -> Run:
    """A run that ended, whose files are those of its manifest."""
    with told("read", folder):
        check_listed(folder, required=[CONFIG, DONE])
    return Run(folder, complete=True)


def _opened(folder: Path, path: Path, wanted: Mapping[str, Any]) -> Run:
    """The run of a locked folder."""
    with told("write in", folder):
        if path.exists():
            _require_same(folder, wanted)  # again: another process may have come first
        else:
            write_text(path, yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True))
        if (folder / DONE).exists():
            return _complete(folder)
        check_settings(folder)
        drop_manifest(folder)
        place = os.stat(folder)
    return Run(folder, complete=False, _place=(place.st_dev, place.st_ino))


def _remove_if_empty(folder: Path, *, existed: bool) -> None:
    """Leave no trace of a mistake found before anything was written: the corrected command can use the same folder."""
    with suppress(OSError):  # what stays is empty; the error that is being told counts more
        leftover = {path.name for path in folder.iterdir()}
        if leftover <= {CONFIG, LOCK, HOLDER, "engine.json", "engine.json.sha256"}:
            for name in leftover:
                (folder / name).unlink()
            if not existed:
                folder.rmdir()


def _foreign(path: Path) -> bool:
    return path.name not in (LOCK, HOLDER) and path.suffix != SUFFIX


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
    text = read_text(path, at_most=_CONFIG_BYTES)
    try:
        found = parse_yaml(text, str(path))
        if not isinstance(found, dict):
            raise ValueError(f"it holds {str(found)!r:.40}, and should have stage, config, inputs and hash")
        settings = {name: value for name, value in found.items() if name != "hash"}
        if set(settings) != {"stage", "config", "inputs"} or not isinstance(found["stage"], str):
            raise ValueError("it should have stage, config, inputs and hash")
        if found["hash"] != _hash(settings):
            raise ValueError("its settings are not those of its hash: something was changed")
    except (ValueError, TypeError, KeyError, RecursionError) as error:  # InputError is a ValueError
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
