"""Refine a generator through the task: its own samples, pruned, follow the gradient of their training loss.

Flow matching alone regresses to the mean network when there are few tickets. Refinement treats the
generator q as an amortised variational posterior over sparse networks: it raises the expected training
log-likelihood E_q[log p(D | w)] by pathwise gradients through the kept weights (the mask is held fixed in
each step, so that this part of the gradient is that of the sparse networks; how masks change through it is
ignored). The entropy of q, which would make this a bound on the evidence, is not known for a flow followed by
top-k; two hinge penalties stand in for it and keep samples as different from each other as tickets are.
The objective is therefore no bound, and is not called one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from torchdiffeq import odeint

from weightspace import seeds
from weightspace.collection import Collection
from weightspace.compress import FittedPCA
from weightspace.errors import InputError
from weightspace.flow.fit import FittedFlow
from weightspace.flow.path import linear_path
from weightspace.flow.velocity import ResidualVelocity
from weightspace.layout import Layout
from weightspace.optimizers import Adam
from weightspace.pattern import Unstructured
from weightspace.progress import progress
from weightspace.storage import atomic_file
from weightspace.task import Task
from weightspace.training.gradients import draws_random_numbers, one_by_one, side_by_side

_CHECKPOINT_EVERY = 100
_WARM_UP = 100  # steps, but at most a tenth of all
_SOFTNESS = 0.5  # width of the soft threshold, in thresholds, through which masks are pushed apart
_CLIP = 1.0  # largest norm of a gradient


@dataclass(frozen=True)
class TaskRefinement:
    """Train mean, components and flow of a generator on the task's training split.

    Args:
        task: only its training split is read, and only while fitting.
        densities: samples are pruned to one of these in each step, at random; by default to the tickets' median.
        steps: training iterations.
        networks: samples a step.
        batch_size: training samples for each of them.
        lr: of the components, with cosine decay; the flow has the same.
        lr_mean: of the mean network.
        matching: weight of the flow-matching loss, which holds the flow to the tickets' codes.
        diversity: weight of the penalties that keep samples as different as tickets are: their mean
            cosine, and the mean overlap of their masks.
        solver_steps: midpoint steps from noise to code, in refinement and afterwards in sampling.
    """

    task: Task
    densities: Sequence[float] | None = None
    steps: int = 1500
    networks: int = 32
    batch_size: int = 128
    lr: float = 3e-4
    lr_mean: float = 1e-3
    matching: float = 0.1
    diversity: float = 2.0
    solver_steps: int = 2

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.solver_steps) < 1 or self.networks < 2:
            raise InputError(
                "refinement needs at least one step, training sample and solver step, and two networks a step, got "
                f"{self.steps}, {self.batch_size}, {self.solver_steps} and {self.networks}"
            )
        for density in self.densities or ():
            Unstructured(density)

    def fit(
        self,
        tickets: Collection,
        compress: FittedPCA,
        flow: FittedFlow,
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
        """
        self.task.architecture.layout().require(tickets.layout, "the tickets to refine a generator of")
        run = _Run(self, tickets, compress, flow, seed)
        done = 0
        if checkpoint is not None and checkpoint.exists():
            run.state = load_file(checkpoint)
            done = int(run.state.pop("done"))
        bar = progress(range(self.steps), "refining through the task")
        bar.update(done)
        with bar:
            for step in range(done, self.steps):
                loss = run.step(step)
                bar.update()
                if (step + 1) % _CHECKPOINT_EVERY == 0:
                    bar.set_postfix(loss=f"{loss:.3f}")
                    if checkpoint is not None:
                        with atomic_file(checkpoint) as temporary:
                            save_file(run.state | {"done": torch.tensor(step + 1)}, temporary)
        state = run.state
        refined = FittedFlow(flow.config, state["flow"], flow.scale, flow.codes)
        return Refined(state["mean"], state["components"], refined, self.solver_steps)


@dataclass(frozen=True)
class Refined:
    """What refinement changed.

    Args:
        mean: (D,).
        components: (K, D); no longer orthonormal, nor in the span of the tickets.
    """

    mean: Float[Tensor, " d"]
    components: Float[Tensor, "k d"]
    flow: FittedFlow
    solver_steps: int

    @torch.no_grad()
    def sample(self, n: int, *, seed: int = 0) -> Float[Tensor, "n d"]:
        """Networks before their masks are chosen; network i depends on (seed, i) alone."""
        codes = roll(self.flow.velocity(), self.flow.noise(n, seed=seed), self.solver_steps) * self.flow.scale
        return torch.addmm(self.mean, codes, self.components)

    def tensors(self) -> dict[str, Tensor]:
        return {
            "refined.mean": self.mean, "refined.components": self.components, "refined.flow": self.flow.weights
        }  # fmt: skip


def roll(velocity: Callable[[Tensor, Tensor], Tensor], x_0: Float[Tensor, "n k"], steps: int) -> Float[Tensor, "n k"]:
    """Carry noise along the flow by a few midpoint steps; differentiable."""

    def field(t: Tensor, x: Tensor) -> Tensor:
        return velocity(x, t.expand(len(x), 1))

    path = odeint(field, x_0, torch.linspace(0, 1, steps + 1), method="midpoint")
    assert isinstance(path, Tensor)  # (steps + 1, n, codes)
    return path[-1]


