"""Where to compute."""

import torch

from weightspace.errors import InputError


def pick(device: str) -> str:
    """A device that is there: "auto" is a CUDA device if there is one, else the CPU.

    Raises:
        InputError: The device is unknown or not available here.
    """
    cards = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if device == "auto":
        return "cuda" if cards else "cpu"
    there = ["cpu", *(["cuda", *cards] if cards else [])]
    if device not in there:
        raise InputError(f"device {device!r} is not available here: there is {', '.join(there)} (or 'auto')")
    return device
