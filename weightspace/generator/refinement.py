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
from weightspace.generator.code_stock import CodeStock
from weightspace.generator.conditions import Conditions
from weightspace.generator.decoder_update import DecoderUpdate
from weightspace.generator.diversity import similarity_penalty, typical_similarity
from weightspace.generator.fitted_refinement import FittedRefinement
from weightspace.generator.mask_rules import FittedMaskRule, ranks_magnitudes
from weightspace.generator.soft_mask import ramped_mask, slope
from weightspace.masks.patterns import Pattern, Unstructured, check_pattern
from weightspace.masks.schedule import count_of, one_threshold
from weightspace.networks.collection import Collection
from weightspace.runtime import checks, devices, seeds, tracking, trees
from weightspace.runtime.progress import progress
from weightspace.storage.checkpoints import load_checkpoint, save_checkpoint
from weightspace.storage.spelling import spelled_text
from weightspace.storage.system_errors import exists
from weightspace.tasks.task import Task
from weightspace.training.gradients import draws_random_numbers, one_by_one, side_by_side

Directions = Literal["tickets", "random"]
"""Where the components of a refined decoder start: at the tickets' own, or as random directions."""

_CHECKPOINT_EVERY = 100
_SMALL = 1e-12  # variances below are rounding


@dataclass(frozen=True)
class TaskRefinement:
    """Train the decoder of a generator, mean and components, on a task's training split.

    Args:
        patterns: Patterns that samples are pruned by, one of them at random in each step; None is the tickets' median
            density.
        steps: Training iterations.
        networks: Samples in each iteration.
        batch_size: Training data for each of them.
        lr: Learning rate of the components, with cosine decay.
        lr_mean: Learning rate of the mean network; None is three times lr.
        ramp: Share of the steps in which samples become sparse: they keep, beside the pattern, the weights with the
            highest scores, at first all that any ticket keeps, then ever fewer by the cubic schedule of gradual pruning
            (arXiv 1710.01878). 0 prunes by the pattern from the first step. 0.5 makes samples of small networks better
            at a density of 0.05, and more similar.
        diversity: Weight of the penalty that keeps values as different as tickets' are: for each pair its cosine above
            the 95 % quantile of the tickets' pairs.
        mask_diversity: Weight of the same penalty for masks, under a global density: for each pair their overlap above
            the quantile. Without it samples are worse at low densities; twice as much lets masks merge on a small
            sphere.
        radius: Radius of the sphere around the mean that samples start on, in terms of the tickets' root mean square
            distance from theirs, however much of it the components explain. A flow makes codes of unequal length, and
            the networks of long ones are bad, those of short ones too similar. None leaves codes as the flow makes
            them.
        directions: Components before the first step. "tickets": those of the compression. "random": random directions
            in which each weight varies as much as in the tickets, so that samples know single tickets through the mean
            alone.

    Raises:
        InputError: A setting is out of its range.
    """

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
        checks.settle(self, checks.count, "steps", "batch_size", at_least=1)
        checks.settle(self, checks.count, "networks", at_least=2)
        checks.settle(self, checks.number, "lr", above=0)
        checks.settle_given(self, checks.number, "lr_mean", "radius", above=0)
        checks.settle(self, checks.number, "ramp", at_least=0, at_most=1)
        checks.settle(self, checks.number, "diversity", "mask_diversity", at_least=0)
        checks.settle(self, checks.one_of, "directions", choices=get_args(Directions))
        checks.settle_given(self, checks.several, "patterns", check=check_pattern, least=1)

    @property
    def rate_of_mean(self) -> float:
        """Learning rate of the mean network."""
        return 3 * self.lr if self.lr_mean is None else self.lr_mean

    def to_json(self) -> dict[str, Any]:
        """The settings as data, with the learning rate of the mean resolved."""
        patterns = None if self.patterns is None else [spelled_text(pattern) for pattern in self.patterns]
        return vars(self) | {"lr_mean": self.rate_of_mean, "patterns": patterns}

    def check(self, tickets: Collection, task: Task) -> None:
        """Raise if a generator of these tickets cannot be refined through a task.

        Args:
            tickets: Tickets of the fit.
            task: Task to refine through.

        Raises:
            LayoutMismatch: The tickets are not of the task's architecture.
            InputError: A pattern keeps none of their weights, or each network has data of its own.
        """
        task.require_shared_data("refinement of a generator")
        task.architecture.layout().require(tickets.layout, "the tickets to refine a generator of")
        for pattern in self.patterns or ():
            count_of(pattern, tickets.layout)

    def fit(
        self,
        tickets: Collection,
        task: Task,
        masks: FittedMaskRule,
        compress: FittedPCA,
        flow: FittedFlow,
        conditions: Conditions = Conditions(),
        *,
        seed: int = 0,
        checkpoint: Path | None = None,
        device: str = "auto",
    ) -> FittedRefinement:
        """Refine the decoder of a generator.

        Args:
            tickets: Tickets that the generator was fitted to, aligned.
            task: Task to refine through; only its training split is read.
            masks: Mask rule of the generator.
            compress: Compression, whose mean and components are where the decoder starts.
            flow: Flow that makes the codes.
            conditions: Conditions that the flow was trained with.
            seed: Seed of all random numbers.
            checkpoint: File to continue from if it exists, and to save progress to.
            device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

        Raises:
            LayoutMismatch: The tickets are not of the task's architecture.
            InputError: A pattern keeps none of their weights, the device is not available, or the training diverged.
            StorageError: The checkpoint is damaged, or of another training.
        """
        self.check(tickets, task)
        run = RefinementRun(self, tickets, task, masks, compress, flow, conditions, seed, devices.pick(device))
        done = 0
        if checkpoint is not None and exists(checkpoint):
            run.state, done = load_checkpoint(checkpoint, run.state, self.steps)
        bar = progress(range(self.steps), "refining through the task")
        bar.update(done)
        with bar, tracking.stage("refinement", self.steps) as told:
            told.skip(done)
            for step in range(done, self.steps):
                loss = run.step(step)
                bar.update()
                told.advance()
                told.log(lambda: {"loss": loss})  # noqa: B023
                if (step + 1) % _CHECKPOINT_EVERY == 0:
                    bar.note(loss=loss)
                    if checkpoint is not None:
                        save_checkpoint(checkpoint, run.state, step + 1)
        return FittedRefinement(run.state["mean"].cpu(), run.state["components"].cpu(), run.length)


