"""Safetensors files that may come from anywhere: what they say of themselves is checked before they are read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from weightspace.errors import StorageError
from weightspace.storage.reading import require_file
from weightspace.storage.system_errors import storage_error, told

_LENGTH = 8  # bytes that say how long the header is


def require_tensors(path: Path) -> None:
    """Raise StorageError unless this is a file whose header fits in it.

    Args:
        path: A safetensors file.
    """
    size = require_file(path).st_size
    with told("read", path), open(path, "rb") as file:
        header = int.from_bytes(file.read(_LENGTH), "little")
    if size < _LENGTH or header > size - _LENGTH:
        raise StorageError(
            f"{path} cannot be read as a safetensors file (a header of {header:,} bytes in a file of {size:,}): "
            "delete it or restore a copy"
        )


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """An open safetensors file, whose tensors are read when they are asked for.

    Args:
        path: A safetensors file.

    Raises:
        StorageError: It is no file, or damaged.
    """
    require_tensors(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except OSError as error:
        raise storage_error("read", path, error) from error
    except SafetensorError as error:
        raise StorageError(
            f"{path} cannot be read as a safetensors file ({error}): delete it or restore a copy"
        ) from error


def load_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """All tensors of a safetensors file by name.

    Args:
        path: A safetensors file.
        device: Device to load them to.

    Raises:
        StorageError: It is no file, or damaged.
    """
    require_tensors(path)
    try:
        return load_file(path, device=device)
    except OSError as error:
        raise storage_error("read", path, error) from error
    except SafetensorError as error:
        raise StorageError(f"{path} is damaged ({error}): restore it from a copy") from error
