"""Gradual magnitude pruning in a training loop of your own (Zhu & Gupta 2017, arXiv 1710.01878)."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.masks.patterns import Pattern, Unstructured, check_pattern
from weightspace.masks.schedule import count_of, density_of, steps_to
from weightspace.networks.architecture import Architecture
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.networks.sparse_module import keep_sparse, masks_of, release
from weightspace.runtime import checks
from weightspace.storage.spelling import spelled_text

_FINE = 0.02  # share of the weights that a level removes, of patterns whose density cannot be set


@dataclass(frozen=True)
class GradualSchedule:
    """When weights are removed, and how many: along a cubic curve, many at first and few at the end.

    After iteration t the density is `goal + (first - goal) * (1 - (t - start) / (end - start)) ** 3`. Patterns without
    a density to set, such as NM(2, 4) or LayerRates, go through their own steps along the same curve.

    Args:
        pattern: Pattern at the end, such as Unstructured(0.1), NM(2, 4) or ERK(0.1).
        start: Iteration of the optimiser from which weights are removed.
        end: Iteration at which the pattern is reached. Train on after it: what is left needs to recover.
        every: Iterations between two removals.

    Raises:
        InputError: The end does not come after the start, or a number is negative.
    """

    pattern: Pattern = field(default_factory=lambda: Unstructured(0.1))
    start: int = 0
    end: int = 1000
    every: int = 10

    def __post_init__(self) -> None:
        checks.settle(self, check_pattern, "pattern")
        checks.settle(self, checks.count, "start", "end")
        checks.settle(self, checks.count, "every", at_least=1)
        if not self.start < self.end:
            raise InputError(
                "a schedule removes weights from iteration start to a later end, got "
                f"start {self.start} and end {self.end}"
            )

    def due(self, iteration: int) -> bool:
        """Are weights removed after this iteration?

        Args:
            iteration: Number of steps of the optimiser.
        """
        since = iteration - self.start
        return iteration == self.end or (self.start < iteration < self.end and since % self.every == 0)

    def last_due(self, iteration: int) -> int:
        """The last iteration up to this one after which weights were removed; `start` if there was none.

        Args:
            iteration: Number of steps of the optimiser.
        """
        if iteration >= self.end:
            return self.end
        return self.start + max(0, iteration - self.start) // self.every * self.every

    def pattern_at(self, iteration: int, layout: Layout, first: float = 1.0) -> Pattern | None:
        """The pattern after an iteration; None before the first weights are removed.

        Args:
            iteration: Number of steps of the optimiser.
            layout: Layout of the network.
            first: Density before the first removal.
        """
        if iteration >= self.end:
            return self.pattern
        done = 1 - (1 - max(0, iteration - self.start) / (self.end - self.start)) ** 3
        goal = density_of(self.pattern)
        if goal is not None and count_of(self.pattern, layout) is not None and goal < first:
            density = first - (first - goal) * done
            step = steps_to(self.pattern, 1 - density / first, first)[0] if density < first else None
            if step is None or abs((density_of(step) or 0.0) - density) < 1e-9:
                return step
        steps = steps_to(self.pattern, _FINE, first)
        level = int(done * len(steps))
        return steps[level - 1] if level else None


class Pruner:
    """Prunes a module while a training loop of your own trains it.

        schedule = ws.tickets.GradualSchedule(ws.Unstructured(0.1), end=1000)
        pruner = ws.tickets.Pruner(module, schedule, optimizer=optimizer)
        for x, y in batches:
            ...
            optimizer.step()
            pruner.step()

    The smallest weights go first. Pruned weights stay exactly zero from then on, whatever the optimiser does.

    Args:
        module: Any module; a ticket's own masks stay. It is changed in place, and its state dict keeps its names.
        schedule: When weights are removed, and the pattern at the end.
        optimizer: Optimiser whose state (momentum) is set to zero with the weights; None leaves it, which is only seen
            by norms over all weights.
        iterations: Iterations that an earlier process has done, for a module that it pruned by the same schedule: zeros
            are taken as pruned. `load_state_dict` is exact.

    Raises:
        InputError: The module is sparser than the pattern, or has nothing to prune.
    """

    def __init__(
        self,
        module: nn.Module,
        schedule: GradualSchedule,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        iterations: int = 0,
    ) -> None:
        checks.instance(schedule, "schedule", GradualSchedule, "a GradualSchedule(...)")
        kind = torch.optim.Optimizer
        checks.given(optimizer, "optimizer", checks.instance, kinds=kind, wanted="an optimiser of PyTorch")
        iterations = checks.count(iterations, "iterations")
        self.module, self.schedule, self.optimizer = module, schedule, optimizer
        self.layout = Layout.of(module)
        if not self.layout.num_prunable:
            raise InputError(
                f"{type(module).__name__} has no weights to prune: Layout.of(module, prunable=[...]) says why"
            )
        self.iterations = 0
        everything = {entry.name: torch.ones(entry.shape, dtype=torch.bool) for entry in self.layout.weights}
        # All weights have masks from the start, so that averaged copies get the later ones with the buffers.
        self._set(everything | {name: mask.cpu() for name, mask in masks_of(module).items() if name in everything})
        self._first = self.density
        goal = count_of(schedule.pattern, self.layout)
        if goal is not None and goal > round(self._first * self.layout.num_prunable):
            raise InputError(
                f"the module keeps the fraction {self._first:.4g} of its weights already, less than "
                f"{schedule.pattern}: ask for a lower density"
            )
        if iterations:
            self.iterations = iterations
            self._prune(schedule.last_due(iterations))

    def step(self) -> bool:
        """Count an iteration, after the optimiser's step, and prune if it is time to. True if weights were removed."""
        self.iterations += 1
        return self.schedule.due(self.iterations) and self._prune(self.iterations)

    @property
    def finished(self) -> bool:
        """Has the module reached the pattern?"""
        return self.iterations >= self.schedule.end

    @property
    def masks(self) -> dict[str, Tensor]:
        """The mask of each prunable tensor by its name in the state dict; True = kept. Copies."""
        return {name: mask for name, mask in masks_of(self.module).items() if name in self.layout.slices}

    @property
    def density(self) -> float:
        """Fraction of the prunable weights that is kept."""
        return sum(int(mask.sum()) for mask in self.masks.values()) / self.layout.num_prunable

    def apply(self, module: nn.Module) -> None:
        """Put the present masks on another module of the same architecture, such as an average of weights.

        Args:
            module: Module that is changed in place.
        """
        keep_sparse(module, self.masks)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs, beside the state of module and optimiser; `torch.load` reads it safely."""
        return {
            "iterations": self.iterations,
            "first_density": self._first,
            "schedule": spelled_text(self.schedule),
            "masks": {name: mask.cpu() for name, mask in self.masks.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Args:
            state: State of a pruner with the same schedule, of a module with the same weights.

        Raises:
            InputError: It belongs to another schedule or other weights.
        """
        ours = {entry.name: entry.shape for entry in self.layout.weights}
        shapes = {name: tuple(mask.shape) for name, mask in state["masks"].items()}
        if state["schedule"] != spelled_text(self.schedule) or shapes != ours:
            raise InputError(
                f"the state is of the schedule {state['schedule']} and of {len(shapes)} tensors; this pruner has "
                f"{spelled_text(self.schedule)} and {len(ours)} tensors: use the same schedule and architecture"
            )
        self.iterations, self._first = state["iterations"], state["first_density"]
        self._set(state["masks"])

    def collection(self, network: Architecture | Callable[[], nn.Module] | None = None, *, seed: int = 0) -> Collection:
        """The module as a collection of one network, with its masks.

        Args:
            network: Architecture, or function that returns a fresh module; by default copies of this module are made,
                and a collection read from disk needs a factory.
            seed: Seed in the record, for training it further.

        Raises:
            LayoutMismatch: The architecture is another one.
        """
        if network is None:
            # An empty shell of the module: hooks and masks belong to this one.
            network = partial(copy.deepcopy, release(copy.deepcopy(self.module)).cpu())
            architecture = Architecture(type(self.module).__name__, {}, network)
        else:
            architecture = network if isinstance(network, Architecture) else Architecture.of(network)
        self.layout.require(architecture.layout(), f"the network built by {architecture.name}")
        state = {name: tensor.detach().cpu() for name, tensor in self.module.state_dict().items()}
        record = {"kind": "ticket", "index": 0, "seed": seed, "density": self.density}
        record["method"] = {"name": "Pruner", "schedule": spelled_text(self.schedule), "iterations": self.iterations}
        return Collection(
            self.layout,
            self.layout.pack(state)[None],
            architecture=architecture,
            masks=self._vector()[None],
            buffers={b.name: state[b.name][None] for b in self.layout.buffers},
            records=[record],
        )

    @torch.no_grad()
    def _prune(self, iteration: int) -> bool:
        """Bring the module to the pattern of an iteration."""
        pattern = self.schedule.pattern_at(iteration, self.layout, self._first)
        if pattern is None:
            return False
        state = {name: tensor.detach().cpu() for name, tensor in self.module.state_dict().items()}
        mask = pattern.mask(self.layout.pack(state).abs()[None], self.layout, within=self._vector()[None])[0]
        tensors = self.layout.unpack(mask)
        self._set({entry.name: tensors[entry.name] for entry in self.layout.weights})
        return True

    def _set(self, masks: Mapping[str, Tensor]) -> None:
        parameters = {name: self.module.get_parameter(name) for name in masks}  # tied ones under either name
        keep_sparse(self.module, {name: mask.to(parameters[name].device) for name, mask in masks.items()})
        for name, mask in masks.items():
            state = {} if self.optimizer is None else self.optimizer.state.get(parameters[name], {})
            for value in state.values():
                if isinstance(value, Tensor) and value.shape == mask.shape:
                    value.masked_fill_(~mask.to(value.device), 0)

    def _vector(self) -> Tensor:
        """The masks as one vector, True off the weights."""
        vector = torch.ones(self.layout.size, dtype=torch.bool)
        for name, mask in self.masks.items():
            vector[self.layout.slices[name]] = mask.flatten().cpu()
        return vector