@dataclass(frozen=True)
class _Samples:
    """Sparse networks of one step: `decoded` (n, M) with its values and scores, masks, and values under the masks (n,
    D).
    """

    decoded: Tensor
    values: Tensor
    scores: Tensor
    mask: Bool[Tensor, "n d"]
    masks: Tensor
    sparse: Tensor
    widened: float  # share of the weights outside the pattern that the masks keep for now


class RefinementRun:
    """One refinement: what is trained, what it is trained on, and a step.

    Args:
        settings: Settings of the refinement.
        tickets: Aligned tickets.
        task: Task to refine through.
        masks: Mask rule of the generator.
        compress: Compression of the generator.
        flow: Flow of the generator.
        conditions: Conditions that the flow was trained with.
        seed: Seed of all random numbers.
        device: Device to train on.
    """

    def __init__(
        self,
        settings: TaskRefinement,
        tickets: Collection,
        task: Task,
        masks: FittedMaskRule,
        compress: FittedPCA,
        flow: FittedFlow,
        conditions: Conditions,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.settings, self.task, self.seed, self.rule = settings, task, seed, masks
        self.length = None if settings.radius is None else settings.radius * math.sqrt(compress.total_variance)
        self.layout, self.prunable, self.device = tickets.layout, tickets.layout.prunable.to(device), device
        self.module, self.train = task.architecture.build_seeded(0).to(device).train(), task.train.to(device)
        self.random = draws_random_numbers(task.architecture.build_seeded(0), task.train.head(2).x)
        self.buffers = {name: b[:1].to(device) for name, b in tickets.buffers.items()}
        self.alone = self.random or not self._vectorises(tickets)
        self.patterns = list(settings.patterns or [Unstructured(tickets.densities.median().item())])
        self.stock = CodeStock(flow, conditions, self.patterns, self.length, settings.networks, seed, device)
        self.typical = [typical_similarity(tickets, pattern, seed) for pattern in self.patterns]
        self.update = DecoderUpdate(settings.rate_of_mean, settings.lr, settings.steps)
        start = compress.mean.to(device, copy=True), self._directions(tickets, compress).to(device)
        self.state = self.update.start(*start)
        # Kept from step to step, as it is as large as the components: fresh memory costs page faults.
        self.gradient = torch.empty_like(self.state["components"])

    def _directions(self, tickets: Collection, compress: FittedPCA) -> Float[Tensor, "k m"]:
        """The components to start from."""
        if self.settings.directions == "tickets":
            return compress.components.clone()
        # A sphere has its radius; what the flow makes has to be widened to the tickets' variance.
        varied = compress.total_variance if self.length else max(_SMALL, self.stock.codes(0).var(0).sum().item())
        vectors = self.rule.vectors(tickets)
        each = (vectors.weights if isinstance(vectors, Collection) else vectors).var(0)
        random = torch.randn(compress.components.shape, generator=seeds.generator(self.seed, "refinement directions"))
        return random.to(each.dtype) * (each / varied).sqrt()

    def _vectorises(self, tickets: Collection) -> bool:
        """Can two networks be trained side by side? Control flow on data cannot."""
        if self.random:
            return False
        two = torch.stack([tickets[:1].weights[0]] * 2).to(self.device)
        buffers = {n: b.expand(2, *b.shape[1:]).clone() for n, b in self.buffers.items()}
        head = self.train.head(2)
        x, y = (trees.stack([part] * 2) for part in (head.x, head.y))
        try:
            side_by_side(self.module, self.layout, self.task.loss, two, buffers, x, y, torch.empty_like(two))
        except RuntimeError:
            return False  # one after another either works, or says what is wrong
        return True

    def step(self, step: int) -> float:
        """Update the decoder once; returns the mean training loss of the sparse networks.

        Args:
            step: Steps that are done.

        Raises:
            InputError: The loss is not finite.
        """
        random = seeds.generator(self.seed, "refinement", step)
        codes, which = self.stock.draw(random)
        codes = codes.to(self.state["mean"].dtype)
        samples = self._samples(codes, self.patterns[which], step)
        losses, by_value = self._task_gradient(samples.sparse, random, step)
        if not samples.scores.requires_grad:  # the mask cannot change, and what lies outside it must not
            by_value.mul_(samples.masks)
        by_mask = None if ranks_magnitudes(self.rule) else samples.values.detach() * by_value
        if self.settings.diversity or self.settings.mask_diversity:
            by_mask = self._add_penalties(samples, which, by_value, by_mask)
        moved = self._through_masks(samples, self.patterns[which], by_value, by_mask)
        gradients = {"mean": moved.sum(0), "components": torch.mm(codes.T, moved, out=self.gradient)}
        self.update.apply_(self.state, gradients, step)
        return self._finite(losses.mean().item(), step)

    def _samples(self, codes: Float[Tensor, "n k"], pattern: Pattern, step: int) -> _Samples:
        """Decode codes, choose the masks, and take the values under them."""
        decoded = torch.addmm(self.state["mean"], codes, self.state["components"]).requires_grad_()
        values, scores = self.rule.split(decoded)
        mask, widened = self._mask(scores, pattern, (values.detach() != 0) | ~self.prunable, step)
        masks = mask.to(values.dtype)
        return _Samples(decoded, values, scores, mask, masks, values.detach() * masks, widened)

    def _mask(
        self, scores: Float[Tensor, "n d"], pattern: Pattern, within: Bool[Tensor, "n d"], step: int
    ) -> tuple[Bool[Tensor, "n d"], float]:
        """The mask of each network, and the share of the weights outside the pattern that it keeps for now."""
        last, fixed = self.settings.ramp * self.settings.steps, scores.detach()
        if step >= last or not scores.requires_grad:  # a mask that cannot change has nothing to choose
            return pattern.mask(fixed, self.layout, within=within), 0.0
        return ramped_mask(fixed, pattern, within, self.layout, (1 - step / last) ** 3)

    def _task_gradient(
        self, sparse: Float[Tensor, "n d"], random: torch.Generator, step: int
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n d"]]:
        """Losses of the networks on batches of their own, and the gradient of their mean."""
        count, train = len(sparse), self.train
        chosen = torch.randint(len(train), (count, self.settings.batch_size), generator=random).to(self.device)
        gradient = torch.empty_like(sparse)
        buffers = {n: b.expand(count, *b.shape[1:]).clone() for n, b in self.buffers.items()}
        x, y = train.batches(chosen, [None] * count)
        if self.alone:
            noise = [seeds.derive(self.seed, f"dropout {i}", step) for i in range(count)] if self.random else None
            losses = one_by_one(self.module, self.layout, self.task.loss, sparse, buffers, x, y, gradient, noise)
        else:
            losses = side_by_side(self.module, self.layout, self.task.loss, sparse, buffers, x, y, gradient)
        return losses, gradient.div_(count)

    def _add_penalties(self, samples: _Samples, which: int, by_value: Tensor, by_mask: Tensor | None) -> Tensor | None:
        """Add the gradients of the penalties on similar pairs: in place for the values, returned for the masks."""
        typical_cosine, typical_overlap = self.typical[which]
        typical_overlap += samples.widened * (1 - typical_overlap)  # denser masks share more
        limits = (typical_cosine, typical_overlap)
        apart, masks_apart = similarity_penalty(samples.sparse, samples.masks, limits, self.layout)
        by_value.addcmul_(apart, samples.masks, value=self.settings.diversity)
        # Where each group or layer has a threshold of its own, the pull on masks spoils networks and parts nothing.
        if one_threshold(self.patterns[which]):
            return masks_apart.mul_(self.settings.mask_diversity).add_(0 if by_mask is None else by_mask)
        return by_mask

    def _through_masks(
        self, samples: _Samples, pattern: Pattern, by_value: Tensor, by_mask: Tensor | None
    ) -> Float[Tensor, "n m"]:
        """The gradient for the decoded vectors, straight through the choice of the masks."""
        ends, moves = [samples.values], [by_value]
        if by_mask is not None and samples.scores.requires_grad:
            ends.append(samples.scores)
            moves.append(by_mask.mul_(slope(samples.scores.detach(), samples.mask, pattern, self.layout)))
        (moved,) = torch.autograd.grad(ends, samples.decoded, moves)
        return moved

    def _finite(self, loss: float, step: int) -> float:
        if not math.isfinite(loss):
            rates = f"{self.settings.lr}, {self.settings.rate_of_mean}"
            raise InputError(f"refinement diverged at step {step + 1}: lower lr and lr_mean ({rates})")
        return loss
