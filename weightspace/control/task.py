"""Tasks of control: policies that are trained by playing, and judged by returns on fixed starts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.control.environment import CartPole, Environment
from weightspace.control.gymnasium_environment import Gymnasium
from weightspace.control.ppo import PPO
from weightspace.control.returns import Policies, returns
from weightspace.control.trainer import PolicyTrainer
from weightspace.errors import InputError
from weightspace.networks.architecture import Architecture
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.networks.record import Record
from weightspace.recipes.step import Step
from weightspace.runtime import checks
from weightspace.tasks.own_loop import LoopRecipe, LoopTask

_TOGETHER = 64


@dataclass(frozen=True)
class PolicyTask(LoopTask):
    """A task whose networks are policies; see `cartpole` and `gymnasium_task`.

    Args:
        environment: What is played.
        ppo: How policies are trained.
        episodes: Number of episodes that a policy is judged by.
    """

    environment: Environment | Gymnasium = field(default_factory=CartPole)
    ppo: PPO = field(default_factory=PPO)
    episodes: int = 20

    @property
    def together(self) -> int:
        """Number of policies that are trained, and kept, at once."""
        return _TOGETHER

    def own_trainer(self, networks: Collection, device: str) -> PolicyTrainer:
        """A trainer of policies.

        Args:
            networks: Policies to start from, under their masks.
            device: Device to train on.
        """
        return PolicyTrainer(self, self.environment, self.ppo, networks, device)

    @property
    def output_layers(self) -> tuple[str, ...]:
        """Names of the output layers' weights, to leave out of pruning: `Except(pattern, *task.output_layers)`.

        Raises:
            InputError: The network is one of your own, whose output layers are not known.
        """
        if self.architecture.name != "ActorCritic":
            raise InputError(f"the output layers of {self.architecture.name} are not known: name them yourself")
        names = [entry.name for entry in self.architecture.layout().weights]
        return tuple([name for name in names if name.startswith(part)][-1] for part in ("actor.", "critic."))

    def as_recorded(self, record: Record, architecture: Architecture) -> "PolicyTask":
        """The task as networks were trained on it: with their settings of PPO, their length and their architecture.

        Args:
            record: Record of a network.
            architecture: Architecture of the networks.

        Raises:
            InputError: The network was trained in another environment.
            StorageError: The record's settings are damaged.
        """
        recipe = record.get("recipe")
        if not isinstance(recipe, Mapping) or not isinstance(recipe.get("loop"), Mapping):
            return self
        settings = dict(recipe["loop"])
        place = settings.pop("environment", repr(self.environment))
        if place != repr(self.environment):
            raise InputError(f"the networks were trained in {place}, and task {self.name!r} is {self.environment!r}")
        ppo = PPO.from_json(settings)
        budget = ppo.to_json() | {"environment": place}
        known = architecture if architecture.known else self.architecture
        length = Step.of(recipe["length"], "length")
        return replace(self, architecture=known, ppo=ppo, recipe=LoopRecipe(length, 1, budget=budget))

    def require_lr_factor(self) -> None:
        """PPO can train at a part of its learning rate."""

    def try_out(self) -> float:
        """Check that the network is a policy of the environment. The loss is not known before it has played.

        Raises:
            InputError: The network does not give logits of the actions and values, or an episode of the environment is
                another when it is played again.
        """
        if isinstance(self.environment, Gymnasium):
            self.environment.check()
        module, size = self.architecture.build_seeded(0), self.environment.observation
        try:
            outputs = module(torch.zeros(3, size))
        except RuntimeError as error:
            raise InputError(f"the policy does not take what is observed, {size} numbers: {error}") from error
        shapes = [tuple(o.shape) for o in outputs] if isinstance(outputs, tuple) else outputs
        if shapes != [(3, self.environment.actions), (3,)]:
            raise InputError(
                f"a policy returns logits (batch, {self.environment.actions}) and values (batch,), got {shapes} for a "
                "batch of 3: see models.ActorCritic"
            )
        return math.nan

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return ("return",)

    def figures(self, module: nn.Module) -> dict[str, float]:
        """The mean return of a policy on the validation starts.

        Args:
            module: The policy.
        """
        layout = Layout.of(module)
        state = module.state_dict()
        buffers = {buffer.name: state[buffer.name][None] for buffer in layout.buffers}
        returns = self._returns(layout, layout.pack(state)[None], buffers, "validation")
        return {"return": returns.mean().item()}

    def measure(
        self,
        layout: Layout,
        weights: Float[Tensor, "n d"],
        buffers: Mapping[str, Tensor],
        device: str = "cpu",  # noqa: ARG002
    ) -> dict[str, list[float]]:
        """The mean return of each policy on the validation starts.

        Args:
            layout: Layout of the policies.
            weights: Weights, (n, D), zero where they are pruned.
            buffers: Buffers (n, *shape) by name.
            device: Where the policies are; they play on the CPU.
        """
        returns = self._returns(layout, weights.cpu(), buffers, "validation")
        return {"return": returns.mean(1).tolist()}

    def returns(
        self,
        policies: Collection,
        *,
        split: Literal["validation", "test"] = "test",
        episodes: int | None = None,
        greedy: bool = True,
    ) -> Float[Tensor, "n episodes"]:
        """The return of each policy in each episode; all policies begin at the same starts, which are fixed.

        Args:
            policies: Policies of the task's architecture.
            split: Which starts: those of "validation" are in the records, those of "test" are to be read once.
            episodes: Number of episodes; None for the task's.
            greedy: Whether the likeliest action is taken, or one is drawn.
        """
        check_networks(policies, "policies")
        checks.one_of(split, "split", ("validation", "test"))
        episodes = checks.given(episodes, "episodes", checks.count, at_least=1)
        greedy = checks.flag(greedy, "greedy")
        policies.layout.require(self.architecture.layout(), f"the policy of task {self.name!r}")
        return self._returns(policies.layout, policies.weights, policies.buffers, split, episodes, greedy)

    def _returns(
        self,
        layout: Layout,
        weights: Tensor,
        buffers: Mapping[str, Tensor],
        split: str,
        episodes: int | None = None,
        greedy: bool = True,
    ) -> Tensor:
        module = self.architecture.build_seeded(0).eval()
        policies = Policies(module, layout.tensors(weights), buffers, len(weights))
        return returns(policies, self.environment, split, episodes or self.episodes, greedy=greedy)
