"""Scores of weights before training: the higher, the more a weight matters.

Each takes networks and a task and returns scores (n, D), of which patterns read the prunable positions. Weights and
buffers of the networks stay as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.networks.calling import call_with
from weightspace.networks.collection import Collection
from weightspace.networks.forward import evaluation
from weightspace.runtime import checks, seeds, trees
from weightspace.runtime.double import in_double
from weightspace.runtime.trees import Tree
from weightspace.storage.spelling import Spelling
from weightspace.tasks.task import Split, Task
from weightspace.tickets.paths import biases, require_flow


@runtime_checkable
class InitScore(Protocol):
    """Ranks the weights of each network; any function of networks and task is one."""

    def __call__(self, networks: Collection, task: Task, /) -> Float[Tensor, "n d"]:
        """One score for each position of the vector; the highest are kept, and only prunable positions are read."""
        ...


@dataclass(frozen=True)
class MagnitudeScore:
    """|w| as it is."""

    spelling: ClassVar[Spelling] = Spelling("Magnitude")

    def __call__(self, networks: Collection, _task: Task) -> Float[Tensor, "n d"]:
        return networks.weights.abs()


@dataclass(frozen=True)
class RandomScore:
    """Uniform random numbers: with `ERK` or `Balanced` the strong random baselines."""

    spelling: ClassVar[Spelling] = Spelling("Random")

    def __call__(self, networks: Collection, _task: Task) -> Float[Tensor, "n d"]:
        own = [seeds.generator(int(record.get("seed", i)), "random mask") for i, record in enumerate(networks.records)]
        return torch.stack([torch.rand(networks.layout.size, generator=random) for random in own])


@dataclass(frozen=True)
class SNIP:
    """|g w|, the sensitivity of the loss to removing a weight (Lee et al. 2019, arXiv 1810.02340, eq. 6).

    Args:
        per_class: Number of training samples of each class in the one batch that is used (of all, for regression).

    Raises:
        InputError: The number is not positive.
    """

    per_class: int = 10

    def __post_init__(self) -> None:
        checks.settle(self, checks.count, "per_class", at_least=1)

    def __call__(self, networks: Collection, task: Task) -> Float[Tensor, "n d"]:
        def one(loss: Callable[[Tensor, Split], Tensor], weights: Tensor, batch: Split) -> Tensor:
            (gradient,) = torch.autograd.grad(loss(weights, batch), weights)
            return (gradient * weights).abs().detach()

        return _each(networks, task, self.per_class, one)


@dataclass(frozen=True)
class GraSP:
    """-(-w H g), how much keeping a weight preserves the norm of the gradient (Wang et al. 2020, arXiv 2002.07376, eq.
    8).

    Args:
        per_class: Number of training samples of each class in the one batch that is used (of all, for regression).
        temperature: Number that logits are divided by.

    Raises:
        InputError: A number is not positive.
    """

    per_class: int = 25
    temperature: float = 200.0

    def __post_init__(self) -> None:
        checks.settle(self, checks.count, "per_class", at_least=1)
        checks.settle(self, checks.number, "temperature", above=0)

    def __call__(self, networks: Collection, task: Task) -> Float[Tensor, "n d"]:
        def one(loss: Callable[[Tensor, Split], Tensor], weights: Tensor, batch: Split) -> Tensor:
            (gradient,) = torch.autograd.grad(loss(weights, batch), weights, create_graph=True)
            (hessian_g,) = torch.autograd.grad((gradient * gradient.detach()).sum(), weights)
            # The paper removes the largest -w Hg; here the highest score is kept.
            return (weights * hessian_g).detach()

        return _each(networks, task, self.per_class, one, self.temperature)


@dataclass(frozen=True)
class SynFlow:
    """Synaptic flow: dR/dw w of the network of absolute values on an input of ones (Tanaka et al. 2020, arXiv
    2006.05467).

    In float64, with norm layers in evaluation mode and no data. Biases take no part: in deep and very sparse networks
    the flow that starts at late biases outweighs what comes through the layers before them, which would then lose all
    their weights. `PruneAtInit` scores in 100 rounds, as one round collapses a layer. Networks with a softmax, sigmoid,
    tanh or the like in their forward pass are refused: let them return logits.
    """

    def __call__(self, networks: Collection, task: Task) -> Float[Tensor, "n d"]:
        module = networks.architecture.build_seeded(0).double()
        ones = _ones(task.train.head(1).x)
        require_flow(module, ones)
        off = biases(networks.layout)
        found: list[Tensor] = []
        with evaluation(module), in_double():
            for i in range(len(networks)):
                weights = networks.weights[i].double().abs().masked_fill(off, 0.0).requires_grad_()
                buffers = {n: _positive(n, b[i]) for n, b in networks.buffers.items()}
                total = trees.first(call_with(module, (networks.layout.tensors(weights), buffers), ones)).sum()
                (gradient,) = torch.autograd.grad(total, weights)
                found.append((gradient * weights).detach())
        return torch.stack(found)


def _ones(x: Tree) -> Tree:
    """Ones in the place of one sample's inputs."""
    if not all(tensor.is_floating_point() for tensor in trees.tensors(x)):
        raise InputError(
            f"SynFlow feeds ones through the network, and these inputs are no floats ({trees.shapes(x)}), such as the "
            "indices of an embedding: use SNIP or GraSP"
        )
    return trees.apply(lambda tensor: torch.ones_like(tensor, dtype=torch.float64), x)


