"""What policies earn in episodes whose starts are fixed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.control.environment import Environment
from weightspace.control.gymnasium_environment import Gymnasium
from weightspace.control.gymnasium_play import Episode
from weightspace.networks.forward import forward
from weightspace.runtime import seeds

_EPISODES = 256  # of Gymnasium, that are played side by side


@dataclass(frozen=True)
class Policies:
    """Policies of one architecture.

    Args:
        module: Module that gives the computation, in evaluation mode.
        parameters: Parameters (n, *shape) by name.
        buffers: Buffers (n, *shape) by name.
        count: Number of policies.
    """

    module: nn.Module
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    count: int

    def act(self, seen: Tensor, chances: Tensor | None) -> Tensor:
        """Actions (n, episodes).

        Args:
            seen: What is observed, (n, episodes, observation).
            chances: Uniform numbers (episodes,) that actions are drawn with; None takes the likeliest.
        """
        outputs: Any = forward(self.module, self.parameters, self.buffers, seen, shared_input=False)
        logits: Tensor = outputs[0]
        if chances is None:
            return logits.argmax(-1)
        below = chances[None, :, None] >= logits.softmax(-1).cumsum(-1)
        return below.sum(-1).clamp(max=logits.shape[-1] - 1)

    def part(self, rows: slice) -> "Policies":
        """Some of the policies.

        Args:
            rows: Which.
        """
        parameters, buffers = (
            {name: tensor[rows] for name, tensor in named.items()} for named in (self.parameters, self.buffers)
        )
        return Policies(self.module, parameters, buffers, len(range(*rows.indices(self.count))))


@torch.no_grad()
def returns(
    policies: Policies, place: Environment | Gymnasium, split: str, episodes: int, *, greedy: bool
) -> Float[Tensor, "n episodes"]:
    """The return of each policy in each episode; all policies begin at the same starts.

    Args:
        policies: Policies.
        place: What is played.
        split: Name of the starts.
        episodes: Number of episodes.
        greedy: Whether the likeliest action is taken, or one is drawn.
    """
    if not isinstance(place, Gymnasium):
        return _on_tensors(policies, place, split, episodes, greedy)
    size = max(1, _EPISODES // episodes)
    parts = [slice(i, i + size) for i in range(0, policies.count, size)]
    return torch.cat([_in_gymnasium(policies.part(rows), place, split, episodes, greedy) for rows in parts])


def _on_tensors(policies: Policies, place: Environment, split: str, episodes: int, greedy: bool) -> Tensor:
    draw = seeds.generator(0, f"{split} starts")
    states = place.start(torch.rand(episodes, place.draws, generator=draw)).expand(policies.count, -1, -1)
    playing = torch.ones(policies.count, episodes, dtype=torch.bool)
    total = torch.zeros(policies.count, episodes, dtype=torch.float64)
    chances = torch.rand(place.horizon, episodes, generator=draw)
    for step in range(place.horizon):
        actions = policies.act(place.observe(states), None if greedy else chances[step])
        states, rewards, ended = place.step(states, actions)
        total += rewards * playing
        playing = playing & ~ended
        if not bool(playing.any()):
            break
    return total


def _in_gymnasium(policies: Policies, place: Gymnasium, split: str, episodes: int, greedy: bool) -> Tensor:
    starts = [seeds.derive(0, f"{split} starts", i) for i in range(episodes)]
    chances = torch.rand(place.limit, episodes, generator=seeds.generator(0, f"{split} chances"))
    rows = [[Episode(place, start) for start in starts] for _ in range(policies.count)]
    playing = [(i, j) for i in range(policies.count) for j in range(episodes)]
    seen = torch.stack([torch.stack([torch.from_numpy(episode.seen) for episode in row]) for row in rows])
    total = torch.zeros(policies.count, episodes, dtype=torch.float64)
    for step in range(place.limit):
        actions = policies.act(seen, None if greedy else chances[step]).tolist()
        left: list[tuple[int, int]] = []
        for i, j in playing:
            reward, ended, cut = rows[i][j].step(actions[i][j])
            total[i, j] += reward
            seen[i, j] = torch.from_numpy(rows[i][j].seen)
            if not (ended or cut):
                left.append((i, j))
        playing = left
        if not playing:
            break
    return total
