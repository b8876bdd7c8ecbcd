"""Lines that are added to a file: a line is whole, or was never there."""

import os
from pathlib import Path

from weightspace.errors import StorageError
from weightspace.storage.reading import require_file
from weightspace.storage.system_errors import told

_PIECE = 2**16


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file. What a killed process left of its last line is removed first.

    Args:
        path: The file; it is made if it is missing, and is no link to one elsewhere.
        line: The line, without its end.

    Raises:
        StorageError: It cannot be written; then the lines that were there stay.
    """
    with told("write", path, kept="Earlier lines are untouched"):
        if path.is_symlink():
            raise StorageError(f"{path} is a link: what is added would be written elsewhere; delete the link")
        if not path.exists():
            path.touch()
        require_file(path)
        with open(path, "rb+", buffering=0) as file:
            end = _end_of_lines(file.fileno())
            file.truncate(end)
            file.seek(end)
            data = f"{line}\n".encode()
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(end)
                raise


def _end_of_lines(descriptor: int) -> int:
    """Where the last whole line ends."""
    position = os.fstat(descriptor).st_size
    while position:
        start = max(0, position - _PIECE)
        os.lseek(descriptor, start, os.SEEK_SET)
        piece = os.read(descriptor, position - start)
        found = piece.rfind(b"\n")
        if found >= 0:
            return start + found + 1
        position = start
    return 0
