"""State of a training in one file, to continue from."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from weightspace.errors import StorageError
from weightspace.storage.files import atomic_file

_DONE = "done"


def save_checkpoint(path: Path, state: Mapping[str, Tensor], done: int) -> None:
    """Write a state after so many steps; an older file stays until the new one is complete."""
    with atomic_file(path) as temporary:
        save_file({name: tensor.cpu() for name, tensor in state.items()} | {_DONE: torch.tensor(done)}, temporary)


def read_checkpoint(path: Path, restarts: str, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a checkpoint.

    Args:
        restarts: What starts anew without it, for the message.

    Raises:
        StorageError: The file is damaged.
    """
    try:
        return load_file(path, device=device)
    except (SafetensorError, OSError) as error:
        raise StorageError(
            f"the checkpoint {path} is damaged ({error}): delete it and run again, only {restarts} starts anew"
        ) from error


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
