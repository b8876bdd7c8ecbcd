"""Copies of an environment that policies play side by side while they learn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from weightspace.control.environment import Environment

Draw = Callable[..., Tensor]
"""`draw(purpose, *shape)`: uniform numbers (n, *shape), each policy's from its own seed and the update."""


@dataclass(frozen=True)
class Outcome:
    """What a step of all copies led to; every tensor is (n, copies, ...).

    Args:
        rewards: Rewards.
        ended: Whether the episode ended there.
        cut: Whether it was cut off there.
        after: What is observed after the step, before any new start.
    """

    rewards: Tensor
    ended: Tensor
    cut: Tensor
    after: Tensor


class Play(Protocol):
    """Copies of an environment for many policies; what is needed to go on with them are a few tensors."""

    def prepare(self, draw: Draw) -> None:
        """Get ready for the steps of an update.

        Args:
            draw: Source of random numbers for the update.
        """
        ...

    def seen(self) -> Tensor:
        """What is observed now, (n, copies, observation)."""
        ...

    def step(self, number: int, actions: Tensor) -> Outcome:
        """Take a step in each copy, and begin a new episode where one is over.

        Args:
            number: Number of the step in the update.
            actions: Actions (n, copies).
        """
        ...

    def copy(self) -> "Play":
        """The same copies of the environment, to go on with apart."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that is needed to go on, by name; nothing before the first update."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave.

        Args:
            tensors: Tensors by name.
        """
        ...


class TensorPlay:
    """Copies of an environment on tensors.

    Args:
        place: The environment.
        copies: Copies that a policy plays at once.
        steps: Steps of each copy in an update.
    """

    def __init__(self, place: Environment, copies: int, steps: int) -> None:
        self.place, self.copies, self.steps = place, copies, steps
        self._now: dict[str, Tensor] = {}
        self._starts = torch.empty(0)

    def prepare(self, draw: Draw) -> None:
        """Draw the starts of the update.

        Args:
            draw: Source of random numbers for the update.
        """
        if not self._now:
            states = self.place.start(draw("first starts", self.copies, self.place.draws))
            self._now = {"states": states, "ages": torch.zeros(states.shape[:2], dtype=torch.long)}
        self._starts = draw("starts", self.steps, self.copies, self.place.draws)

    def seen(self) -> Tensor:
        """What is observed now."""
        return self.place.observe(self._now["states"])

    def step(self, number: int, actions: Tensor) -> Outcome:
        """Take a step in each copy, and begin a new episode where one is over.

        Args:
            number: Number of the step in the update.
            actions: Actions (n, copies).
        """
        states, rewards, ended = self.place.step(self._now["states"], actions)
        ages = self._now["ages"] + 1
        cut = (ages >= self.place.horizon) & ~ended
        done = ended | cut
        outcome = Outcome(rewards, ended, cut, self.place.observe(states))
        states = torch.where(done[..., None], self.place.start(self._starts[:, number]), states)
        self._now = {"states": states, "ages": torch.where(done, 0, ages)}
        return outcome

    def copy(self) -> "TensorPlay":
        """The same copies of the environment, to go on with apart."""
        other = TensorPlay(self.place, self.copies, self.steps)
        other.restore({name: tensor.clone() for name, tensor in self._now.items()})
        return other

    def tensors(self) -> dict[str, Tensor]:
        """States, and ages of the episodes."""
        return dict(self._now)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave.

        Args:
            tensors: Tensors by name.
        """
        self._now = dict(tensors)
