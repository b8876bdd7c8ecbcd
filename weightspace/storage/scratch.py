"""Folders for temporary files: what does not fit into memory lies in the system's, or where workers see it too."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weightspace.errors import StorageError
from weightspace.storage.system_errors import cause_of, remedy_for

_ELSEWHERE = "or name another folder for temporary files in the environment variable TMPDIR"


@contextmanager
def scratch_folder(verb: str, *, within: Path | None = None) -> Iterator[Path]:
    """A folder for temporary files; it is removed at the end of the `with` block, as far as that is possible.

    Args:
        verb: What it is for, in its name.
        within: Folder to make it in; None is the system's for temporary files.

    Raises:
        StorageError: The system gives no folder for temporary files.
    """
    prefix = _prefix(verb)
    try:
        made = tempfile.TemporaryDirectory(prefix=prefix, dir=within, ignore_cleanup_errors=True)
    except OSError as error:
        where = f" ({error.filename!r:.300})" if error.filename else ""
        raise StorageError(
            f"could not make a folder for temporary files: {cause_of(error)}{where}. {remedy_for(error).capitalize()}, "
            f"{f'{_ELSEWHERE}, ' if within is None else ''}then run again"
        ) from error
    with made as folder:
        yield Path(folder)


def remove_scratch(verb: str, within: Path) -> None:
    """Remove what killed processes left of their folders for temporary files, as far as that is possible.

    Args:
        verb: What they were for.
        within: Folder that they were made in, and that no other process works in.
    """
    for left in within.glob(f"{_prefix(verb)}*"):
        shutil.rmtree(left, ignore_errors=True)


def _prefix(verb: str) -> str:
    return f"weightspace-{verb}-"
