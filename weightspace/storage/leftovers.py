"""Temporary names beside a file or folder that is being written, and what a killed process leaves of them.

    .records.jsonl.4711@host.1a2b3c4d.partial

The name says who writes: leftovers of a process that is gone are removed by the next one that writes there, those of
one that may be alive are left alone. Nothing reads them.
"""

import contextlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

_NAME = re.compile(r"\.(?P<name>.*)\.(?P<pid>\d{1,10})@(?P<host>[\w-]*)\.[0-9a-f]{8}\.partial", re.DOTALL)
SUFFIX = ".partial"
"""End of every temporary name."""


def temporary_name(name: str) -> str:
    """A name that is used once, beside a file or folder of this name.

    Args:
        name: The name that the file or folder is going to have.
    """
    return f".{name}.{os.getpid()}@{host()}.{secrets.token_hex(4)}{SUFFIX}"


def leftovers(folder: Path, name: str | None = None) -> Iterator[Path]:
    """What killed processes left under temporary names; not what a process that may be alive is writing.

    Args:
        folder: The folder that it lies in.
        name: The name that it was going to have; None for any.
    """
    for path in list(folder.iterdir()):
        found = _NAME.fullmatch(path.name)
        if found is None:  # version 0.1 gave no host
            if name is None and path.name.startswith(".") and path.name.endswith(SUFFIX):
                yield path
        elif name in (None, found["name"]) and not _may_be_alive(int(found["pid"]), found["host"]):
            yield path


def remove_leftover(path: Path) -> None:
    """Remove a temporary file or folder as far as that is possible: what stays is ignored, and removed another time.

    Args:
        path: The file or folder; it need not exist.
    """
    with contextlib.suppress(OSError, ValueError):  # a name that no file has
        try:
            path.unlink(missing_ok=True)
        except OSError:  # a folder, which systems say differently
            shutil.rmtree(path, ignore_errors=True)


def host() -> str:
    """The name of this machine, in letters that any file name may have."""
    return re.sub(r"[^\w-]", "-", socket.gethostname())[:64]


def _may_be_alive(pid: int, where: str) -> bool:
    """False for this process, and for one of this machine that is gone; of others nothing is known."""
    return where != host() or (pid != os.getpid() and is_alive(pid))


def is_alive(pid: int) -> bool:
    """Is there a process of this number on this machine?

    Args:
        pid: Number of the process.
    """
    if os.name == "nt":  # there, os.kill would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's; no number of a process
        return True
    return True
