"""MC dropout: one network trained with dropout, which stays on when it predicts (Gal & Ghahramani 2016)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightspace.errors import InputError
from weightspace.evaluation.metrics import predictive
from weightspace.evaluation.one_label import OneLabel
from weightspace.evaluation.scoring import scorer_of
from weightspace.networks.architecture import Architecture
from weightspace.networks.calling import call
from weightspace.networks.forward import blocks
from weightspace.networks.network import Network
from weightspace.runtime import checks, devices, seeds, trees
from weightspace.runtime.trees import Tree
from weightspace.tasks.arguments import check_task
from weightspace.tasks.task import Task
from weightspace.training import collect

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
_LAYERS_OF_TORCH = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ROWS = 2048
_REMEMBERED = 512 * 2**20  # bytes of inputs and outputs of the first layer that are kept
_PASSES = 10  # passes over the validation split to choose a rate


@dataclass(frozen=True)
class MCDropout:
    """Dropout in front of every linear and convolutional layer but the first.

    Args:
        rates: Probabilities to drop a value; one network is trained for each, and the one with the lowest validation
            NLL is used (the lowest loss, of other networks than classifiers of one label).

    Raises:
        InputError: There is no rate, or one outside (0, 1).
    """

    rates: Sequence[float] = (0.1, 0.25)

    def __post_init__(self) -> None:
        checks.settle(self, checks.several, "rates", check=checks.number, least=1, above=0, below=1)

    def fit(self, task: Task, *, seed: int = 0, device: str = "auto") -> "FittedDropout":
        """Train a network of the task's architecture, by the task's recipe, for each rate.

        Args:
            task: The task.
            seed: Seed of the networks, and of the passes over the validation split.
            device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

        Raises:
            InputError: The network has no layer that dropout could stand in front of, or the device is not available.
        """
        check_task(task)
        seed = checks.seed(seed)
        device = devices.pick(device)
        fitted: list[FittedDropout] = []
        losses: list[float] = []
        for rate in self.rates:
            architecture = Architecture(task.architecture.name, {}, lambda rate=rate: _with_dropout(task, rate))
            own, seeded = replace(task, architecture=architecture), seeds.derive(seed, "mc dropout")
            one = FittedDropout(collect(own, 1, seed=seeded, device=device)[0], rate, device)
            fitted.append(one)
            losses.append(_validation_loss(one, task, seed))
        return fitted[losses.index(min(losses))]


@dataclass(frozen=True)
class FittedDropout:
    """A network trained with dropout.

    Args:
        network: The network.
        rate: Probability to drop a value.
        device: Device to predict on.
    """

    network: Network
    rate: float
    device: str = "cpu"

    def passes(self, x: Tree, n: int, *, seed: int = 0) -> Iterator[Tree]:
        """Outputs (1, samples, ...) of forward passes, each with its own dropout for every input.

        Args:
            x: Inputs.
            n: Number of passes.
            seed: Seed of the dropout.
        """
        module = self.network.module().to(self.device).eval()
        for layer in _dropped(module):
            layer.train()  # a plain layer behaves alike in both modes; the hook in front of it does not
        remembered = _Remembered.first_of(module)
        for i in range(n):
            remembered.calls = 0
            with torch.no_grad(), seeds.seeded_modules(seeds.derive(seed, "mc dropout pass", i), "dropout"):
                batches = (trees.take(x, rows) for rows in blocks(trees.samples(x), _ROWS))
                parts = [trees.to(call(module, trees.to(batch, self.device)), "cpu") for batch in batches]
            yield trees.apply(lambda tensor: tensor[None], trees.concatenate(parts))


class _Remembered:
    """A function of a tensor that is called with the same ones in every pass, and computes once.

    The first layer has no dropout in front, and is often most of a network.

    Args:
        function: The function, of one tensor.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.known: list[tuple[Tensor, Tensor]] = []
        self.room, self.calls = _REMEMBERED, 0

    @classmethod
    def first_of(cls, module: nn.Module) -> "_Remembered":
        """In front of the first layer of a module, if that is one of PyTorch's, which always compute the same."""
        first = _layers(module)[0]
        remembered = cls(first.forward)
        if type(first) in _LAYERS_OF_TORCH:
            first.forward = remembered
        return remembered

    def __call__(self, x: Tensor, *rest: Any, **more: Any) -> Tensor:
        if rest or more:
            return self.function(x, *rest, **more)
        at, self.calls = self.calls, self.calls + 1
        if at < len(self.known) and torch.equal(x, self.known[at][0]):
            return self.known[at][1].clone()  # which the network may change in place
        y = self.function(x)
        size = x.element_size() * x.numel() + y.element_size() * y.numel()
        if at == len(self.known) and size <= self.room:
            self.known.append((x.clone(), y.clone()))
            self.room -= size
        return y


def _validation_loss(fitted: FittedDropout, task: Task, seed: int) -> float:
    scorer, data = scorer_of(task), task.validation
    if isinstance(scorer, OneLabel):
        logits = torch.cat([scorer.kind.predictions(one) for one in fitted.passes(data.x, _PASSES, seed=seed)])
        return predictive.nll(predictive.ensemble_logits(logits), scorer.kind.targets(data.y)).item()
    total = scorer.total()
    if total is None:
        raise InputError(f"the outputs of task {task.name!r} cannot be averaged: evaluate with dropout=None")
    for outputs in fitted.passes(data.x, _PASSES, seed=seed):
        total.add(outputs)
    return scorer.shifted(total.result(), data)["loss"]


def _with_dropout(task: Task, rate: float) -> nn.Module:
    module = task.architecture.build()
    layers = _dropped(module)
    if not layers:
        raise InputError(
            f"{task.architecture.name} has a single layer, in front of which nothing can be dropped: evaluate with "
            "dropout=None"
        )
    for layer in layers:
        layer.register_forward_pre_hook(lambda layer, inputs: (F.dropout(inputs[0], rate, layer.training), *inputs[1:]))
    return module


def _dropped(module: nn.Module) -> Sequence[nn.Module]:
    return _layers(module)[1:]


def _layers(module: nn.Module) -> Sequence[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, _LAYERS)]
