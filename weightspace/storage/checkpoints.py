"""State of a training in one file, to continue from; it says itself what it must hold."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from weightspace.errors import StorageError
from weightspace.runtime.hashing import raw_bytes
from weightspace.storage.files import atomic_file
from weightspace.storage.tensors import load_tensors, open_tensors

_DONE = "done"
_SUM = "sha256"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors and their checksum; an older file stays until the new one is complete.

    Args:
        path: File to write.
        tensors: Tensors by name, on any device.
    """
    here = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as temporary:
        save_file(here, temporary, {_SUM: _digest(here)})


def save_checkpoint(path: Path, state: Mapping[str, Tensor], done: int) -> None:
    """Write a state after so many steps; an older file stays until the new one is complete."""
    write_checkpoint(path, {**state, _DONE: torch.tensor(done)})


def read_checkpoint(path: Path, restarts: str, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a checkpoint.

    Args:
        restarts: What starts anew without it, for the message.

    Raises:
        StorageError: The file is damaged, or its tensors are not those that were written.
    """
    remedy = f"delete it and run again, only {restarts} starts anew"
    try:
        with open_tensors(path) as file:
            metadata = file.metadata() or {}
        tensors = load_tensors(path)
    except StorageError as error:
        if isinstance(error.__cause__, OSError):  # the disk's fault, not the file's
            raise
        raise StorageError(f"the checkpoint {path} is damaged ({error}): {remedy}") from error
    if metadata and metadata != {_SUM: _digest(tensors)}:  # version 0.1 wrote no metadata
        raise StorageError(f"the checkpoint {path} is damaged (its tensors are not those of its checksum): {remedy}")
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def load_checkpoint(path: Path, start: Mapping[str, Tensor], steps: int) -> tuple[dict[str, Tensor], int]:
    """The state and how many steps are done.

    Args:
        start: State before the first step, whose names and shapes the file must have; the state is on its devices.
        steps: Steps of the whole training.

    Raises:
        StorageError: The file is damaged, or belongs to another training.
    """
    state = read_checkpoint(path, "this stage")
    done = state.pop(_DONE, None)
    expected, found = ({name: tensor.shape for name, tensor in one.items()} for one in (start, state))
    if done is None or done.numel() != 1 or found != expected or not 0 <= int(done) <= steps:
        raise StorageError(f"the checkpoint {path} belongs to another training: delete it and run again")
    return {name: tensor.to(start[name].device) for name, tensor in state.items()}, int(done)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """A checksum of tensors by name, with their types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()
