"""Where to compute."""

import torch

from weightspace.errors import InputError


def pick(device: str) -> str:
    """A device that is there: "auto" is a CUDA device if there is one, else the CPU.

    Raises:
        InputError: The device is unknown or not available here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        raise InputError(f"device {device!r} is not available here: use 'cpu' or 'auto'")
    return device
