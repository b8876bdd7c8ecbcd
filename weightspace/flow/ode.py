"""Follow a velocity field: from noise to codes and back, and the exact change of density on the way."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jacrev, vjp, vmap

from weightspace.errors import InputError
from weightspace.flow.velocity import Velocity

Field = Callable[[Tensor, Tensor], Tensor]
"""A velocity field: time () and points (n, K) to velocities (n, K)."""


def guided_field(
    velocity: Velocity, conditions: Float[Tensor, "n c"], without: Float[Tensor, "n c"], guidance: float
) -> Field:
    """The field of a velocity network under conditions, moved away from its value without them.

    Classifier-free guidance, arXiv 2207.12598, eq. 6 with w = guidance - 1.

    Args:
        velocity: Velocity network.
        conditions: Conditions as the network sees them, (n, C).
        without: The same with all conditions unknown.
        guidance: Strength; 1 follows the conditions as the data do.
    """

    def field(t: Tensor, x: Tensor) -> Tensor:
        at = t.reshape(1, 1)  # one time for all: what follows from it alone is computed once
        v = velocity(x, at, conditions)
        if guidance == 1.0:
            return v
        free = velocity(x, at, without)
        return free + guidance * (v - free)

    return field


def follow(field: Field, x: Float[Tensor, "n k"], start: float, stop: float, steps: int) -> Float[Tensor, "n k"]:
    """Points after the way from one time to another, by fourth-order Runge-Kutta with fixed steps.

    Args:
        field: Velocity field.
        x: Points at the start, (n, K).
        start: First time.
        stop: Last time.
        steps: Number of steps.

    Raises:
        InputError: There is no step.
    """
    from torchdiffeq import odeint

    if steps < 1:
        raise InputError(f"the solver needs at least one step, got {steps}")
    for now, then in pairwise(torch.linspace(start, stop, steps + 1, device=x.device)):
        # Two times at once, or the solver would keep every step: raw weights are large.
        path = odeint(field, x, torch.stack([now, then]), method="rk4")
        assert isinstance(path, Tensor)  # (2, n, codes)
        x = path[-1]
    return x


def to_noise(
    velocity: Velocity,
    x_1: Float[Tensor, "n k"],
    conditions: Float[Tensor, "n c"],
    tolerance: float,
    steps: int | None,
    probes: Float[Tensor, "p n k"] | None = None,
) -> tuple[Float[Tensor, "n k"], Float[Tensor, " n"]]:
    """Noise that codes come from, and the log-density that they lose on the way to it (its Jacobian's trace).

    Args:
        velocity: Velocity network in float64.
        x_1: Codes at t = 1, (n, K).
        conditions: Conditions as the network sees them, (n, C).
        tolerance: Relative and absolute tolerance of the adaptive solver.
        steps: Number of fixed Runge-Kutta steps in place of the adaptive solver.
        probes: Random signs for Hutchinson's estimate of the trace, the same all the way (arXiv 1810.01367); None is
            the exact trace.
    """
    from torchdiffeq import odeint

    def one(x: Tensor, t: Tensor, known: Tensor) -> Tensor:
        return velocity(x[None], t.reshape(1, 1), known[None])[0]

    def field(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, _ = state
        if probes is not None:
            return _estimated(velocity, x, t, conditions, probes)
        jacobian = vmap(jacrev(one), in_dims=(0, None, 0))(x, t, conditions)
        return velocity(x, t.expand(len(x), 1), conditions), jacobian.diagonal(dim1=1, dim2=2).sum(1)

    start = x_1, x_1.new_zeros(len(x_1))
    if steps is None:
        path = odeint(field, start, x_1.new_tensor([1.0, 0.0]), rtol=tolerance, atol=tolerance)
    else:
        times = torch.linspace(1, 0, steps + 1, dtype=x_1.dtype, device=x_1.device)
        path = odeint(field, start, times, method="rk4")
    return path[0][-1], path[1][-1]


def _estimated(
    velocity: Velocity,
    x: Float[Tensor, "n k"],
    t: Tensor,
    conditions: Float[Tensor, "n c"],
    probes: Float[Tensor, "p n k"],
) -> tuple[Float[Tensor, "n k"], Float[Tensor, " n"]]:
    """Velocities, and Hutchinson's estimate of the trace of their Jacobian at each point."""
    count, directions = len(probes), probes.flatten(0, 1)
    field = partial(_at, velocity, t, conditions.repeat(count, 1))
    pulled: tuple[Any, ...] = vjp(field, x.repeat(count, 1))
    (along,) = pulled[1](directions)
    return pulled[0][: len(x)], (along * directions).sum(1).reshape(count, -1).mean(0)


def _at(velocity: Velocity, t: Tensor, conditions: Tensor, x: Tensor) -> Tensor:
    return velocity(x, t.expand(len(x), 1), conditions)
