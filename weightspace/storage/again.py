"""Folders that are written in one step, by a command that is run again: the same files once more are no error."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from weightspace.errors import StorageError
from weightspace.storage.files import make_folder
from weightspace.storage.leftovers import leftovers, remove_leftover, temporary_name
from weightspace.storage.manifests import read_sums, verify
from weightspace.storage.system_errors import told


def write_again(folder: Path, write: Callable[[Path], object]) -> None:
    """Write a folder; one that is there is left as it is, if the same files would be written.

    Args:
        folder: The folder.
        write: Writes one of this name, with a manifest.

    Raises:
        StorageError: The folder holds other files or is damaged, or cannot be written.
    """
    with told("read", folder):
        there = folder.is_dir() and any(folder.iterdir())
    if not there:
        write(folder)
        return
    other = f"{folder} exists and is not empty: choose another folder, or delete it first"
    sums = read_sums(folder)
    if sums is None:
        raise StorageError(other)
    place = folder.resolve()
    with told("write", folder):
        for leftover in leftovers(place.parent, place.name):
            remove_leftover(leftover)
    temporary = place.with_name(temporary_name(place.name))
    with ExitStack() as stack:
        stack.callback(remove_leftover, temporary)
        make_folder(temporary)
        write(temporary / "again")
        if read_sums(temporary / "again") != sums:
            raise StorageError(f"{folder} holds something else: choose another folder, or delete it first")
    if verify(folder).unknown:
        raise StorageError(other)
