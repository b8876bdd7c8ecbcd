"""A policy and its value function, for reinforcement learning."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from weightspace.models.sizes import check_sizes
from weightspace.runtime import checks


class ActorCritic(nn.Module):
    """Two perceptrons with tanh units: logits of the actions, and the value of the state.

    Weights are orthogonal and biases zero at the start; the output layer of the policy is small (gain 0.01), so that
    all actions are as likely. When weights are pruned by magnitude over the whole network, that layer is emptied first:
    prune layer by layer, or leave it out.

    Args:
        observation: Numbers that are observed.
        actions: Number of actions.
        hidden: Units of the hidden layers.

    Raises:
        InputError: A size is not positive.
    """

    def __init__(self, observation: int, actions: int, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        check_sizes(observation=observation)
        checks.count(actions, "actions", at_least=2, at_most=2**24)
        hidden = checks.several(hidden, "hidden", checks.count, at_least=1, at_most=2**24)
        self.actor = _perceptron((observation, *hidden, actions), 0.01)
        self.critic = _perceptron((observation, *hidden, 1), 1.0)
        self.input_shape = (observation,)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch, actions) and values (batch,)."""
        return self.actor(x), self.critic(x)[..., 0]


def _perceptron(sizes: Sequence[int], last_gain: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        layer = nn.Linear(fan_in, fan_out)
        last = i == len(sizes) - 2
        nn.init.orthogonal_(layer.weight, last_gain if last else math.sqrt(2))
        nn.init.zeros_(layer.bias)
        layers += [layer] if last else [layer, nn.Tanh()]
    return nn.Sequential(*layers)
