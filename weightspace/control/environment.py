"""Environments on tensors: many copies at once, whose randomness comes from outside."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from weightspace.runtime import checks


@runtime_checkable
class Environment(Protocol):
    """A control problem; make it a frozen dataclass, whose text identifies runs.

    Args:
        observation: Numbers that are observed.
        actions: Number of actions.
        horizon: Steps after which an episode is cut off.
        draws: Random numbers that a start takes.
    """

    @property
    def observation(self) -> int:
        """Numbers that are observed."""
        ...

    @property
    def actions(self) -> int:
        """Number of actions."""
        ...

    @property
    def horizon(self) -> int:
        """Steps after which an episode is cut off."""
        ...

    @property
    def draws(self) -> int:
        """Random numbers that a start takes."""
        ...

    def start(self, draws: Tensor) -> Tensor:
        """States (..., S) at the start of episodes.

        Args:
            draws: Numbers (..., draws) in [0, 1).
        """
        ...

    def observe(self, states: Tensor) -> Tensor:
        """What a policy sees of states (..., S): (..., observation), in single precision.

        Args:
            states: States.
        """
        ...

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Next states (..., S), rewards (...) and whether the episode has ended (...).

        Args:
            states: States (..., S).
            actions: Numbers of actions (...).
        """
        ...


@dataclass(frozen=True)
class CartPole:
    """A pole on a cart that is pushed left or right, in double precision: Gymnasium's CartPole-v1.

    Barto, Sutton & Anderson 1983; equations of Florian 2007, integrated by Euler's method. The reward of a step is 1.

    Args:
        horizon: Steps after which an episode is cut off; 500 in version 1 and 200 in version 0.
    """

    horizon: int = 500

    def __post_init__(self) -> None:
        checks.settle(self, checks.count, "horizon", at_least=1)

    @property
    def observation(self) -> int:
        """Numbers that are observed: position, speed, angle, angular speed."""
        return 4

    @property
    def actions(self) -> int:
        """Number of actions: push left (0), push right (1)."""
        return 2

    @property
    def draws(self) -> int:
        """Random numbers that a start takes."""
        return 4

    def start(self, draws: Tensor) -> Tensor:
        """States at the start of episodes: all four numbers within 0.05 of zero.

        Args:
            draws: Numbers (..., 4) in [0, 1).
        """
        return -0.05 + 0.1 * draws.double()

    def observe(self, states: Tensor) -> Tensor:
        """What a policy sees of states: the state, in single precision.

        Args:
            states: States (..., 4).
        """
        return states.float()

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Next states, rewards and whether the pole has fallen or the cart has left the track.

        Args:
            states: States (..., 4).
            actions: 0 or 1 (...).
        """
        gravity, pole_mass, total_mass, length, tau = 9.8, 0.1, 1.1, 0.5, 0.02
        position, speed, angle, turning = states.unbind(-1)
        force = torch.where(actions == 1, 10.0, -10.0).to(states)
        cos, sin = angle.cos(), angle.sin()
        push = (force + pole_mass * length * turning.square() * sin) / total_mass
        turn = (gravity * sin - cos * push) / (length * (4.0 / 3.0 - pole_mass * cos.square() / total_mass))
        acceleration = push - pole_mass * length * turn * cos / total_mass
        after = torch.stack(
            [position + tau * speed, speed + tau * acceleration, angle + tau * turning, turning + tau * turn], -1
        )
        ended = (after[..., 0].abs() > 2.4) | (after[..., 2].abs() > 12 * 2 * math.pi / 360)
        return after, torch.ones_like(position), ended
