"""What `show --verify` says of a folder."""

from collections.abc import Sequence
from pathlib import Path

from weightspace.errors import StorageError
from weightspace.storage.checksums import check_sums
from weightspace.storage.manifests import MANIFEST, verify

_SHOWN = 5


def verified(folder: Path) -> str:
    """Compare every file of a folder, and of the folders in it, with its checksum; says what could not be compared.

    Args:
        folder: Folder of a collection, a generator, a report or a study.

    Raises:
        StorageError: A file is missing or was changed, or there is no such folder.
    """
    if not folder.is_dir():
        raise StorageError(f"{folder} is not a folder: give the folder of a collection, a generator or a report")
    checked = verify(folder)
    beside = sum(check_sums(one) for one in checked.without)
    lines = [f"verified {folder}: {checked.files + beside} files ({checked.bytes:,} bytes) are as they were written"]
    if checked.without:
        lines.append(
            f"without {MANIFEST}: {_names(checked.without)} (of version 0.1, unfinished, or something else); there "
            "only those files are checked whose checksums other files hold"
        )
    if checked.unknown:
        lines.append(f"not in {MANIFEST}, and not looked at: {_names(checked.unknown)}")
    return "\n".join(lines)


def _names(paths: Sequence[Path]) -> str:
    more = len(paths) - _SHOWN
    return ", ".join(map(str, paths[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
