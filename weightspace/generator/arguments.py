"""Checks of what a generator is asked for."""

from typing import Any

from weightspace.errors import InputError
from weightspace.generator.conditions import plain_values
from weightspace.generator.description import Value
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.runtime import checks, devices
from weightspace.tasks.data import Data

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def check_sampling(
    nested: Any, condition: Any, guidance: Any, seed: Any, folder: Any, device: Any
) -> tuple[bool, dict[str, Value], float, int, str]:
    """Arguments of `FittedGenerator.sample` as plain values.

    Args:
        nested: Whether several densities have the same networks.
        condition: Properties of the networks by name, or None.
        guidance: Strength of the conditions.
        seed: Seed of the samples.
        folder: Folder to write to, or None.
        device: Device to compute on.

    Raises:
        InputError: One is of another kind.
    """
    checks.given(folder, "folder", checks.path)
    checks.given(condition, "condition", checks.mapping, what="of the generator's conditions to values")
    guidance = checks.number(guidance, "guidance")
    return checks.flag(nested, "nested"), plain_values(condition), guidance, checks.seed(seed), devices.pick(device)


def check_data(data: Any, layout: Layout, name: str, *, changes: bool = False) -> None:
    """Training data for the statistics of networks with BatchNorm.

    Args:
        data: The data, or None.
        layout: Layout of the networks.
        name: Name of their architecture.
        changes: Whether they are changes of networks, which have no statistics of their own.

    Raises:
        InputError: The networks have statistics and there are no data, or it is something else.
    """
    if changes and data is not None:
        raise refused_for_changes("data")
    found = [] if changes else [b.name for b in layout.buffers if b.name.rpartition(".")[2] in _STATISTICS]
    if data is not None:
        checks.instance(data, "data", Data, "training data, such as task.train")
    elif found:
        raise InputError(
            f"{name} has buffers ({found[0]}, ...), which are estimated on training data: give data=task.train"
        )


def refused_for_changes(name: str) -> InputError:
    """The error for what needs networks, where a generator knows changes of networks alone.

    Args:
        name: Name of the argument.
    """
    return InputError(
        f"{name}= is for networks, and the generator is one of task vectors: make them networks first, "
        "TaskVectors.of(samples).on(base)"
    )


def check_ends(ends: Any, steps: Any) -> Collection:
    """The two ends of a way between networks.

    Args:
        ends: Two networks.
        steps: Number of networks on the way.

    Raises:
        InputError: There are not two networks, or fewer than two steps.
    """
    check_networks(ends, "ends")
    if len(ends) != 2:
        raise InputError(f"ends must be 2 networks to interpolate between, got {len(ends)}")
    checks.count(steps, "steps", at_least=2)
    return ends
