"""The straight-through estimator of Git Re-Basin: permutations that minimise the loss of the midpoint."""

from dataclasses import dataclass, field

import torch

from weightspace.align.costs import WEIGHTS
from weightspace.align.fitted_matching import FittedMatching
from weightspace.align.matcher import Matched, Matcher
from weightspace.align.population import require_member
from weightspace.align.weight_matching import WeightMatching
from weightspace.networks.calling import call_with
from weightspace.networks.collection import Collection
from weightspace.networks.network import Network
from weightspace.recipes.step import Duration, Step, duration
from weightspace.runtime import checks, devices, seeds
from weightspace.runtime.progress import progress
from weightspace.symmetry import Symmetry
from weightspace.tasks.arguments import check_run
from weightspace.tasks.task import Task


@dataclass(frozen=True)
class StraightThrough:
    """Align networks to one of them by the loss halfway between.

    A free copy of the reference A is learned: each step projects the network B onto it by weight matching, takes the
    training loss of (A + pi(B)) / 2, and passes that gradient to the copy. The permutation with the lowest mean loss
    over a tenth of an epoch is kept. It takes far longer than weight matching. Source: Git Re-Basin (Ainsworth et al.
    2023, arXiv 2209.04836, section 3.3).

    Args:
        length: How long a network's permutation is learned, in epochs or iterations of the task.
        lr: Learning rate of Adam on the free copy.
        reference: Number of the network that the others are matched to.
        symmetry: Permutation symmetry written by hand; None traces it on training inputs.
        fix_unknown: Whether units that meet an operator which cannot be traced stay in place instead of an error.
    """

    length: Duration = duration("1ep")
    lr: float = 1e-3
    reference: int = 0
    symmetry: Symmetry | None = None
    fix_unknown: bool = False

    def __post_init__(self) -> None:
        checks.settle(self, Step.of, "length")
        checks.settle(self, checks.number, "lr", above=0)
        checks.settle(self, checks.count, "reference")
        wanted = "a Symmetry, or None to trace it"
        checks.settle_given(self, checks.instance, "symmetry", kinds=Symmetry, wanted=wanted)
        checks.settle(self, checks.flag, "fix_unknown")

    def fit(self, networks: Collection, task: Task) -> "FittedStraightThrough":
        """Choose the reference, and the task whose loss is minimised.

        Args:
            networks: The networks, the reference among them.
            task: Gives the training split, the loss, and the batch size.

        Raises:
            InputError: The reference is not in the collection, or the symmetry cannot be derived.
        """
        check_run(networks, task)
        require_member(self.reference, len(networks))
        matching = WeightMatching(self.symmetry, fix_unknown=self.fix_unknown)
        symmetry = matching.symmetry_of(networks, task.train.head(8).x)
        network = networks[self.reference]
        return FittedStraightThrough(FittedMatching(symmetry, False, {WEIGHTS: network.weights}), self, network, task)


@dataclass(frozen=True)
class FittedStraightThrough:
    """A reference to which networks are matched by gradient.

    Args:
        base: The symmetry, and the reference's weights.
        config: Settings of the matching.
        network: The reference.
        task: The task whose loss is minimised.
    """

    base: FittedMatching
    config: StraightThrough
    network: Network
    task: Task = field(repr=False)

    @property
    def symmetry(self) -> Symmetry:
        """The permutation symmetry of the networks."""
        return self.base.symmetry

    def transform(self, networks: Collection, *, seed: int = 0, device: str = "auto") -> Collection:
        """The same functions, units reordered (and those behind odd activations with the sign that fits).

        Args:
            networks: Networks of the reference's layout, those of the fit or others.
            seed: Seed of the order of training samples, the same for all networks.
            device: Device to learn on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

        Raises:
            LayoutMismatch: The networks are of another layout.
            InputError: The device is not available.
        """
        self.symmetry.layout.require_tensors(networks.layout, "the collection to align")
        own, device = seeds.derive(seed, "straight-through"), devices.pick(device)
        matches = [self._match(networks[i], own, device) for i in range(len(networks))]
        return self.base.apply(networks, [m.permutations for m in matches], signs=[m.signs for m in matches])

    def _match(self, network: Network, seed: int, device: str) -> Matched:
        task, layout, data = self.task, network.layout, self.task.train.of(self.network.record.data)
        per_epoch = task.recipe.per_epoch(len(task.train))
        total = self.config.length.total(per_epoch)
        window = max(1, min(per_epoch // 10, total))
        module = network.architecture.build_seeded(0).to(device).train()
        reference, weights = self.network.weights.to(device), network.weights.to(device)
        buffers = {name: buffer.to(device) for name, buffer in network.buffers.items()}
        free = reference.clone().requires_grad_()
        optimizer = torch.optim.Adam([free], self.config.lr)
        order = torch.zeros(0, dtype=torch.long)
        best, best_loss = Matched(self.symmetry.identity(), 0.0, False, 0), float("inf")
        recent: list[float] = []
        for step in progress(range(total), "straight-through"):
            at = step % per_epoch * task.recipe.batch_size
            if at == 0:
                epoch = seeds.generator(seed, "data order", step // per_epoch)
                order = torch.randperm(len(task.train), generator=epoch)
            rows = order[at : at + task.recipe.batch_size]
            matched = Matcher(self.symmetry, free.detach()[None]).match(weights[None])
            places, signs = matched.permutations, matched.signs
            permuted = self.symmetry.permute(self.symmetry.flip(weights, signs), places)
            middle = 0.5 * (reference + permuted + (free - free.detach()))
            moved = self.symmetry.permute_buffers(self.symmetry.flip_buffers(buffers, signs), places)
            state = layout.tensors(middle) | moved
            with seeds.seeded_modules(seeds.derive(seed, "step", step), "dropout"):
                batch = data.batch(rows).to(device)
                loss = task.loss(call_with(module, state, batch.x), batch.y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recent = [*recent[-window + 1 :], loss.item()]
            if len(recent) == window and sum(recent) / window < best_loss:
                best, best_loss = matched, sum(recent) / window
        return best
