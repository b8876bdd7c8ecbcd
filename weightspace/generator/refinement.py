"""Refine a generator through the task: its own samples, pruned, follow the gradient of their training loss.

Flow matching alone regresses to the mean network when there are few tickets. Refinement treats the
generator q as an amortised variational posterior over sparse networks: it raises the expected training
log-likelihood E_q[log p(D | w)] by pathwise gradients, straight through the choice of the mask: the loss and its
gradient are those of the sparse network, and the gradient reaches the pruned weights too, so that they can grow
into the mask (dynamic pruning with feedback, arXiv 2006.07253). The entropy of q, which would make this a bound on
the evidence, is not known for a flow followed by top-k; two hinge penalties stand in for it and keep samples as
different from each other as tickets are. The objective is therefore no bound, and is not called one.

Only the decoder, mean and components, is trained. Trained along with it, the flow gathered its codes in a few
clusters that no penalty on pairs could part (their gradient vanishes between equal networks); with the
flow as it was matched to the tickets, codes stay spread and so do the networks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.compress import FittedPCA
from weightspace.errors import InputError
from weightspace.flow.flow_matching import FittedFlow
from weightspace.generator.conditions import Conditions
from weightspace.generator.diversity import similarity_penalty, typical_similarity
from weightspace.generator.mask_rules import FittedMaskRule, MagnitudeMask
from weightspace.generator.soft_mask import _SMALL, slope
from weightspace.masks.patterns import Pattern, Unstructured
from weightspace.masks.schedule import count_of, density_of, one_threshold
from weightspace.networks.collection import Collection
from weightspace.recipes.optimizers import Adam
from weightspace.runtime import seeds
from weightspace.runtime.progress import progress
from weightspace.storage.checkpoints import load_checkpoint, save_checkpoint
from weightspace.storage.spelling import spelled_text
from weightspace.tasks.task import Task
from weightspace.training.gradients import draws_random_numbers, one_by_one, side_by_side

Directions = Literal["tickets", "random"]

_CHECKPOINT_EVERY = 100
_WARM_UP = 100  # steps, but at most a tenth of all
_CLIP = 1.0  # largest norm of a gradient
_STOCK = 4096  # codes that are drawn once, for all steps


@dataclass(frozen=True)
class TaskRefinement:
    """Train the decoder of a generator, mean and components, on the task's training split.

    Args:
        task: only its training split is read, and only while fitting.
        patterns: samples are pruned by one of these in each step, at random; by default to the tickets' median density.
        steps: training iterations.
        networks: samples a step.
        batch_size: training samples for each of them.
        lr: of the components, with cosine decay.
        lr_mean: of the mean network; by default three times lr.
        ramp: share of the steps in which samples become sparse: they keep, beside the pattern, the weights with the highest
            scores, at first all that any ticket keeps, ever fewer by the cubic schedule of gradual pruning (arXiv 1710.01878).
            0 prunes by the pattern from the first step. 0.5 makes samples of small networks better at a density of 0.05,
            and more alike.
        diversity: weight of the penalty that keeps values as different as tickets' are: for each pair its cosine above the
            95 % quantile of the tickets' pairs.
        mask_diversity: weight of the same for masks, under a global density: for each pair their overlap above the quantile.
            Without it samples are worse at low densities; twice as much lets masks merge on a small sphere.
        radius: of the sphere around the mean that samples start on, in terms of the tickets' root mean square distance from
            theirs, however much of it the components explain. A flow makes codes of unequal length, and the networks of long
            ones are bad, those of short ones alike. None leaves codes as the flow makes them.
        directions: what the components are before the first step. "tickets": those of the compression. "random": random
            directions in which each weight varies as much as in the tickets, so that samples know single tickets through the
            mean alone.
    """

    task: Task
    patterns: Sequence[Pattern] | None = None
    steps: int = 4000
    networks: int = 32
    batch_size: int = 128
    lr: float = 1e-3
    lr_mean: float | None = None
    ramp: float = 0.0
    diversity: float = 0.3
    mask_diversity: float = 0.15
    radius: float | None = 0.5
    directions: Directions = "tickets"

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size) < 1 or self.networks < 2:
            raise InputError(
                "refinement needs at least one step, one training sample and two networks a step, got "
                f"{self.steps}, {self.batch_size} and {self.networks}"
            )
        if not (0 < self.lr < math.inf and 0 < self.rate_of_mean < math.inf):
            raise InputError(f"learning rates are positive and finite, got {self.lr} and {self.lr_mean}")
        if not (0 <= self.diversity < math.inf and 0 <= self.mask_diversity < math.inf):
            raise InputError(
                "diversity and mask_diversity are weights of penalties, finite and not negative, got "
                f"{self.diversity} and {self.mask_diversity}"
            )
        if not 0 <= self.ramp <= 1:
            raise InputError(f"ramp is a share of the steps, from 0 to 1, got {self.ramp}")
        if self.radius is not None and not 0 < self.radius < math.inf:
            raise InputError(
                f"radius is positive and finite, in terms of the tickets' distance from their mean, or None, got {self.radius}"
            )
        if self.directions not in get_args(Directions):
            raise InputError(f"directions are 'tickets' or 'random', got {self.directions!r}")
        given = self.patterns
        if given is not None and not (
            isinstance(given, Sequence) and given and all(isinstance(one, Pattern) for one in given)
        ):
            raise InputError(
                "patterns is a sequence of at least one pattern, such as [Unstructured(0.1)], or None for the tickets' "
                f"density, got {given!r}"
            )

    @property
    def rate_of_mean(self) -> float:
        """The learning rate of the mean network."""
        return 3 * self.lr if self.lr_mean is None else self.lr_mean

    def to_json(self) -> dict[str, Any]:
        """The settings, without the task."""
        patterns = None if self.patterns is None else [spelled_text(pattern) for pattern in self.patterns]
        return {k: v for k, v in vars(self).items() if k != "task"} | {
            "lr_mean": self.rate_of_mean,
            "patterns": patterns,
        }

    def check(self, tickets: Collection) -> None:
        """Raise if tickets like these cannot be refined for this task."""
        self.task.architecture.layout().require(tickets.layout, "the tickets to refine a generator of")
        for pattern in self.patterns or ():
            count_of(pattern, tickets.layout)

    def fit(
        self,
        tickets: Collection,
        support: FittedMaskRule,
        compress: FittedPCA,
        flow: FittedFlow,
        conditions: Conditions = Conditions(),
        *,
        seed: int = 0,
        checkpoint: Path | None = None,
    ) -> "Refined":
        """Refine a generator.

        Args:
            tickets: that it was fitted to, aligned.
            checkpoint: file to continue from if it exists, and to save progress to.

        Raises:
            LayoutMismatch: the tickets are not of the task's architecture.
            StorageError: the checkpoint is damaged, or of another training.
        """
        self.check(tickets)
        run = _Run(self, tickets, support, compress, flow, conditions, seed)
        done = 0
        if checkpoint is not None and checkpoint.exists():
            run.state, done = load_checkpoint(checkpoint, run.state, self.steps)
        bar = progress(range(self.steps), "refining through the task")
        bar.update(done)
        with bar:
            for step in range(done, self.steps):
                loss = run.step(step)
                bar.update()
                if (step + 1) % _CHECKPOINT_EVERY == 0:
                    bar.set_postfix(loss=f"{loss:.3f}")
                    if checkpoint is not None:
                        save_checkpoint(checkpoint, run.state, step + 1)
        return Refined(run.state["mean"], run.state["components"], run.length)


@dataclass(frozen=True)
class Refined:
    """A refined decoder.

    Args:
        mean: (M,).
        components: (K, M); no longer orthonormal, nor in the span of the tickets.
        length: of all codes that are decoded, if they are brought to one.
    """

    mean: Float[Tensor, " m"]
    components: Float[Tensor, "k m"]
    length: float | None = None

    def decode(self, codes: Float[Tensor, "n k"]) -> Float[Tensor, "n m"]:
        """Vectors of codes, before they are split and their masks are chosen."""
        return torch.addmm(self.mean, of_length(codes, self.length).to(self.mean.dtype), self.components)

    def tensors(self) -> dict[str, Tensor]:
        return {"refined.mean": self.mean, "refined.components": self.components}


def of_length(codes: Float[Tensor, "n k"], length: float | None) -> Float[Tensor, "n k"]:
    """Codes in their own directions, all of one length."""
    return codes if length is None else length * torch.nn.functional.normalize(codes)


class _Run:
    """One refinement: what is trained, what it is trained on, a step."""

    def __init__(
        self, config: TaskRefinement, tickets: Collection, support: FittedMaskRule, compress: FittedPCA,
        flow: FittedFlow, conditions: Conditions, seed: int,
    ) -> None:  # fmt: skip
        self.config, self.seed, self.flow = config, seed, flow
        self.length = None if config.radius is None else config.radius * math.sqrt(compress.total_variance)
        self.support, self.conditions = support, conditions
        self.layout, self.prunable = tickets.layout, tickets.layout.prunable
        self.module = config.task.architecture.build_seeded(0).train()
        self.random = draws_random_numbers(config.task.architecture.build_seeded(0), config.task.train.x[:2])
        self.buffers = {name: b[:1] for name, b in tickets.buffers.items()}
        self.alone = self.random or not self._vectorises(tickets)
        self.by_magnitude = isinstance(support, MagnitudeMask)
        self.patterns = list(config.patterns or [Unstructured(tickets.densities.median().item())])
        self.stock: dict[int, Tensor] = {}
        self.typical = [typical_similarity(tickets, pattern, seed) for pattern in self.patterns]
        self.adam = Adam(lr=config.lr)
        self.state = {
            "mean": compress.mean.clone(),
            "components": self._directions(tickets, compress),
        }
        self.gradient = torch.empty_like(self.state["components"])
        for name in ("mean", "components"):
            self.state |= {f"{name}.{k}": t for k, t in self.adam.start(self.state[name]).items()}

    def _directions(self, tickets: Collection, compress: FittedPCA) -> Float[Tensor, "k m"]:
        """The components to start from."""
        if self.config.directions == "tickets":
            return compress.components.clone()
        # A sphere has its radius; what the flow makes has to be widened to the tickets' variance.
        varied = compress.total_variance if self.length else max(_SMALL, self._codes(0).var(0).sum().item())
        vectors = self.support.vectors(tickets)
        each = (vectors.weights if isinstance(vectors, Collection) else vectors).var(0)
        random = torch.randn(compress.components.shape, generator=seeds.generator(self.seed, "refinement directions"))
        return random.to(each.dtype) * (each / varied).sqrt()

    def step(self, step: int) -> float:
        """One update; returns the mean training loss of the sampled sparse networks."""
        config, task = self.config, self.config.task
        random = seeds.generator(self.seed, "refinement", step)
        codes, which = self._drawn(random)
        pattern = self.patterns[which]
        codes = codes.to(self.state["mean"].dtype)
        decoded = torch.addmm(self.state["mean"], codes, self.state["components"]).requires_grad_()
        values, scores = self.support.split(decoded)
        mask, beside = self._mask(scores, pattern, (values.detach() != 0) | ~self.prunable, step)
        masks = mask.to(values.dtype)
        sparse = values.detach() * masks
        chosen = torch.randint(len(task.train), (config.networks, config.batch_size), generator=random)
        gradient = torch.empty_like(sparse)
        buffers = {n: b.expand(config.networks, *b.shape[1:]).clone() for n, b in self.buffers.items()}
        arguments = (
            self.module, self.layout, task.loss, sparse, buffers, task.train.x[chosen], task.train.y[chosen], gradient,
        )  # fmt: skip
        if self.alone:
            noise = [seeds.derive(self.seed, f"dropout {i}", step) for i in range(len(sparse))]
            losses = one_by_one(*arguments, noise if self.random else None)
        else:
            losses = side_by_side(*arguments)
        # The mean of the networks' own gradients, straight through the mask.
        by_value = gradient.div_(len(sparse))
        if not scores.requires_grad:  # the mask cannot change, and what lies outside it must not
            by_value.mul_(masks)
        by_mask = None if self.by_magnitude else values.detach() * by_value
        if config.diversity or config.mask_diversity:
            typical_cosine, typical_overlap = self.typical[which]
            typical_overlap += beside * (1 - typical_overlap)  # denser masks share more
            apart, masks_apart = similarity_penalty(sparse, masks, (typical_cosine, typical_overlap), self.layout)
            by_value.addcmul_(apart, masks, value=config.diversity)
            # Where each group or layer has a threshold of its own, the pull on masks spoils networks and parts nothing.
            if one_threshold(pattern):
                by_mask = masks_apart.mul_(config.mask_diversity).add_(0 if by_mask is None else by_mask)
        ends, moves = [values], [by_value]
        if by_mask is not None and scores.requires_grad:
            ends.append(scores)
            moves.append(by_mask.mul_(slope(scores.detach(), mask, pattern, self.layout)))
        (moved,) = torch.autograd.grad(ends, decoded, moves)
        # Kept from step to step, as it is as large as the components: fresh memory costs page faults.
        gradients = {"mean": moved.sum(0), "components": torch.mm(codes.T, moved, out=self.gradient)}
        warm = max(1, min(_WARM_UP, config.steps // 10))
        share = min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        rates = {"mean": config.rate_of_mean, "components": config.lr}
        for name, found in gradients.items():
            norm = found.norm()
            clipped = found.mul_(_CLIP / norm) if norm > _CLIP else found
            own = {k.partition(".")[2]: t for k, t in self.state.items() if k.startswith(f"{name}.")}
            self.adam.update_(self.state[name], clipped, own, rates[name] * share, 0.0, step + 1)
        loss = losses.mean().item()
        if not math.isfinite(loss):
            raise InputError(
                f"refinement diverged at step {step + 1}: lower lr and lr_mean ({config.lr}, {config.rate_of_mean})"
            )
        return loss

    def _vectorises(self, tickets: Collection) -> bool:
        """Can two networks be trained side by side? Control flow on data cannot."""
        if self.random:
            return False
        two = torch.stack([tickets[:1].weights[0]] * 2)
        buffers = {n: b.expand(2, *b.shape[1:]).clone() for n, b in self.buffers.items()}
        x, y = (torch.stack([part[:2]] * 2) for part in (self.config.task.train.x, self.config.task.train.y))
        try:
            side_by_side(self.module, self.layout, self.config.task.loss, two, buffers, x, y, torch.empty_like(two))
        except RuntimeError:
            return False  # one after another either works, or says what is wrong
        return True

    def _drawn(self, random: torch.Generator) -> tuple[Float[Tensor, "n k"], int]:
        """Codes of a step and the number of the pattern they are pruned by.

        From a stock, as the flow is fixed and dear to follow: a linear decoder with fewer components than the
        stock has codes cannot learn single ones by heart.
        """
        which = int(torch.randint(len(self.patterns), (), generator=random))
        stock = self._codes(which)
        return stock[torch.randperm(len(stock), generator=random)[: self.config.networks]], which

    def _codes(self, which: int) -> Float[Tensor, "s k"]:
        """The stock of codes for a pattern."""
        if which not in self.stock:
            size = max(_STOCK, self.config.networks)
            x_0 = torch.randn(size, self.flow.codes, generator=seeds.generator(self.seed, "refinement codes", which))
            asked = self.conditions.ask(None, size, density_of(self.patterns[which]))
            codes = self.flow.integrate(x_0 * self.flow.config.source_std, conditions=asked)
            self.stock[which] = of_length(codes, self.length)
        return self.stock[which]

    def _mask(
        self, scores: Float[Tensor, "n d"], pattern: Pattern, within: Bool[Tensor, "n d"], step: int
    ) -> tuple[Bool[Tensor, "n d"], float]:
        """The mask of each network, and the share of the weights outside the pattern that it keeps for now."""
        last = self.config.ramp * self.config.steps
        fixed, total = scores.detach(), self.layout.num_prunable
        if step >= last or not scores.requires_grad:  # a mask that cannot change has nothing to choose
            return pattern.mask(fixed, self.layout, within=within), 0.0
        count = count_of(pattern, self.layout) if one_threshold(pattern) else None
        if count is not None:
            kept = count
        else:
            narrow = pattern.mask(fixed, self.layout, within=within)
            kept, fixed = int((narrow & self.prunable).sum(1).amax()), fixed.masked_fill(narrow, math.inf)
        reach = int(within.sum(1).amin()) - (self.layout.size - total)
        beside = max(0, round((reach - kept) * (1 - step / last) ** 3))
        wide = Unstructured((kept + beside) / total)
        return wide.mask(fixed, self.layout, within=within), beside / max(1, total - kept)
