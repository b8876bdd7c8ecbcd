"""What a weight is worth to its layer's outputs: its size times the size of what it multiplies."""

from collections import Counter

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.masks.patterns import Pattern, check_pattern
from weightspace.masks.schedule import part_of
from weightspace.networks import calling
from weightspace.networks.arguments import check_inputs, check_networks
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks
from weightspace.runtime import checks, trees
from weightspace.runtime.progress import progress
from weightspace.runtime.trees import Tree

_ROWS = 256  # examples at once
_Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def input_scores(networks: Collection, x: Tree, *, pattern: Pattern | None = None) -> Float[Tensor, "n d"]:
    """Size of each weight times the root mean square of the input it reads, squared.

    With inputs that do not correlate, the scores that a mask leaves out add up to the mean square error of the layer's
    outputs. They rank the weights of a row as Wanda does (Sun et al., ICLR 2024, arXiv 2306.11695). Biases and other
    parameters keep their squared size.

    Args:
        networks: Networks, dense or sparse; they run in evaluation mode.
        x: Training inputs, a few hundred: a tensor, a tuple of all inputs, or a mapping of them by name.
        pattern: Pattern that the scores are for. A selection (`Only`, `Except`) leaves out weights whose inputs are not
            known, such as embeddings; they keep their squared size. None is a pattern of all prunable weights.

    Returns:
        Scores for `reorder` and for the mask of a pattern.

    Raises:
        InputError: There are no inputs, they are not finite or do not fit, or prunable weights belong to a layer that
            is neither linear nor a convolution.
    """
    check_networks(networks)
    check_inputs(x)
    checks.given(pattern, "pattern", check_pattern)
    if not trees.samples(x) or not trees.finite(x):
        raise InputError(f"scores need a batch of at least one input, all finite; got shape {trees.shapes(x)}")
    x = trees.cast(x, networks.weights.dtype)
    scores = networks.weights.square()
    tensors = networks.layout.tensors(scores)  # views
    layout = networks.layout if pattern is None else part_of(pattern, networks.layout)
    weights = [entry.name for entry in layout.weights]
    for i in progress(range(len(networks)), "inputs of every layer"):
        read = _mean_squares(networks.module(i).eval(), x)
        unknown = [name for name in weights if name not in read]
        if unknown:
            raise InputError(
                f"{', '.join(unknown)} belong to no linear layer or convolution that the inputs pass, so that what "
                "they are multiplied with is not known: use magnitudes, or leave them out, by pattern=Except(...)"
            )
        for name in weights:
            tensors[name][i].mul_(read[name])
    return scores


def _mean_squares(module: nn.Module, x: Tree) -> dict[str, Tensor]:
    """For each weight the mean squares of its inputs, in a shape that broadcasts against it.

    A weight that is used more than once has the sum over its uses: each adds to the error of its own outputs.
    """
    totals: dict[tuple[str, int], tuple[Tensor, int]] = {}  # by layer and how often it ran before in the same pass
    calls: Counter[str] = Counter()

    def listen(name: str, layer: nn.Module) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            read = (*inputs, *named.values())[0].detach()
            channels = -1 if isinstance(layer, nn.Linear) else 1
            features = read.movedim(channels, -1).flatten(0, -2).double()
            total, count = totals.get((name, calls[name]), (0, 0))
            totals[name, calls[name]] = (total + features.square().sum(0), count + len(features))
            calls[name] += 1

        hooks.append(layer.register_forward_pre_hook(hook, with_kwargs=True))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, _Layer)}
    for name, layer in layers.items():
        listen(name, layer)
    with torch.no_grad():
        for rows in blocks(trees.samples(x), _ROWS):
            calls.clear()
            calling.run(module, trees.take(x, rows))
    for hook in hooks:
        hook.remove()
    squares: dict[int, Tensor] = {}  # by parameter: layers may share one
    for (name, _), (total, count) in totals.items():
        mean = _shaped(layers[name], total / count)
        key = id(layers[name].weight)
        squares[key] = squares[key] + mean if key in squares else mean
    return {name: squares[id(p)].to(p.dtype) for name, p in module.named_parameters() if id(p) in squares}


def _shaped(layer: _Layer, mean: Float[Tensor, " inputs"]) -> Tensor:
    if isinstance(layer, nn.Linear):
        return mean[None]
    each = mean.reshape(layer.groups, -1).repeat_interleave(layer.out_channels // layer.groups, dim=0)
    return each.reshape(*each.shape, *[1] * (layer.weight.ndim - 2))  # (outputs, inputs / groups, 1, ...)
