"""Model zoos on disk: runs with checkpoints by epoch, as Ray Tune writes them, and what their files say of each run."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weightspace.errors import StorageError
from weightspace.networks.checkpoint_files import SUFFIXES, NetworkFile
from weightspace.storage.reading import parse_object, read_text
from weightspace.storage.system_errors import exists, told

PARAMS, RESULTS = "params.json", "result.json"
_CHECKPOINT = re.compile(r"checkpoint_(\d{1,12})")
_NAMES = ("checkpoints", "checkpoint", "model")
_ITERATION = "training_iteration"
# What Ray notes of its own work, beside what the trained code reported.
_BOOKKEEPING = re.compile(
    r"(time|timestamp|timesteps|episodes|iterations|pid|node|hostname|trial|experiment|done|date|warmup|config|"
    r"should_checkpoint|checkpoint|training_iteration)(_.*|s_.*)?"
)


@dataclass(frozen=True)
class ZooRun:
    """One training run of a zoo.

    Args:
        name: Name of its folder.
        checkpoints: The network of each epoch, in order.
        params: Its settings, as `params.json` has them; empty without the file.
        results: What was reported at each iteration, as `result.json` has it: numbers by name.
    """

    name: str
    checkpoints: Mapping[int, NetworkFile]
    params: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


def zoo_runs(folder: Path) -> list[ZooRun]:
    """The runs of a zoo in order of name; those without a checkpoint are among them.

    Args:
        folder: Folder of runs, or of one folder of runs.

    Raises:
        StorageError: There is no run, or one of its files cannot be read.
    """
    with told("read", folder):
        if not folder.is_dir():
            raise StorageError(f"{folder} is not a folder: give the folder of a zoo, with a folder for each run")
        found = _runs_in(folder)
        inside = [] if found else [path for path in sorted(folder.iterdir()) if path.is_dir()]
        found = found or [run for path in inside for run in _runs_in(path)]
    if not found:
        raise StorageError(
            f"{folder} has no runs: a run is a folder with {PARAMS} or checkpoint_000050/. For a folder of files, or "
            "of folders with one network each, use from_state_dicts (weightspace import without --zoo)"
        )
    return [_run(path, folder) for path in found]


def _runs_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and _is_run(path)]


def _is_run(folder: Path) -> bool:
    if (folder / PARAMS).is_file():
        return True
    return any(_CHECKPOINT.fullmatch(path.name) and path.is_dir() for path in folder.iterdir())


def _run(path: Path, zoo: Path) -> ZooRun:
    name = path.relative_to(zoo).as_posix()
    params = parse_object(_plain(path / PARAMS), str(path / PARAMS)) if exists(path / PARAMS) else {}
    with told("read", path):
        folders = [(match, one) for one in path.iterdir() if (match := _CHECKPOINT.fullmatch(one.name))]
        checkpoints = {int(match[1]): NetworkFile(_file(one), f"{name}/{one.name}") for match, one in folders}
    results = _results(path / RESULTS) if exists(path / RESULTS) else {}
    return ZooRun(name, dict(sorted(checkpoints.items())), params, results)


def _file(folder: Path) -> Path:
    """The file of the network in the folder of a checkpoint."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    named = [path for path in files if path.name in _NAMES or path.name.endswith(SUFFIXES)]
    named = [path for path in named if not path.name.startswith((".", "optimizer"))]
    if len(named) != 1:
        held = ", ".join(path.name for path in files) or "nothing"
        raise StorageError(
            f"{folder} should hold one file of a network ({', '.join(_NAMES)}, or *.pt and the like), and holds "
            f"{held}: leave that file alone in it"
        )
    return named[0]


def _results(path: Path) -> dict[int, dict[str, float]]:
    """Numbers by name at each iteration; what is not finite is left out, and so is a last line that was cut off."""
    found: dict[int, dict[str, float]] = {}
    lines = _plain(path).splitlines()
    for i, line in enumerate(lines):
        try:
            entry = parse_object(line, f"{path}, line {i + 1},")
        except StorageError:
            if i + 1 == len(lines):  # of a run that was killed
                break
            raise
        iteration = entry.get(_ITERATION)
        if isinstance(iteration, int) and not isinstance(iteration, bool):
            found[iteration] = dict(_numbers(entry))
    return found


def _numbers(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in entry.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and not _BOOKKEEPING.fullmatch(name):
            yield name, value


def _plain(path: Path) -> str:
    """The text of a file of JSON with null in place of what is not finite, which Ray writes of runs that diverged."""

    def plain(line: str) -> str:
        if not re.search(r"NaN|Infinity", line):
            return line
        try:
            return json.dumps(_without(json.loads(line)))
        except (ValueError, RecursionError):
            return line  # it is told with its place

    text = read_text(path)
    return plain(text) if path.name == PARAMS else "\n".join(map(plain, text.splitlines()))


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_without(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
