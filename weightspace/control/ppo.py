"""Proximal policy optimisation: settings, advantages and the loss.

Schulman et al. 2017 (arXiv 1707.06347); advantages as in Schulman et al. 2016 (arXiv 1506.02438).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.recipes.optimizers import Adam
from weightspace.recipes.schedule import Schedule
from weightspace.runtime import checks
from weightspace.storage.typed import from_json, to_json


@dataclass(frozen=True)
class PPO:
    """How a policy is trained; an iteration is one update: play, then learn from what was played.

    Args:
        updates: Number of updates.
        copies: Copies of the environment that a policy plays at once.
        steps: Steps of each copy before an update.
        epochs: Passes over what was played.
        minibatches: Batches of a pass.
        optimizer: Optimiser, with its learning rate.
        discount: Weight of the next reward against this one.
        trace: Lambda of the advantages: 0 trusts the value function, 1 the returns.
        clip: Range of the ratio of new to old probabilities that is rewarded.
        entropy: Weight of the entropy in the loss.
        value: Weight of the value function's error in the loss.
        max_gradient_norm: Norm that gradients are cut to.
        reward_scale: Factor of rewards in training. The value function learns returns about as large as 1 soonest;
            returns that are reported have no factor.
        schedule: Learning rate over the updates, relative to the optimiser's.

    Raises:
        InputError: A setting lies outside its range.
    """

    updates: int = 192
    copies: int = 8
    steps: int = 32
    epochs: int = 10
    minibatches: int = 1
    optimizer: Adam = field(default_factory=lambda: Adam(lr=1e-3, eps=1e-5))
    discount: float = 0.98
    trace: float = 0.8
    clip: float = 0.2
    entropy: float = 0.0
    value: float = 0.5
    max_gradient_norm: float = 0.5
    reward_scale: float = 1.0
    schedule: Schedule = Schedule()

    def __post_init__(self) -> None:
        checks.settle(self, checks.count, "updates", "copies", "steps", "epochs", "minibatches", at_least=1)
        checks.settle(self, checks.instance, "optimizer", kinds=Adam, wanted="an Adam(...)")
        checks.settle(self, checks.number, "discount", "trace", at_least=0, at_most=1)
        checks.settle(self, checks.number, "clip", "max_gradient_norm", "reward_scale", above=0)
        checks.settle(self, checks.number, "entropy", "value", at_least=0)
        if self.minibatches > self.copies * self.steps:
            most = self.copies * self.steps
            raise InputError(f"minibatches must be at most {most}, the steps of all copies, got {self.minibatches}")
        checks.settle(self, checks.instance, "schedule", kinds=Schedule, wanted="a Schedule(...)")

    def rate(self, update: int, total: int) -> float:
        """The learning rate of an update.

        Args:
            update: Number of the update, from 0.
            total: Number of updates of the whole training.
        """
        return self.optimizer.lr * self.schedule.factor(update, total, 1)

    def to_json(self) -> dict[str, Any]:
        """The settings as records have them; those that came later only where they are not the default."""
        data = to_json(self)
        plain = {"reward_scale": 1.0, "schedule": to_json(Schedule())}
        return {name: value for name, value in data.items() if name not in plain or value != plain[name]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PPO":
        """The inverse of `to_json`.

        Args:
            data: The settings as data.

        Raises:
            StorageError: A setting is unknown, or has a value that is none of its type.
        """
        return from_json(cls, data, "the settings of PPO")


def advantages(
    rewards: Float[Tensor, "steps *lead"],
    values: Float[Tensor, "steps *lead"],
    next_values: Float[Tensor, "steps *lead"],
    ended: Bool[Tensor, "steps *lead"],
    cut: Bool[Tensor, "steps *lead"],
    discount: float,
    trace: float,
) -> Float[Tensor, "steps *lead"]:
    """Generalised advantage estimates.

    Args:
        rewards: Rewards of the steps.
        values: Values of the states in which they were taken.
        next_values: Values of the states that they led to, before any new start.
        ended: Whether the episode ended there: nothing follows.
        cut: Whether it was cut off there: the value of the last state stands for what would have followed.
        discount: Weight of the next reward against this one.
        trace: Lambda of the estimates.
    """
    found = torch.zeros_like(rewards)
    after = torch.zeros_like(rewards[0])
    for step in reversed(range(len(rewards))):
        error = rewards[step] + discount * next_values[step] * ~ended[step] - values[step]
        after = error + discount * trace * ~(ended[step] | cut[step]) * after
        found[step] = after
    return found


def loss(
    ppo: PPO,
    logits: Float[Tensor, "n batch actions"],
    values: Float[Tensor, "n batch"],
    actions: Tensor,
    before: Float[Tensor, "n batch"],
    gains: Float[Tensor, "n batch"],
    returns: Float[Tensor, "n batch"],
) -> Float[Tensor, " n"]:
    """The loss of each policy on a batch.

    Args:
        ppo: Settings.
        logits: Logits of the actions.
        values: Values of the states.
        actions: Actions that were taken (n, batch).
        before: Logarithms of their probabilities when they were taken.
        gains: Advantages; they are standardised in the batch.
        returns: Values to learn.
    """
    log = logits.log_softmax(-1)
    ratio = (log.gather(-1, actions[..., None])[..., 0] - before).exp()
    gains = (gains - gains.mean(1, keepdim=True)) / (gains.std(1, keepdim=True) + 1e-8)
    clipped = torch.minimum(ratio * gains, ratio.clamp(1 - ppo.clip, 1 + ppo.clip) * gains)
    entropy = -(log.exp() * log).sum(-1)
    return -clipped.mean(1) + ppo.value * 0.5 * (values - returns).square().mean(1) - ppo.entropy * entropy.mean(1)