def _positive(name: str, buffer: Tensor) -> Tensor:
    """Running means are left out of the flow, so that no layer's input is shifted."""
    if name.endswith("running_mean"):
        return torch.zeros_like(buffer, dtype=torch.float64)
    return buffer.double() if buffer.is_floating_point() else buffer


def _each(
    networks: Collection,
    task: Task,
    per_class: int,
    one: Callable[[Callable[[Tensor, Split], Tensor], Tensor, Split], Tensor],
    temperature: float = 1.0,
) -> Float[Tensor, "n d"]:
    """Scores of each network from its own balanced batch, with norm layers in training mode."""
    module = networks.architecture.build_seeded(0).train()
    found: list[Tensor] = []
    for i, record in enumerate(networks.records):
        batch = balanced(task, per_class, int(record.get("seed", i)), record.data)
        buffers = {n: b[i].clone() for n, b in networks.buffers.items()}

        def loss(weights: Tensor, batch: Split, buffers: dict[str, Tensor] = buffers) -> Tensor:
            outputs = call_with(module, (networks.layout.tensors(weights), buffers), batch.x)
            cooled = trees.apply(lambda part: part / temperature if part.is_floating_point() else part, outputs)
            return task.loss(cooled, batch.y)

        with seeds.seeded_modules(int(record.get("seed", i)), "scores"):
            scores = one(loss, networks.weights[i].clone().requires_grad_(), batch)
        if not scores.isfinite().all():
            raise InputError(f"the scores of network {i} are not finite: are its weights, or the loss?")
        found.append(scores)
    return torch.stack(found)


def balanced(task: Task, per_class: int, seed: int, number: int | None = None) -> Split:
    """A batch of training samples with as many of each class.

    Args:
        task: Task with the samples.
        per_class: Number of samples of each class, or of all where there is not one class a sample.
        seed: Seed of the choice.
        number: Number of the network's own data; it is not read where all networks share the data.
    """
    train = task.train.of(number)
    order = torch.randperm(len(train), generator=seeds.generator(seed, "balanced batch"))
    groups = [order]
    if task.classification:
        y = task.output_kind.targets(train.y)[order]
        groups = [order[y == label] for label in y.unique()]
    return train.batch(torch.cat([group[:per_class] for group in groups]))
