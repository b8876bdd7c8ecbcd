"""Your own data as a task."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from weightspace.networks.architecture import Architecture
from weightspace.networks.outputs import OutputKind
from weightspace.recipes.recipe import Recipe
from weightspace.runtime import checks, trees
from weightspace.runtime.trees import Tree
from weightspace.tasks.data import ArrayDataset, Data, DatasetSplit, OwnData, Split
from weightspace.tasks.metrics import Metric
from weightspace.tasks.task import Task, cross_entropy, split, split_rows
from weightspace.tasks.torch_metrics import TorchMetric

_FEW = 2  # samples that show how a network uses its parameters

Network = Architecture | Callable[[], nn.Module]
Loss = Callable[[Any, Any], Tensor]


def from_tensors(
    name: str,
    x: Tree,
    y: Tree,
    network: Network,
    *,
    recipe: Recipe = Recipe(),
    validation: float = 0.1,
    test: float = 0.2,
    loss: Loss = cross_entropy,
    outputs: OutputKind | None = None,
    metrics: Sequence[str | Metric | TorchMetric] | None = None,
    seed: int = 0,
) -> Task:
    """A task of tensors, cut into fixed splits.

    Args:
        name: Name in records and reports.
        x: Inputs (samples, ...): a tensor, a tuple of a network's inputs, or a mapping of them by name. NumPy arrays
            are taken as well; memory-mapped ones stay on disk and are read batch by batch.
        y: Targets (samples, ...): class numbers for classification, one a sample or one a position, floats for
            regression, or a tuple or mapping of tensors.
        network: A built-in architecture, or a function that returns a fresh module.
        recipe: Recipe of one network's training.
        validation: Fraction of the samples to choose with.
        test: Fraction of the samples for evaluation alone.
        loss: Mean loss of outputs against targets.
        outputs: What the outputs mean; None finds it out by the loss and the shapes.
        metrics: Metrics, of torchmetrics too, or names of known ones, the main one first; None takes what is usual
            for such outputs.
        seed: Seed of the splits.

    Raises:
        InputError: Inputs and targets differ in number, hold NaN, or are too few to be cut.
    """
    on_disk = _memory_mapped(x) or _memory_mapped(y)
    x, y = _tensors(x, "x"), _tensors(y, "y")
    validation, test = checks.fraction(validation, "validation"), checks.fraction(test, "test")
    counts = [round(trees.samples(x) * share) for share in (validation, test)]
    if on_disk:
        rows = split_rows(trees.samples(x), validation=counts[0], test=counts[1], seed=seed)
        stored = ArrayDataset(x, y)
        parts: tuple[Data, Data, Data] = (
            DatasetSplit(stored, rows[0]),
            DatasetSplit(stored, rows[1]),
            DatasetSplit(stored, rows[2]),
        )
    else:
        Split(x, y)  # as many inputs as targets, all finite
        parts = split(x, y, validation=counts[0], test=counts[1], seed=seed)
    return Task(name, _architecture(network, parts[0]), *parts, recipe, loss, outputs=outputs, metrics=metrics)


def from_dataset(
    name: str,
    dataset: Dataset,
    network: Network,
    *,
    recipe: Recipe = Recipe(),
    validation: float = 0.1,
    test: float = 0.2,
    loss: Loss = cross_entropy,
    outputs: OutputKind | None = None,
    metrics: Sequence[str | Metric | TorchMetric] | None = None,
    in_memory: bool = True,
    seed: int = 0,
) -> Task:
    """A task of a map-style Dataset of (input, target) pairs.

    Arguments as in `from_tensors`, and:

    Args:
        name: Name in records and reports.
        dataset: Dataset of pairs: tensors, arrays or numbers, or tuples or mappings of them.
        network: A built-in architecture, or a function that returns a fresh module.
        recipe: Recipe of one network's training.
        validation: Fraction of the samples to choose with.
        test: Fraction of the samples for evaluation alone.
        loss: Mean loss of outputs against targets.
        outputs: What the outputs mean; None finds it out by the loss and the shapes.
        metrics: Metrics, or names of known ones, the main one first.
        in_memory: Whether all samples are read once, which is fastest; False reads every batch from the dataset.
        seed: Seed of the splits.

    Raises:
        InputError: The dataset has no length, its items are not pairs, or reading one is random.
    """
    in_memory = checks.flag(in_memory, "in_memory")
    validation, test = checks.fraction(validation, "validation"), checks.fraction(test, "test")
    whole = DatasetSplit(dataset)
    settings: dict[str, Any] = {"recipe": recipe, "loss": loss, "outputs": outputs, "metrics": metrics}
    if in_memory:
        return from_tensors(name, whole.x, whole.y, network, validation=validation, test=test, seed=seed, **settings)
    counts = [round(len(whole) * share) for share in (validation, test)]
    rows = split_rows(len(whole), validation=counts[0], test=counts[1], seed=seed)
    train, held, tested = (DatasetSplit(dataset, part) for part in rows)
    return Task(name, _architecture(network, train), train, held, tested, **settings)


def from_own_data(
    name: str,
    x: Tree,
    y: Tree,
    network: Network,
    *,
    recipe: Recipe = Recipe(),
    loss: Loss,
    outputs: OutputKind | None = None,
    metrics: Sequence[str | Metric | TorchMetric] | None = None,
    shared_inputs: bool = True,
    validation: OwnData | None = None,
) -> Task:
    """A task in which each network has its own targets: network i of a collection is fitted to the i-th set.

    Implicit networks are the example: the inputs are coordinates, which all share, and the targets one image a
    network.

    Args:
        name: Name in records and reports.
        x: Inputs, (samples, ...) if shared, else (networks, samples, ...).
        y: Targets (networks, samples, ...).
        network: A built-in architecture, or a function that returns a fresh module.
        recipe: Recipe of one network's training.
        loss: Mean loss of one network's outputs against its targets.
        outputs: What the outputs mean; None finds it out by the loss and the shapes.
        metrics: Metrics, or names of known ones, the main one first.
        shared_inputs: Whether all networks share the inputs.
        validation: Further samples of each network's set; None measures the fit on the training samples.

    Raises:
        InputError: The numbers of networks or samples differ, or a value is NaN.
    """
    train = OwnData(_tensors(x, "x"), _tensors(y, "y"), shared_inputs)
    held = train if validation is None else validation
    return Task(name, _architecture(network, train), train, held, held, recipe, loss, outputs=outputs, metrics=metrics)


def _architecture(network: Network, train: Data) -> Architecture:
    """The network of a task, with the weights that its use of the data shows."""
    if not isinstance(network, Architecture):
        checks.function(network, "network", "that returns a fresh module, or an Architecture")
    architecture = network if isinstance(network, Architecture) else Architecture.of(network)
    return architecture.recognise(train.head(_FEW).x)


def _memory_mapped(tree: Tree) -> bool:
    parts = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, tuple | list) else [tree]
    return any(isinstance(part, np.memmap) for part in parts)


def _tensors(tree: Tree, name: str) -> Tree:
    """The structure with NumPy arrays as tensors that share their memory."""
    if isinstance(tree, Mapping) and tree:
        return {key: _tensors(part, name) for key, part in tree.items()}
    if isinstance(tree, tuple) and tree:
        return tuple(_tensors(part, name) for part in tree)
    if isinstance(tree, np.ndarray):
        with warnings.catch_warnings():  # an array that is read only stays so: nothing here writes into data
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.from_numpy(tree)
    if not isinstance(tree, Tensor):
        raise checks.refuse(name, "a tensor or an array, or a tuple or mapping of them", tree)
    return tree
