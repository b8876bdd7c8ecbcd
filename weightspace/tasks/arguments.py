"""Checks of what a stage is given: networks, a task, a folder to write to, a device to compute on."""

from itertools import pairwise
from typing import Any

from weightspace.errors import InputError
from weightspace.networks.arguments import check_networks
from weightspace.runtime import checks, devices
from weightspace.runtime.allocator import main_memory
from weightspace.tasks.task import Task


def check_task(value: Any, name: str = "task") -> Task:
    """A task.

    Args:
        value: What was got.
        name: Name of the argument.

    Raises:
        InputError: It is none.
    """
    return checks.instance(value, name, Task, "a Task, such as tasks.digits() or tasks.from_tensors(...)")


def check_widths(hidden: Any, inputs: int, outputs: int) -> list[int]:
    """All widths of a perceptron whose hidden layers were given.

    Args:
        hidden: Widths of the hidden layers.
        inputs: Number of inputs.
        outputs: Number of outputs.

    Raises:
        InputError: A width is no whole number of at least 1, or the network would not fit into memory.
    """
    widths = [inputs, *checks.several(hidden, "hidden", checks.count, at_least=1), outputs]
    size = sum((before + 1) * after for before, after in pairwise(widths))
    if 4 * size > main_memory():
        raise InputError(
            f"hidden must be smaller here, got {list(hidden)}: a network of {size:,} weights takes "
            f"{4 * size / 2**30:,.0f} GiB, and there are {main_memory() / 2**30:,.0f} GiB of memory"
        )
    return widths


def check_run(networks: Any, task: Any, folder: Any = None, device: Any = "auto", name: str = "networks") -> None:
    """The arguments of a stage that trains networks.

    Args:
        networks: A collection.
        task: A task.
        folder: A path, or None.
        device: Name of a device.
        name: Name of the argument that is the collection.

    Raises:
        InputError: One is something else, or the device is not available.
    """
    check_networks(networks, name)
    check_task(task)
    if folder is not None:
        checks.path(folder, "folder")
    devices.pick(device)
