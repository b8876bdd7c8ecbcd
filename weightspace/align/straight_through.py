"""The straight-through estimator of Git Re-Basin: permutations that minimise the loss of the midpoint."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import functional_call

from weightspace.align.matcher import Matcher
from weightspace.align.population import require_member
from weightspace.align.weight_matching import FittedMatching, WeightMatching
from weightspace.networks.collection import Collection
from weightspace.networks.network import Network
from weightspace.recipes.step import Step
from weightspace.runtime import seeds
from weightspace.runtime.progress import progress
from weightspace.symmetry import Symmetry
from weightspace.tasks.task import Task


@dataclass(frozen=True)
class StraightThrough:
    """Align networks to one of them by the loss halfway between (arXiv 2209.04836, section 3.3).

    A free copy of the reference A is learned: each step projects the network B onto it by weight
    matching, takes the training loss of (A + pi(B)) / 2, and passes that gradient to the copy. The
    permutation with the lowest mean loss over an epoch's tenth is kept. Far dearer than weight matching.

    Args:
        task: gives the training split and the loss.
        length: how long to learn.
        lr: learning rate of Adam on the free copy.
        reference: number of the network that the others are matched to.
        symmetry: written by hand; None traces it.
        fix_unknown: leave units in place that meet an operator which cannot be traced.
    """

    task: Task = field(compare=False)
    length: Step = Step(epochs=1)
    lr: float = 1e-3
    reference: int = 0
    symmetry: Symmetry | None = None
    fix_unknown: bool = False

    def fit(self, networks: Collection) -> "FittedStraightThrough":
        """Choose the reference.

        Raises:
            InputError: it is not in the collection, or the symmetry cannot be derived.
        """
        require_member(self.reference, len(networks))
        symmetry = WeightMatching(
            self.symmetry, example=self.task.train.x[:8], fix_unknown=self.fix_unknown
        ).symmetry_of(networks)
        network = networks[self.reference]
        return FittedStraightThrough(FittedMatching(symmetry, False, {"weights": network.weights}), self, network)


@dataclass(frozen=True)
class FittedStraightThrough:
    """A reference to which networks are matched by gradient."""

    base: FittedMatching
    config: StraightThrough
    network: Network

    @property
    def symmetry(self) -> Symmetry:
        return self.base.symmetry

    def transform(self, networks: Collection, *, seed: int = 0) -> Collection:
        """The same functions, units reordered.

        Args:
            seed: of the order of training samples, the same for all networks.

        Raises:
            LayoutMismatch: the networks are of another layout.
        """
        self.symmetry.layout.require(networks.layout, "the collection to align")
        orders = [self._match(networks[i], seeds.derive(seed, "straight-through")) for i in range(len(networks))]
        return self.base.apply(networks, orders)

    def _match(self, network: Network, seed: int) -> dict[str, Tensor]:
        task, layout = self.config.task, network.layout
        per_epoch = task.recipe.per_epoch(len(task.train))
        total = self.config.length.total(per_epoch)
        window = max(1, min(per_epoch // 10, total))
        module = network.architecture.build_seeded(0).train()
        ours = self.network.weights
        free = ours.clone().requires_grad_()
        optimizer = torch.optim.Adam([free], self.config.lr)
        order = torch.zeros(0, dtype=torch.long)
        best, best_loss, recent = self.symmetry.identity(), float("inf"), []
        for step in progress(range(total), "straight-through"):
            at = step % per_epoch * task.recipe.batch_size
            if at == 0:
                order = torch.randperm(
                    len(task.train), generator=seeds.generator(seed, "data order", step // per_epoch)
                )
            rows = order[at : at + task.recipe.batch_size]
            found = Matcher(self.symmetry, free.detach()[None]).match(network.weights[None]).permutations
            theirs = self.symmetry.permute(network.weights, found)
            middle = 0.5 * (ours + theirs + (free - free.detach()))
            state = layout.tensors(middle) | self.symmetry.permute_buffers(network.buffers, found)
            with seeds.seeded_modules(seeds.derive(seed, "step", step), "dropout"):
                loss = task.loss(functional_call(module, state, (task.train.x[rows],)), task.train.y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recent = [*recent[-window + 1 :], loss.item()]
            if len(recent) == window and sum(recent) / window < best_loss:
                best, best_loss = found, sum(recent) / window
        return best
