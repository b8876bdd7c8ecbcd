"""Checks of what a generator is asked for."""

from collections.abc import Mapping
from typing import Any

from weightspace.errors import InputError
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.runtime import checks, devices
from weightspace.tasks.data import Data


def check_sampling(
    nested: Any, condition: Any, guidance: Any, seed: Any, folder: Any, device: Any
) -> tuple[bool, Mapping[str, float | str] | None, float, int, str]:
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
    return checks.flag(nested, "nested"), condition, guidance, checks.seed(seed), devices.pick(device)


def check_data(data: Any, layout: Layout, name: str) -> None:
    """Training data for the buffers of networks.

    Args:
        data: The data, or None.
        layout: Layout of the networks.
        name: Name of their architecture.

    Raises:
        InputError: The networks have buffers and there are no data, or it is something else.
    """
    if data is not None:
        checks.instance(data, "data", Data, "training data, such as task.train")
    elif layout.buffers:
        raise InputError(
            f"{name} has buffers ({layout.buffers[0].name}, ...), which are estimated on training data: give "
            "data=task.train"
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
