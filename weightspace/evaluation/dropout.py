"""MC dropout: one network trained with dropout, which stays on when it predicts (Gal & Ghahramani 2016)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
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
_ROWS = 2048
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
        for i in range(n):
            with torch.no_grad(), seeds.seeded_modules(seeds.derive(seed, "mc dropout pass", i), "dropout"):
                batches = (trees.take(x, rows) for rows in blocks(trees.samples(x), _ROWS))
                parts = [trees.to(call(module, trees.to(batch, self.device)), "cpu") for batch in batches]
            yield trees.apply(lambda tensor: tensor[None], trees.concatenate(parts))


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
    return [layer for layer in module.modules() if isinstance(layer, _LAYERS)][1:]
