"""LastLayer: refit the last layer of networks on training data under their masks, the rest as it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.networks.calling import call_with
from weightspace.networks.collection import Collection
from weightspace.networks.forward import activation_bytes, blocks, evaluation
from weightspace.networks.outputs import Classes, OutputKind
from weightspace.networks.record import Record
from weightspace.runtime import checks, devices, seeds, trees
from weightspace.runtime.trees import Tree
from weightspace.tasks.arguments import check_run
from weightspace.tasks.own_loop import require_samples
from weightspace.tasks.task import Task
from weightspace.training.individual import require_seeds
from weightspace.training.linear_fit import LinearFit
from weightspace.training.measured import measured
from weightspace.training.output_layer import OutputLayer

_BYTES = 256 * 2**20  # activations of a batch


@dataclass(frozen=True)
class LastLayer:
    """Refit the last linear layer of each network under its mask; all else stays as it is.

    Each network gets samples of its own of the task's training data, with the labels of the data. Cross-entropy, or the
    squared error of values, with a pull towards the weights as they are, is a convex function of the layer, and is
    solved to its minimum. It is the cheapest way to make networks fit their task: one pass forward through the samples,
    and none back.

    Args:
        samples: Training samples that a network is refitted on; all of them where there are fewer.
        ridge: Strength of the pull, relative to the mean square of the layer's inputs.

    Raises:
        InputError: A setting is out of its range.
    """

    samples: int = 5000
    ridge: float = 0.01

    def __post_init__(self) -> None:
        checks.settle(self, checks.count, "samples", at_least=1)
        checks.settle(self, checks.number, "ridge", above=0)

    def to_json(self) -> dict[str, Any]:
        """The settings as data."""
        return {"last_layer": {"samples": self.samples, "ridge": self.ridge}}

    def check(self, task: Task) -> OutputLayer:
        """The layer that is refitted.

        Args:
            task: Task of the networks.

        Raises:
            InputError: The task's network has no last linear layer of its own, or the task has no samples that all
                networks share.
        """
        require_samples(task, "a refit of the last layer")
        task.require_shared_data("a refit of the last layer")
        return OutputLayer.of(task)

    def refit(self, networks: Collection, task: Task, *, device: str = "auto") -> Collection:
        """Networks whose last layer fits the training data.

        Args:
            networks: Networks of the task's architecture, dense or sparse.
            task: Task; its training split is read, and its validation split for the records.
            device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: As in `check`, a record has no seed, or a network has diverged.
        """
        check_run(networks, task, None, device)
        networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        require_seeds(networks.records)
        device, layer = devices.pick(device), self.check(task)
        module = task.architecture.following(networks.layout).build_seeded(0).to(device)
        weights = networks.weights.to(device, copy=True)
        with evaluation(module), torch.no_grad():
            for i, record in enumerate(networks.records):
                state = networks.layout.tensors(weights[i]) | {n: b[i].to(device) for n, b in networks.buffers.items()}
                x, y = _inputs(module, layer, state, task, self._rows(record, len(task.train)))
                kept = networks.layout.tensors(networks.masks[i].to(device))
                fit = LinearFit(
                    _with_ones(x, layer), y, task.output_kind, _joined(state, layer), _joined(kept, layer), self.ridge
                )
                for name, values in _parted(fit.solved(), layer).items():
                    weights[i, networks.layout.slices[name]] = values.flatten().to(weights.dtype)
        records = [
            record.without("aligned")
            | {"kind": "refitted", "parent": i if record.index is None else record.index}
            | self.to_json()
            for i, record in enumerate(networks.records)
        ]
        return measured(networks.replace(weights=weights.cpu(), records=records, extras={}), task, device=device)

    def _rows(self, record: Record, samples: int) -> Tensor:
        """The training samples of a network."""
        if samples <= self.samples:
            return torch.arange(samples)
        return torch.randperm(samples, generator=seeds.generator(record.seed, "last layer"))[: self.samples]


def _inputs(
    module: nn.Module, layer: OutputLayer, state: Mapping[str, Tensor], task: Task, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Inputs of the last layer and its targets, a row for each sample and position."""
    kind, device = task.output_kind, next(module.parameters()).device
    batch = max(1, _BYTES // activation_bytes(module, trees.to(task.train.head(1).x, device)))
    seen: list[Tensor] = []
    parts: list[tuple[Tensor, Tensor]] = []
    handle = module.get_submodule(layer.name).register_forward_pre_hook(partial(_see, seen))
    try:
        for part in blocks(len(rows), batch):
            split = task.train.batch(rows[part])
            predicted = kind.predictions(call_with(module, state, trees.to(split.x, device)))
            parts.append(_rowwise(seen.pop(), predicted, split.y, kind))
    finally:
        handle.remove()
    x, y = (torch.cat(part) for part in zip(*parts, strict=True))
    return x.double(), y if isinstance(kind, Classes) else y.double()


def _see(seen: list[Tensor], _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    seen.append(inputs[0])


def _rowwise(x: Tensor, predicted: Tensor, targets: Tree, kind: OutputKind) -> tuple[Tensor, Tensor]:
    """Inputs (rows, inputs) and class numbers (rows,) or targets (rows, outputs)."""
    x, y = x.reshape(-1, x.shape[-1]), kind.targets(targets).to(x.device)
    if isinstance(kind, Classes):
        counted = y.flatten() != kind.ignored
        return x[counted], y.flatten()[counted]
    return x, y.reshape(len(x), predicted.numel() // len(x))


def _with_ones(x: Tensor, layer: OutputLayer) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], 1) if layer.bias else x


def _joined(state: Mapping[str, Tensor], layer: OutputLayer) -> Tensor:
    """Weight and bias of the layer as one matrix; masks stay masks, weights become double."""
    weight, *bias = (state[name] for name in layer.parameters)
    joined = torch.cat([weight, *(one[:, None] for one in bias)], 1)
    return joined if joined.dtype == torch.bool else joined.double()


def _parted(joined: Tensor, layer: OutputLayer) -> dict[str, Tensor]:
    """The inverse of `_joined`."""
    parts = (joined[:, :-1], joined[:, -1]) if layer.bias else (joined,)
    return dict(zip(layer.parameters, parts, strict=True))
