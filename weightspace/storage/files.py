"""Files that are complete or absent: atomic writes, checksums, manifests."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightspace.errors import InputError, StorageError
from weightspace.storage.leftovers import leftovers, remove_leftover, temporary_name
from weightspace.storage.reading import read_json, require_file
from weightspace.storage.system_errors import told

_KEPT = "Files already in the folder are untouched"


@dataclass(frozen=True)
class SizeAndSum:
    """What a manifest says of the file of its tensors, or of its records.

    Args:
        size: Bytes of the file.
        sha256: SHA-256 of the file, in hexadecimal.
    """

    size: int
    sha256: str


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary name to write to; on success it is synced and becomes `path` in one step.

    Args:
        path: The file to write; an older one stays until the new one is complete.

    Raises:
        StorageError: It cannot be written.
    """
    temporary = path.with_name(temporary_name(path.name)) if path.name else path
    try:
        with told("write", path, kept=_KEPT):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())  # safetensors writes files that only their owner can read
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        if temporary != path:
            remove_leftover(temporary)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill; on success it becomes `folder` in one step.

    Args:
        folder: The folder to write; it does not exist, or is empty.

    Raises:
        StorageError: The folder exists and is not empty, or cannot be written.
    """
    with told("write", folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StorageError(f"{folder} exists and is not empty: choose another folder, or delete it first")
        target = folder.resolve()  # an empty folder may be the working folder, or a link to one
        target.parent.mkdir(parents=True, exist_ok=True)
        for leftover in leftovers(target.parent, target.name):
            remove_leftover(leftover)
        temporary = target.with_name(temporary_name(target.name))
        temporary.mkdir(0o700)
    try:
        yield temporary
        with told("write", folder):
            temporary.chmod(0o755)
            if folder.exists() and os.name == "nt":  # elsewhere an empty folder is replaced
                folder.rmdir()
            temporary.rename(target)
            try:
                sync_folder(target.parent)
            except OSError:
                target.rename(temporary)  # what is said not to be written is not there
                raise
    finally:
        remove_leftover(temporary)


def make_folder(folder: Path) -> None:
    """Make a folder that may be there already.

    Args:
        folder: The folder; those above it are made too.

    Raises:
        StorageError: It cannot be made, or a file has its name.
    """
    with told("create the folder", folder):
        folder.mkdir(parents=True, exist_ok=True)


def remove_files(folder: Path, pattern: str) -> None:
    """Remove the files of a folder whose names match a pattern.

    Args:
        folder: The folder.
        pattern: Glob of names.

    Raises:
        StorageError: One cannot be removed.
    """
    with told("remove files from", folder):
        for path in folder.glob(pattern):
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Make a rename inside the folder survive a power cut, where folders can be synced (not on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync files alone
            raise
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file atomically.

    Args:
        path: The file.
        data: Its content.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically, with the same bytes on every system.

    Args:
        path: The file.
        text: Its content.
    """
    write_bytes(path, text.encode())


def dump_json(value: Any, what: str, **options: Any) -> str:
    """JSON text, with an error that names what could not be written."""
    try:
        return json.dumps(value, allow_nan=False, **options)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{what} cannot be written as JSON ({error}): use only numbers, strings, lists and dicts, no NaN"
        ) from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with told("read", path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(path: Path, format_name: str, version: int | Sequence[int], keys: Sequence[str]) -> dict[str, Any]:
    """Read the JSON manifest of a folder and check its format, version (or versions) and keys.

    Raises:
        StorageError: It is damaged, of another format, or of a version this weightspace cannot read.
    """
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not {"format", "version"} <= set(manifest):
        raise StorageError(f"{path} is damaged (it has no format and version): restore it from a copy")
    found = (manifest["format"], manifest["version"])
    if found[0] != format_name:
        raise StorageError(f"{path} describes a {found[0]!r:.80}, not a {format_name!r}: give another folder")
    versions = (version,) if isinstance(version, int) else tuple(version)
    if type(found[1]) is not int or found[1] not in versions:
        raise StorageError(
            f"{path} has format version {found[1]!r:.80}, this weightspace reads version {max(versions)}: "
            "use the weightspace that wrote it, or a newer one"
        )
    missing = [key for key in keys if key not in manifest]
    if missing:
        raise StorageError(f"{path} is damaged (it lacks {', '.join(missing)}): restore it from a copy")
    return manifest


def check_file(path: Path, size: int, sha256: str, *, verify: bool = True) -> None:
    """Raise StorageError unless a file is there, of this size and, if asked, of this checksum."""
    found = require_file(path).st_size
    if found != size:
        raise StorageError(
            f"{path} has {found} bytes, expected {size}: it is truncated or was changed; restore it from a copy"
        )
    if verify and file_hash(path) != sha256:
        raise StorageError(f"{path} does not match its checksum: it was damaged or changed; restore it from a copy")
