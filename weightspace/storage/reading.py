"""Text and JSON from files that may come from anywhere: only real files, of a size that fits, with finite numbers."""

import json
import math
import os
import stat
from pathlib import Path, PureWindowsPath
from typing import Any

from weightspace.errors import StorageError
from weightspace.storage.system_errors import storage_error

TEXT_BYTES = 2**30  # no text of ours is longer
_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


def require_file(path: Path, *, at_most: int | None = None) -> os.stat_result:
    """What the system says of a file, before anything of it is read.

    Args:
        path: File, or a link to one.
        at_most: Greatest size in bytes; None for any.

    Raises:
        StorageError: It is missing, a folder, a pipe or a device, or too large.
    """
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise StorageError(f"{path} is missing: restore it from a copy") from error
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL
        raise storage_error("read", path, error) from error
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in _KINDS.items() if test(found.st_mode)), "something else")
        raise StorageError(f"{path} is {kind}, not a file: put the real file in its place")
    if at_most is not None and found.st_size > at_most:
        raise StorageError(
            f"{path} has {found.st_size:,} bytes, more than any such file of weightspace ({at_most:,}): "
            "it is something else; restore it from a copy"
        )
    return found


def plain_name(name: Any, what: str) -> str:
    """A name in a file as the name of a file beside it.

    Args:
        name: What the file says.
        what: The file, for the error.

    Raises:
        StorageError: It is no text, or leads to another folder.
    """
    if not isinstance(name, str) or not name or name in (".", "..") or "\0" in name or "/" in name:
        plain = False
    else:
        plain = PureWindowsPath(name).name == name  # neither "..\\x" nor "C:x", wherever the folder is read
    if not plain:
        raise StorageError(f"{what} names the file {name!r:.200}: files lie beside it, nowhere else; do not use it")
    return name


def read_text(path: Path, *, at_most: int = TEXT_BYTES) -> str:
    """The text of a file.

    Args:
        path: File to read.
        at_most: Greatest size in bytes.

    Raises:
        StorageError: It is no file, too large, or not text in UTF-8.
    """
    require_file(path, at_most=at_most)
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise storage_error("read", path, error) from error
    except UnicodeDecodeError as error:
        raise StorageError(f"{path} is damaged ({error}): restore it from a copy") from error


def parse_json(text: str | bytes, what: str) -> Any:
    """JSON as data, with finite numbers only.

    Args:
        text: The JSON.
        what: Where it stands, for the error.

    Raises:
        StorageError: It is no JSON, nested too deeply, or holds NaN or an infinite number.
    """
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_refused)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise StorageError(f"{what} is damaged ({error!r:.200}): restore it from a copy") from error


def read_json(path: Path) -> Any:
    """The data of a JSON file.

    Args:
        path: File to read.

    Raises:
        StorageError: It is no file, too large, or damaged.
    """
    return parse_json(read_text(path), str(path))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object in each line.

    Args:
        path: File to read.

    Raises:
        StorageError: It is no file, too large, or damaged.
    """
    lines = read_text(path).splitlines()
    return [parse_object(line, f"{path}, line {i + 1},") for i, line in enumerate(lines)]


def parse_object(text: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object as data.

    Args:
        text: The JSON.
        what: Where it stands, for the error.

    Raises:
        StorageError: It is no JSON object.
    """
    found = parse_json(text, what)
    if not isinstance(found, dict):
        raise StorageError(f"{what} is damaged ({found!r:.80} is no object): restore it from a copy")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.40} is no finite number")
    return value


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no finite number")
