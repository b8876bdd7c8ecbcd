"""Copies of an environment of Gymnasium: an episode is its seed and its actions, so that it can be played again."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightspace.control.gymnasium_environment import Gymnasium
from weightspace.control.play import Draw, Outcome

_SEEDS = 2**24  # as many as single precision tells apart below 1


class Episode:
    """One copy of an environment and the episode that it is in.

    Args:
        place: The environment.
        seed: Seed of the episode.
        actions: Actions taken so far; they are taken again.
    """

    def __init__(self, place: Gymnasium, seed: int, actions: tuple[int, ...] = ()) -> None:
        self._place, self._made = place, place.make()
        self.begin(seed)
        for action in actions:
            self.step(action)

    def begin(self, seed: int) -> None:
        """Begin another episode.

        Args:
            seed: Its seed.
        """
        self.seed, self.actions = seed, list[int]()
        self.seen = _vector(self._made.reset(seed=seed)[0])

    def step(self, action: int) -> tuple[float, bool, bool]:
        """Take a step: its reward, whether the episode has ended, and whether it is cut off.

        Args:
            action: Number of the action, from 0.
        """
        values, reward, ended, cut, _ = self._made.step(action + self._place.first_action)
        self.actions.append(action)
        self.seen = _vector(values)
        return float(reward), bool(ended), bool(cut) and not ended


class GymnasiumPlay:
    """Copies of an environment of Gymnasium for many policies.

    Every episode has a seed of its own, and a new one begins in the step in which the last is over: there are no steps
    of resetting among those that are learnt from.

    Args:
        place: The environment.
        copies: Copies that a policy plays at once.
        steps: Steps of each copy in an update.
    """

    def __init__(self, place: Gymnasium, copies: int, steps: int) -> None:
        self.place, self.copies, self.steps = place, copies, steps
        self._episodes: list[list[Episode]] = []
        self._stored: dict[str, Tensor] = {}
        self._starts = torch.empty(0)

    def prepare(self, draw: Draw) -> None:
        """Draw the seeds of the update.

        Args:
            draw: Source of random numbers for the update.
        """
        if self._stored:
            self._replay()
        if not self._episodes:
            first = _seeds(draw("first starts", self.copies))
            self._episodes = [[Episode(self.place, seed) for seed in row] for row in first.tolist()]
        self._starts = _seeds(draw("starts", self.steps, self.copies))

    def seen(self) -> Tensor:
        """What is observed now."""
        return torch.from_numpy(np.stack([[episode.seen for episode in row] for row in self._episodes]))

    def step(self, number: int, actions: Tensor) -> Outcome:
        """Take a step in each copy, and begin a new episode where one is over.

        Args:
            number: Number of the step in the update.
            actions: Actions (n, copies).
        """
        pairs = zip(self._episodes, actions.tolist(), strict=True)
        results = [[episode.step(action) for episode, action in zip(row, taken, strict=True)] for row, taken in pairs]
        after = self.seen()
        seeds = self._starts[:, number].tolist()
        for row, found, new in zip(self._episodes, results, seeds, strict=True):
            for episode, (_, ended, cut), seed in zip(row, found, new, strict=True):
                if ended or cut:
                    episode.begin(seed)
        rewards, ended, cut = (
            torch.tensor([[one[part] for one in row] for row in results], dtype=kind)
            for part, kind in enumerate((torch.float64, torch.bool, torch.bool))
        )
        return Outcome(rewards, ended, cut, after)

    def copy(self) -> "GymnasiumPlay":
        """The same episodes, which are played again by whoever goes on with them."""
        other = GymnasiumPlay(self.place, self.copies, self.steps)
        other.restore(self.tensors())
        return other

    def tensors(self) -> dict[str, Tensor]:
        """Seeds, and actions taken so far (n, copies, longest), -1 after the last."""
        if not self._episodes:
            return dict(self._stored)
        longest = max(len(episode.actions) for row in self._episodes for episode in row)
        taken = torch.full((len(self._episodes), self.copies, longest), -1, dtype=torch.int32)
        for i, row in enumerate(self._episodes):
            for j, episode in enumerate(row):
                taken[i, j, : len(episode.actions)] = torch.tensor(episode.actions, dtype=torch.int32)
        return {"seeds": torch.tensor([[episode.seed for episode in row] for row in self._episodes]), "taken": taken}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave.

        Args:
            tensors: Tensors by name.
        """
        self._stored, self._episodes = dict(tensors), []

    def _replay(self) -> None:
        rows = zip(self._stored["seeds"].tolist(), self._stored["taken"].tolist(), strict=True)
        self._episodes = [
            [
                Episode(self.place, seed, tuple(action for action in taken if action >= 0))
                for seed, taken in zip(seeds, actions, strict=True)
            ]
            for seeds, actions in rows
        ]
        self._stored = {}


def _seeds(uniform: Tensor) -> Tensor:
    return (uniform.double() * _SEEDS).long()


def _vector(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float32).reshape(-1)
