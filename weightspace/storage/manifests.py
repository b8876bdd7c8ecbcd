"""manifest.json: the size and the checksum of every file of a finished folder.

It lies beside the files, whose own formats know nothing of it: folders of version 0.1 have none, and are read with the
checks that they have. Folders within a folder have manifests of their own.

    {"format": "weightspace.manifest", "version": 1, "files": {"config.yaml": {"bytes": 120, "sha256": "..."}}}
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weightspace.errors import StorageError
from weightspace.storage.files import dump_json, file_hash, read_manifest, write_text
from weightspace.storage.reading import plain_name, require_file
from weightspace.storage.system_errors import exists, told
from weightspace.storage.typed import from_json, to_json

MANIFEST = "manifest.json"
_FORMAT = "weightspace.manifest"
_VERSION = 1
_REMEDY = "restore it from a copy, or delete {folder} and run its command again"


@dataclass(frozen=True)
class FileSum:
    """What is known of a file.

    Args:
        bytes: Size of the file.
        sha256: SHA-256 of its content, in hexadecimal.
    """

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "FileSum":
        """Read a file."""
        return cls(require_file(path).st_size, file_hash(path))

    @classmethod
    def of_text(cls, text: str) -> "FileSum":
        """Of a text that is yet to be written."""
        data = text.encode()
        return cls(len(data), hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class _Manifest:
    format: str
    version: int
    files: dict[str, FileSum]


@dataclass
class Checked:
    """What `verify` looked at.

    Args:
        files: Number of files that are as they were written.
        bytes: Their size together.
        unknown: Files that no manifest lists.
        without: Folders that have no manifest.
    """

    files: int = 0
    bytes: int = 0
    unknown: list[Path] = field(default_factory=list)
    without: list[Path] = field(default_factory=list)


def write_manifest(folder: Path, to_come: Mapping[str, str] | None = None) -> None:
    """Write the manifest of all files of a folder.

    Args:
        folder: A folder with all its files; hidden ones and folders in it are left out.
        to_come: Texts of files that are written next, by name.
    """
    with told("read", folder):
        known = {path.name: FileSum.of(path) for path in _files(folder)}
    _write(folder, known | {name: FileSum.of_text(text) for name, text in (to_come or {}).items()})


def add_to_manifest(folder: Path, names: Iterable[str]) -> None:
    """Write the manifest of some files of a folder, or put them into the one that is there.

    Args:
        folder: Folder of the files.
        names: Names of files that were just written.
    """
    with told("read", folder):
        known = read_sums(folder) or {}
    _write(folder, {**known, **{name: FileSum.of(folder / name) for name in names}})


def drop_manifest(folder: Path) -> None:
    """Remove the manifest of a folder whose run goes on."""
    with told("remove", folder / MANIFEST):
        (folder / MANIFEST).unlink(missing_ok=True)


def read_sums(folder: Path) -> dict[str, FileSum] | None:
    """What the manifest of a folder lists; None without one.

    Args:
        folder: A folder.

    Raises:
        StorageError: The manifest is damaged, or names files elsewhere.
    """
    path = folder / MANIFEST
    if not exists(path):
        return None
    data = read_manifest(path, _FORMAT, _VERSION, ["files"])
    sums = from_json(_Manifest, data, str(path)).files
    return {plain_name(name, str(path)): found for name, found in sums.items()}


def check_listed(folder: Path, *, tensors: bool = False, required: Iterable[str] = ()) -> None:
    """Compare the files that a folder's manifest lists with it; without one there is nothing to compare.

    Args:
        folder: A folder.
        tensors: Whether to read the safetensors files too, which are large.
        required: Names of files that must be listed.

    Raises:
        StorageError: A file was changed, is of another size or not listed, or the manifest is damaged.
    """
    sums = read_sums(folder)
    if sums is None:
        return
    for name in required:
        if name not in sums:
            raise StorageError(
                f"{folder / MANIFEST} does not list {name}: one of the two is of another folder; "
                + _REMEDY.format(folder=folder)
            )
    for name, expected in sums.items():
        if exists(folder / name):
            _compare(folder / name, expected, read=tensors or not name.endswith(".safetensors"))


def check_one(path: Path) -> None:
    """Compare one file with the manifest beside it, if that lists it.

    Args:
        path: The file.

    Raises:
        StorageError: It was changed, or the manifest is damaged.
    """
    expected = (read_sums(path.parent) or {}).get(path.name)
    if expected is not None:
        _compare(path, expected, read=True)


def verify(folder: Path) -> Checked:
    """Compare every file of a folder, and of the folders in it, with the manifests.

    Args:
        folder: A folder.

    Raises:
        StorageError: A file is missing or was changed, or a manifest is damaged.
    """
    checked = Checked()
    with told("read", folder):
        _verify(folder, checked)
    return checked


def _verify(folder: Path, checked: Checked) -> None:
    sums = read_sums(folder)
    if sums is None:
        checked.without.append(folder)
    for name, expected in (sums or {}).items():
        if not (folder / name).exists():
            raise StorageError(
                f"{folder / name} is missing: {MANIFEST} lists it with {expected.bytes:,} bytes; "
                + _REMEDY.format(folder=folder)
            )
        _compare(folder / name, expected, read=True)
        checked.files, checked.bytes = checked.files + 1, checked.bytes + expected.bytes
    if sums is not None:
        checked.unknown += [path for path in _files(folder) if path.name not in sums]
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and path.name[0] != ".":
            _verify(path, checked)


def _compare(path: Path, expected: FileSum, *, read: bool) -> None:
    remedy = _REMEDY.format(folder=path.parent)
    size = require_file(path).st_size
    if size != expected.bytes:
        raise StorageError(
            f"{path} has {size} bytes, expected {expected.bytes} ({MANIFEST}): it is truncated or was changed; {remedy}"
        )
    if read and (found := file_hash(path)) != expected.sha256:
        raise StorageError(
            f"{path} does not match its checksum in {MANIFEST} (SHA-256 {found[:12]}..., expected "
            f"{expected.sha256[:12]}...): it was damaged or changed; {remedy}"
        )


def _files(folder: Path) -> list[Path]:
    """The files that count: neither hidden ones (locks, temporary ones) nor what belongs to an unfinished run."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.name[0] != "." and path.name != MANIFEST and not path.name.endswith(_UNFINISHED)
    )


SUM = ".sha256"
"""End of the name of a file that holds the checksum of the one beside it, in an unfinished run."""

_UNFINISHED = (SUM, ".checkpoint.safetensors")


def _write(folder: Path, sums: Mapping[str, FileSum]) -> None:
    data: dict[str, Any] = {"format": _FORMAT, "version": _VERSION}
    data["files"] = {name: to_json(sums[name]) for name in sorted(sums)}
    write_text(folder / MANIFEST, dump_json(data, "the manifest", indent=1))
