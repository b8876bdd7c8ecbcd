"""Code of one's own that the command line named when a folder was made, and that has to be named again.

What a file names is never imported. A folder keeps the words all the same, in a hidden file that no manifest lists, so
that an error can say what to type.
"""

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from weightspace.cli.inputs import Common
from weightspace.errors import StorageError
from weightspace.storage.files import dump_json, write_text
from weightspace.storage.reading import parse_object, read_text

NAMED = ".named.json"
_OPTIONS = ("task", "factory", "import_from")
_MOST = 2**16  # bytes


def keep_names(command: object) -> None:
    """Write into a verb's folder what it named, and what was named for the folders that it read.

    Args:
        command: A verb that has run.
    """
    out = getattr(command, "out", None)
    if not isinstance(out, Path) or not out.is_dir():
        return
    names = {name: value for folder in _folders(command) for name, value in _read(folder).items()}
    names |= _given(command)
    if names and names != _read(out) and os.access(out, os.W_OK):
        write_text(out / NAMED, dump_json(names, "the names"))


def reminder(command: object, said: str) -> str | None:
    """What to type so that a verb finds the code that its folders were made with; None where that is not what failed.

    Args:
        command: The verb that failed.
        said: The message of its error.
    """
    if not any(_flag(name) in said for name in _OPTIONS):
        return None
    given = _given(command)
    for folder in _folders(command):
        names = {name: value for name, value in _read(folder).items() if name not in given}
        if "task" in names and not hasattr(command, "task"):
            del names["task"]
        if "task" in {**names, **given}:  # which says how to build the network
            names.pop("factory", None)
        words = " ".join(f"{_flag(name)} {shlex.quote(names[name])}" for name in _OPTIONS if name in names)
        if words:
            return f"{folder} was made with {words}: add this, if you trust that code"
    return None


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _given(command: object) -> dict[str, str]:
    """Code of one's own, or of a library, that a command line names."""
    common = getattr(command, "common", None)
    if not isinstance(common, Common):
        return {}
    found = {"task": getattr(command, "task", None), "factory": common.factory, "import_from": common.import_from}
    named = {name: str(value) for name, value in found.items() if value is not None}
    if ":" not in named.get("task", ":"):  # a built-in one, which records name
        del named["task"]
    return named if {"task", "factory"} & set(named) else {}


def _folders(command: object) -> Iterator[Path]:
    """The folders that a verb reads, whose names it may have."""
    if not is_dataclass(command):
        return
    for field in fields(command):
        value = getattr(command, field.name)
        for text in value if isinstance(value, tuple) else [value]:
            if field.name in ("out", *_OPTIONS) or not isinstance(text, str | Path):
                continue
            folder = Path(str(text).partition("@")[0].rpartition("=")[2])
            if folder.name and (folder / NAMED).is_file():
                yield folder


def _read(folder: Path) -> Mapping[str, Any]:
    """The names that a folder keeps; what is not as `keep_names` writes it counts as nothing, as it only reminds."""
    try:
        found = parse_object(read_text(folder / NAMED, at_most=_MOST), NAMED) if (folder / NAMED).is_file() else {}
    except StorageError:
        return {}
    plain = {name: value for name, value in found.items() if name in _OPTIONS and isinstance(value, str)}
    return {name: value for name, value in plain.items() if value.isprintable()}
