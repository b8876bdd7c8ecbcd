"""A checksum beside a file of an unfinished run, in the format of `sha256sum`: a resumed run builds on what it wrote.

The checksum is written before its file gets its name, so a file of a killed run always has one. Version 0.1 wrote none.
When the run ends, the manifests of its folder take over and these files go.
"""

from pathlib import Path

from weightspace.errors import StorageError
from weightspace.storage.files import file_hash, write_text
from weightspace.storage.manifests import SUM
from weightspace.storage.reading import read_text, require_file
from weightspace.storage.system_errors import exists, told

_BYTES = 4096
_SUMMED = ("engine.json", "shard-*.safetensors")


def write_sum(path: Path, sha256: str) -> None:
    """Write the checksum that a file is going to have.

    Args:
        path: The file.
        sha256: SHA-256 of its content, in hexadecimal.
    """
    write_text(_beside(path), f"{sha256}  {path.name}\n")


def check_sum(path: Path, remedy: str, *, found: str | None = None) -> None:
    """Compare a file with the checksum beside it, if there is one.

    Args:
        path: The file.
        remedy: What to do, for the error.
        found: SHA-256 of the file, where it is known.

    Raises:
        StorageError: They differ, or the file is none.
    """
    beside = _beside(path)
    if not exists(beside):
        return
    expected = read_text(beside, at_most=_BYTES)
    if found is None:
        require_file(path)  # a pipe would be read for ever
        found = file_hash(path)
    if expected != f"{found}  {path.name}\n":
        raise StorageError(
            f"{path} was changed or damaged since the run wrote it: its SHA-256 is {found[:16]}..., {beside.name} says "
            f"{expected[:16]!r}...; {remedy}"
        )


def check_settings(folder: Path) -> None:
    """Compare what a run keeps of its settings with the checksums beside it.

    Args:
        folder: Folder of an unfinished run.

    Raises:
        StorageError: A file differs: finishing the run would list it as it is now.
    """
    path = folder / _SUMMED[0]
    if path.exists():
        check_sum(path, f"restore it from a copy, or delete {folder} to start anew")


def check_sums(folder: Path) -> int:
    """Compare all files of a folder with the checksums beside them; returns how many have one.

    Args:
        folder: Folder of an unfinished run.

    Raises:
        StorageError: A file differs.
    """
    paths = _summed(folder)
    for path in paths:
        check_sum(path, "delete it, and what comes after it: the run makes them anew")
    return len(paths)


def drop_sums(folder: Path) -> None:
    """Remove the checksums of a run that has ended.

    Args:
        folder: Folder of the run.
    """
    for pattern in _SUMMED:  # also those of files that are gone
        for beside in folder.glob(pattern + SUM):
            beside.unlink(missing_ok=True)


def drop_sum(path: Path) -> None:
    """Remove the checksum beside a file.

    Args:
        path: The file.
    """
    with told("remove", _beside(path)):
        _beside(path).unlink(missing_ok=True)


def _summed(folder: Path) -> list[Path]:
    """The files of a folder that have a checksum beside them."""
    paths = [path for pattern in _SUMMED for path in sorted(folder.glob(pattern))]
    return [path for path in paths if _beside(path).exists()]


def _beside(path: Path) -> Path:
    return path.with_name(path.name + SUM)
