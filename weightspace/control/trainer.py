"""Policies that play and learn side by side, with the operations of `Trainer`."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from weightspace.control.environment import Environment
from weightspace.control.gymnasium_environment import Gymnasium
from weightspace.control.gymnasium_play import GymnasiumPlay
from weightspace.control.play import Play, TensorPlay
from weightspace.control.ppo import PPO, advantages, loss
from weightspace.errors import InputError
from weightspace.networks.collection import Collection
from weightspace.networks.forward import forward
from weightspace.runtime import seeds, tracking
from weightspace.tasks.own_loop import LoopTask
from weightspace.training.own_loop import LoopTrainer

_PLAY = "play."


class PolicyTrainer(LoopTrainer):
    """Policies that are trained by PPO in one batched call; what a policy draws depends on its seed and the step alone.

    Args:
        task: Task of the policies.
        environment: What is played.
        ppo: How policies are trained.
        networks: Policies to start from, with seeds in their records, under their masks.
        device: Device to train on.
    """

    def __init__(
        self,
        task: LoopTask,
        environment: Environment | Gymnasium,
        ppo: PPO,
        networks: Collection,
        device: str = "cpu",
    ) -> None:
        self.ppo = ppo
        self.play: Play = (
            GymnasiumPlay(environment, ppo.copies, ppo.steps)
            if isinstance(environment, Gymnasium)
            else TensorPlay(environment, ppo.copies, ppo.steps)
        )
        super().__init__(task, networks, device)

    def prune(self, masks: Bool[Tensor, "n d"]) -> None:
        """Set pruned weights and their optimiser state to zero, from now on.

        Args:
            masks: True where a weight is kept, (n, D).

        Raises:
            InputError: A layer of a policy keeps none of its weights: such a policy acts at random.
        """
        for entry in self.layout.weights:
            empty = ~masks[:, self.layout.slices[entry.name]].any(1)
            if bool(empty.any()):
                raise InputError(
                    f"policy {int(empty.nonzero()[0])} of its block keeps none of the weights of {entry.name}: it "
                    "would act at random. Prune layer by layer (scope='layer'), leave the output layers out (Except), "
                    "or ask for a higher density"
                )
        super().prune(masks)

    def fork(self, masks: Bool[Tensor, "n d"] | None = None) -> "PolicyTrainer":
        """A second trainer at this point, under other masks; its copies of the environment are where these are.

        Args:
            masks: Masks of the second trainer; None for the same.
        """
        other = super().fork(masks)
        assert isinstance(other, PolicyTrainer)
        other.play = self.play.copy()
        return other

    def run(self, until: int, tick: Callable[[int], object] = lambda _steps: None) -> None:
        """Train up to update `until`.

        Args:
            until: Number of updates at the end.
            tick: Function that is called after each update with 1.
        """
        if not self.state and self.step < until:
            self.state = self.ppo.optimizer.start(self.weights)
        while self.step < until:
            self.weights = self.weights.clone()  # what was read of the trainer before stays as it was
            self._learn(self._played())
            if not bool(self.weights.isfinite().all()):
                raise InputError(f"training diverged at update {self.step}: lower the learning rate of PPO")
            self.step += 1
            tick(1)
            tracking.log(self._mean_loss)
            if self.checkpoint is not None and self.step < until and self.step % 16 == 0:
                self.save(self.checkpoint)

    def _kept(self) -> dict[str, Tensor]:
        return super()._kept() | {f"{_PLAY}{name}": one for name, one in self.play.tensors().items()}

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        super()._restore(tensors)
        self.play.restore({name.removeprefix(_PLAY): t for name, t in tensors.items() if name.startswith(_PLAY)})

    def _draws(self, purpose: str, *shape: int) -> Tensor:
        """Uniform numbers (n, *shape), each network's from its own seed and the step."""
        own = [seeds.generator(seed, purpose, self.step) for seed in self.individual.seeds]
        return torch.stack([torch.rand(shape, generator=one) for one in own])

    @torch.no_grad()
    def _played(self) -> dict[str, Tensor]:
        """What each policy did in its copies of the environment: (n, steps * copies, ...) by name."""
        ppo, play = self.ppo, self.play
        play.prepare(self._draws)
        choices = self._draws("actions", ppo.steps, ppo.copies)
        kept: dict[str, list[Tensor]] = {}
        for step in range(ppo.steps):
            seen = play.seen()
            logits, values = self._outputs(seen)
            log = logits.log_softmax(-1)
            last = log.shape[-1] - 1
            actions = (choices[:, step, :, None] >= log.exp().cumsum(-1)).sum(-1).clamp(max=last)
            outcome = play.step(step, actions)
            row: dict[str, Tensor] = {
                "x": seen,
                "actions": actions,
                "before": log.gather(-1, actions[..., None])[..., 0],
                "values": values,
                "beyond": self._outputs(outcome.after)[1] if bool(outcome.cut.any()) else torch.zeros_like(values),
                "rewards": (outcome.rewards * ppo.reward_scale).to(values.dtype),
                "ended": outcome.ended,
                "cut": outcome.cut,
            }
            for name, tensor in row.items():
                kept.setdefault(name, []).append(tensor)
        table = {name: torch.stack(rows) for name, rows in kept.items()}
        following = torch.cat([table["values"][1:], self._outputs(play.seen())[1][None]])
        following = torch.where(table["cut"], table["beyond"], following)
        table["gains"] = advantages(
            table["rewards"], table["values"], following, table["ended"], table["cut"], ppo.discount, ppo.trace
        )
        table["returns"] = table["gains"] + table["values"]
        return {
            name: tensor.transpose(0, 1).flatten(1, 2)
            for name, tensor in table.items()
            if name in ("x", "actions", "before", "gains", "returns")
        }

    def _learn(self, played: Mapping[str, Tensor]) -> None:
        """Several passes over what was played."""
        ppo = self.ppo
        size = ppo.steps * ppo.copies
        orders = self._draws("minibatches", ppo.epochs, size).argsort(-1)
        number = self.step * ppo.epochs * ppo.minibatches
        for epoch in range(ppo.epochs):
            for rows in orders[:, epoch].tensor_split(ppo.minibatches, -1):
                batch = {name: _taken(tensor, rows) for name, tensor in played.items()}
                number += 1
                self._step(batch, number)

    def _step(self, batch: Mapping[str, Tensor], number: int) -> None:
        leaves = {n: view.requires_grad_() for n, view in self.layout.tensors(self.weights.detach()).items()}
        outputs: Any = forward(self.module, leaves, self.buffers, batch["x"], shared_input=False)
        logits, values = outputs
        losses = loss(self.ppo, logits, values, batch["actions"], batch["before"], batch["gains"], batch["returns"])
        gradients = torch.autograd.grad(losses.sum(), list(leaves.values()))
        gradient = torch.cat([g.flatten(1) for g in gradients], 1)
        if self.masks is not None:
            gradient = gradient * self.masks
        norm = gradient.norm(dim=1, keepdim=True)
        gradient = gradient * (self.ppo.max_gradient_norm / (norm + 1e-6)).clamp(max=1.0)
        optimizer = self.ppo.optimizer
        rate = self.ppo.rate(self.step, self.length) * self.lr_factor
        optimizer.update_(self.weights, gradient, self.state, rate, optimizer.weight_decay, number)
        self.losses = losses.detach()

    def _outputs(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        outputs: Any = forward(self.module, self.layout.tensors(self.weights), self.buffers, seen, shared_input=False)
        return outputs

    def scale_rates(self, factor: float) -> None:
        """Multiply the learning rate.

        Args:
            factor: The factor.
        """
        self.lr_factor *= factor


def _taken(tensor: Tensor, rows: Tensor) -> Tensor:
    """Rows (n, k) of a tensor (n, size, ...), each network's own."""
    index = rows.reshape(*rows.shape, *[1] * (tensor.ndim - 2)).expand(*rows.shape, *tensor.shape[2:])
    return tensor.gather(1, index)
