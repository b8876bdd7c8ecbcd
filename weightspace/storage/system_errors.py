"""What the system says of files as errors of ours: what failed, where, and what to do."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from weightspace.errors import StorageError

_REMEDIES: dict[str, tuple[str, ...]] = {
    "free some space": ("ENOSPC",),
    "the quota is used up: delete something, or ask for more": ("EDQUOT",),
    "raise the limit on the size of files (ulimit -f), or choose another file system": ("EFBIG",),
    "choose a place where you may write, or change its permissions": ("EACCES", "EPERM", "EROFS"),
    "a file stands where a folder should be, or a folder in place of a file: move it away, or choose another path": (
        "ENOTDIR",
        "EEXIST",
        "EISDIR",
        "ENOTEMPTY",
    ),
    "the folder is not there, or no longer (removed, or its disk unmounted): make it, or choose another one": (
        "ENOENT",
        "ENODEV",
        "ENXIO",
    ),
    "this file system has no locks, which keep two processes out of one folder: choose a folder on another one, and "
    "copy it later": ("ENOLCK", "EOPNOTSUPP", "ENOTSUP", "ENOSYS"),
    "the disk, or the network to it, has a fault: have it looked at (dmesg)": (
        "EIO",
        "ESTALE",
        "ETIMEDOUT",
        "EHOSTDOWN",
        "EREMOTEIO",
    ),
    "choose a shorter name": ("ENAMETOOLONG",),
    "choose another name": ("EINVAL", "EILSEQ"),
    "links are not followed here: put the real file in its place": ("ELOOP",),
    "it is a mount point or the working folder: name a folder inside it": ("EBUSY", "EXDEV"),
    "too many files are open: raise the limit (ulimit -n)": ("EMFILE", "ENFILE"),
}
_BY_NUMBER = {getattr(errno, n): text for text, names in _REMEDIES.items() for n in names if hasattr(errno, n)}
_OTHER = "mend that, or choose another place"
_RUST = re.compile(r"\(os error (\d+)\)|Os \{ code: (\d+)")  # of safetensors, the second before 0.6


def cause_of(error: Exception) -> str:
    """What went wrong, in the system's words and without the path.

    Args:
        error: An OSError, or an error of safetensors or of a name that no file can have.
    """
    number = _number(error)
    if number is not None:
        return os.strerror(number)
    return str(error).strip() or type(error).__name__


def remedy_for(error: Exception) -> str:
    """What the user can do about it.

    Args:
        error: An OSError, or an error of safetensors or of a name that no file can have.
    """
    unnameable = isinstance(error, UnicodeEncodeError) or "embedded null" in str(error)
    number = errno.EINVAL if unnameable else _number(error)
    return _OTHER if number is None else _BY_NUMBER.get(number, _OTHER)


def described(error: OSError) -> str:
    """An error of the system in a line: what it says, of which file, and what to do.

    Args:
        error: The error.
    """
    where = "" if error.filename is None else f" ({os.fsdecode(error.filename)!r:.300})"
    return f"{cause_of(error)}{where}: {remedy_for(error)}, then run again"


@contextmanager
def told(doing: str, path: Path, *, kept: str = "") -> Iterator[None]:
    """Errors of the system inside the `with` block are told as errors of ours.

    Args:
        doing: What could not be done, such as "write" or "read".
        path: The file or folder that it is about.
        kept: What was not touched, as a sentence.

    Raises:
        StorageError: The system refused.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise storage_error(doing, path, error, kept=kept) from error
    except ValueError as error:  # of Python itself, before it asks the system
        unnameable = isinstance(error, UnicodeEncodeError) or "embedded null" in str(error)
        if not unnameable or isinstance(error, StorageError):
            raise
        raise storage_error(doing, path, error, kept=kept) from error


def exists(path: Path) -> bool:
    """Is there a file or folder of this name?

    Args:
        path: File or folder.

    Raises:
        StorageError: The system cannot say.
    """
    with told("read", path):
        return path.exists()


def storage_error(doing: str, path: Path, error: Exception, *, kept: str = "") -> StorageError:
    """An error of the system as one of ours.

    Args:
        doing: What could not be done, such as "write" or "read".
        path: The file or folder that it is about.
        error: The error.
        kept: What was not touched, as a sentence.
    """
    shown = str(path) if str(path).isprintable() else repr(str(path))
    about = f"{shown[:300]}: {cause_of(error)}. {kept + '. ' if kept else ''}"
    remedy = remedy_for(error)
    return StorageError(f"could not {doing} {about}{remedy[0].upper()}{remedy[1:]}, then run again")


def _number(error: Exception) -> int | None:
    """The system's number of an error."""
    if isinstance(error, OSError):
        return error.errno
    found = _RUST.search(str(error))
    return None if found is None else int(found[1] or found[2])
