"""Where to compute."""

import torch

from weightspace.errors import InputError
from weightspace.runtime import checks


def named(device: str | torch.device) -> torch.device:
    """A device by its name, as PyTorch has it.

    Args:
        device: Name such as "cpu" or "cuda:1".

    Raises:
        InputError: No device has such a name.
    """
    try:
        return torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise checks.refuse("device", 'the name of a device, such as "cpu" or "cuda"', device) from error


def present(device: str | torch.device) -> torch.device:
    """A device by its name, which is there if it is a card.

    Args:
        device: Name such as "cpu" or "cuda:1".

    Raises:
        InputError: No device has such a name, or this machine has none of it.
    """
    found = named(device)
    if found.type == "cuda":
        pick(found)
    return found


def pick(device: str | torch.device) -> str:
    """A device that is there: "auto" is a CUDA device if there is one, else the CPU.

    Raises:
        InputError: The device is unknown or not available here.
    """
    if isinstance(device, torch.device):
        device = str(device)
    checks.text(device, "device", "cpu")
    cards = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if device == "auto":
        return "cuda" if cards else "cpu"
    there = ["cpu", *(["cuda", *cards] if cards else [])]
    if device not in there:
        raise InputError(f"device {device!r} is not available here: there is {', '.join(there)} (or 'auto')")
    return device