class _Run:
    """One refinement: what is trained, what it is trained on, a step."""

    def __init__(
        self, config: TaskRefinement, tickets: Collection, compress: FittedPCA, flow: FittedFlow, seed: int
    ) -> None:
        self.config, self.seed, self.flow = config, seed, flow
        self.layout, self.prunable = tickets.layout, tickets.layout.prunable
        self.module = config.task.architecture.build_seeded(0).train()
        self.random = draws_random_numbers(config.task.architecture.build_seeded(0), config.task.train.x[:2])
        self.buffers = {name: b[:1] for name, b in tickets.buffers.items()}
        self.codes = (compress.transform(tickets) / flow.scale).float()
        self.velocity = flow.velocity().train()
        self.velocity_layout = Layout.of(self.velocity)
        self.densities = list(config.densities or [tickets.densities.median().item()])
        self.cosine, self.overlap = _alike(tickets.weights[:, self.prunable], tickets.masks[:, self.prunable])
        self.adam = Adam(lr=config.lr)
        self.state = {
            "mean": compress.mean.clone(),
            "components": compress.components.clone(),
            "flow": flow.weights.clone(),
        }
        for name in ("mean", "components", "flow"):
            self.state |= {f"{name}.{k}": t for k, t in self.adam.start(self.state[name]).items()}

    def step(self, step: int) -> float:
        """One update; returns the mean training loss of the sampled sparse networks."""
        config, task = self.config, self.config.task
        random = seeds.generator(self.seed, "refinement", step)
        leaves = {name: self.state[name].detach().requires_grad_() for name in ("mean", "components", "flow")}
        field = _Field(self.velocity, self.velocity_layout, leaves["flow"])
        x_0 = torch.randn(config.networks, self.flow.codes, generator=random)
        codes = roll(field, x_0, config.solver_steps) * self.flow.scale
        decoded = torch.addmm(leaves["mean"], codes, leaves["components"])
        density = self.densities[int(torch.randint(len(self.densities), (), generator=random))]
        mask = Unstructured(density).mask(decoded.detach().abs(), self.layout)
        sparse = decoded * mask
        chosen = torch.randint(len(task.train), (config.networks, config.batch_size), generator=random)
        gradient = torch.empty_like(sparse)
        buffers = {n: b.expand(config.networks, *b.shape[1:]).clone() for n, b in self.buffers.items()}
        arguments = (
            self.module, self.layout, task.loss, sparse.detach(), buffers, task.train.x[chosen], task.train.y[chosen],
            gradient,
        )  # fmt: skip
        if self.random:
            losses = one_by_one(*arguments, [seeds.derive(self.seed, f"dropout {i}", step) for i in range(len(sparse))])
        else:
            losses = side_by_side(*arguments)
        # A stand-in whose gradient is the mean of the networks' own.
        total = (sparse * gradient).sum() / len(sparse)
        total = total + config.diversity * self._too_alike(decoded, sparse, mask)
        if config.matching:
            total = total + config.matching * self._matching(field, random)
        gradients = torch.autograd.grad(total, list(leaves.values()))
        warm = max(1, min(_WARM_UP, config.steps // 10))
        share = min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        rates = {"mean": config.lr_mean, "components": config.lr, "flow": config.lr}
        for name, found in zip(leaves, gradients, strict=True):
            clipped = found * (_CLIP / found.norm().clamp(min=_CLIP))
            own = {k.partition(".")[2]: t for k, t in self.state.items() if k.startswith(f"{name}.")}
            self.adam.update_(self.state[name], clipped, own, rates[name] * share, 0.0, step + 1)
        loss = losses.mean().item()
        if not math.isfinite(loss):
            raise InputError(
                f"refinement diverged at step {step + 1}: lower lr and lr_mean ({config.lr}, {config.lr_mean})"
            )
        return loss

    def _too_alike(
        self, decoded: Float[Tensor, "n d"], sparse: Float[Tensor, "n d"], mask: Bool[Tensor, "n d"]
    ) -> Float[Tensor, ""]:
        """How far the samples' mean cosine and mask overlap are above the tickets'."""
        weights, kept = sparse[:, self.prunable], mask[:, self.prunable]
        size = decoded.detach()[:, self.prunable].abs()
        edge = size.masked_fill(~kept, math.inf).amin(1, keepdim=True)
        soft = torch.sigmoid((decoded[:, self.prunable].abs() / edge - 1) / _SOFTNESS)
        # The value of the hard mask, the gradient of a soft one.
        cosine, overlap = _alike(weights, kept + soft - soft.detach())
        return F.relu(cosine - self.cosine) + F.relu(overlap - self.overlap)

    def _matching(self, field: "_Field", random: torch.Generator) -> Float[Tensor, ""]:
        x_1 = self.codes[torch.randint(len(self.codes), (self.config.batch_size,), generator=random)]
        x_0 = torch.randn(x_1.shape, generator=random)
        t = torch.rand(len(x_1), 1, generator=random)
        x_t, dx_t = linear_path(x_0, x_1, t)
        return (field(x_t, t) - dx_t).square().mean()


class _Field:
    """A velocity network with given weights."""

    def __init__(self, velocity: ResidualVelocity, layout: Layout, weights: Tensor) -> None:
        self.velocity, self.tensors = velocity, layout.unpack(weights)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return functional_call(self.velocity, self.tensors, (x, t))


def _alike(weights: Float[Tensor, "n p"], masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cosine of pairs of networks, and mean overlap of their masks (shared non-zeros over non-zeros)."""
    pairs = len(weights) * (len(weights) - 1)
    unit = F.normalize(weights, dim=1)
    cosine = (unit.sum(0).square().sum() - unit.square().sum()) / pairs
    kept = masks.float() if masks.dtype == torch.bool else masks
    shared = (kept.sum(0).square().sum() - kept.square().sum()) / pairs
    return cosine, shared / kept.detach().sum(1).mean()
