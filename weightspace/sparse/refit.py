"""Refit the weights that pruning kept, so that the outputs of each layer come back."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.networks.arguments import check_inputs, check_module, check_networks
from weightspace.networks.collection import Collection
from weightspace.networks.forward import evaluation
from weightspace.runtime import checks, trees
from weightspace.runtime.progress import progress
from weightspace.runtime.trees import Tree
from weightspace.sparse.gathered import as_matrix
from weightspace.sparse.layer_inputs import Layer, listening, run, weight_uses

_READ_BYTES = 2**28  # of what a layer reads in a pass
_FIRST = 8  # examples, which tell how many fit
_SYSTEMS = 2**25  # numbers in the systems that are solved at once
_ROUNDING = 1e-10  # of the mean square of inputs: variances below are rounding


def refit(pruned: Collection, dense: Collection, x: Tree, *, ridge: float = 0.01) -> Collection:
    """Change kept weights and biases so that each layer gives the outputs it gave before pruning, without training.

    Layer by layer, from the inputs on: what a row keeps solves a ridge regression of the outputs of the dense network's
    layer on the inputs that the pruned network's layer gets now that the layers before it are refitted. In closed form,
    one system for each row: o k^3 / 3 products for o rows that keep k weights each, minutes for layers of some thousand
    units. With the dense network's own inputs this is the least-squares update of optimal brain compression (arXiv
    2208.11580, section 3) for all pruned weights at once, which SparseGPT (arXiv 2301.00774) approximates.

    Args:
        pruned: Sparse networks under masks of any pattern; network i is `dense[i]` with weights taken away, its units
            in the same order.
        dense: The networks before pruning.
        x: Training inputs, several times as many as the widest layer has inputs (a convolution gets one from each
            position): a tensor, a tuple of all inputs, or a mapping of them by name.
        ridge: Pull towards the weights as they are, in mean squares of the layer's inputs.

    Returns:
        The pruned networks with other values and the same masks, without extras and the metrics of their records, which
        are not theirs any more. BatchNorm statistics stay: estimate them anew
        (`weightspace.training.batchnorm.recalibrated`).

    Raises:
        InputError: The collections do not belong together, inputs are not finite or do not fit, layers do not run alike
            in both, or something other than linear layers and the convolutions of
            `weightspace.sparse.MatrixConv.takes` was pruned.
    """
    check_networks(pruned, "pruned")
    check_networks(dense, "dense")
    check_inputs(x)
    ridge = checks.number(ridge, "ridge", at_least=0)
    pruned.layout.require(dense.layout, "the dense networks")
    if len(pruned) != len(dense):
        raise InputError(f"each pruned network needs its dense one: got {len(pruned)} and {len(dense)}")
    x = _checked(x, ridge, pruned.weights.dtype)
    weights = pruned.weights.clone()
    for i in progress(range(len(pruned)), "refitting networks"):
        network, before = pruned.module(i).eval(), dense.module(i).eval()
        masks = {name: mask for name, mask in pruned.layout.tensors(pruned.masks[i]).items() if not mask.all()}
        _refit(network, before, masks, x, ridge)
        weights[i] = pruned.layout.pack(network.state_dict())
    records = [record.without("metrics") for record in pruned.records]
    return pruned.replace(weights=weights, extras={}, records=records)


def refit_module(module: nn.Module, dense: nn.Module, x: Tree, *, ridge: float = 0.01) -> None:
    """Refit one module in place, as `refit` does, such as one whose inputs were gathered: zero weights stay zero.

    Args:
        module: The pruned module, with the names of `dense`; after an error it is as it was.
        dense: The module before pruning, its units in the same order.
        x: Training inputs, as in `refit`.
        ridge: Pull towards the weights as they are, as in `refit`.

    Raises:
        InputError: The modules have other parameters, or as in `refit`.
    """
    check_module(module)
    check_module(dense, "dense")
    check_inputs(x)
    ridge = checks.number(ridge, "ridge", at_least=0)
    shapes = [{name: p.shape for name, p in one.named_parameters()} for one in (module, dense)]
    if shapes[0] != shapes[1] or not shapes[0]:
        other = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))
        raise InputError(
            "the module and its dense one must have the same parameters, and some; these differ: "
            f"{', '.join(f'{name} {tuple(shape)}' for name, shape in other[:4]) or 'there are none'}"
        )
    x = _checked(x, ridge, next(module.parameters()).dtype)
    weights = {name: p for name, p in module.named_parameters() if name.endswith("weight") and p.ndim > 1}
    masks = {name: p != 0 for name, p in weights.items()}
    for name, layer in module.named_modules():
        own = f"{name}.weight" if name else "weight"
        if isinstance(layer, nn.Embedding) and layer.padding_idx is not None and own in masks:
            masks[own][layer.padding_idx] = True  # zero from the start
    masks = {name: mask for name, mask in masks.items() if not mask.all()}
    held = [(p, p.detach().clone()) for p in module.parameters()]
    try:
        with evaluation(module), evaluation(dense):
            _refit(module, dense, masks, x, ridge)
    except BaseException:
        with torch.no_grad():
            for p, old in held:
                p.copy_(old)
        raise


def _checked(x: Tree, ridge: float, dtype: torch.dtype) -> Tree:
    if not 0 < ridge < float("inf"):
        raise InputError(f"ridge must be positive and finite, got {ridge}")
    if not trees.samples(x) or not trees.finite(x):
        raise InputError(f"refitting needs a batch of at least one input, all finite; got shape {trees.shapes(x)}")
    return trees.cast(x, dtype)


def _refit(network: nn.Module, before: nn.Module, masks: dict[str, Tensor], x: Tree, ridge: float) -> None:
    """One network in evaluation mode, in place."""
    with listening(network) as heard, listening(before) as heard_before:
        run(network, trees.take(x, slice(64)))
        run(before, trees.take(x, slice(64)))
    if heard.names != heard_before.names:
        raise InputError(
            "the layers of the pruned network run in another order than those of the dense one: "
            f"{', '.join(heard.names)} and {', '.join(heard_before.names)}"
        )
    uses = weight_uses(network, list(dict.fromkeys(heard.names)), masks)
    changed = False  # before the first pruned layer both networks are the same
    for name, readers in uses.items():
        changed = changed or name in masks
        if not changed:
            continue
        layer, dense = network.get_submodule(readers[0]), before.get_submodule(readers[0])
        assert isinstance(layer, Layer)
        assert isinstance(dense, Layer)
        goal, values = as_matrix(dense.weight.detach()).double(), as_matrix(layer.weight.detach()).double()
        # A bias takes up the means, if the weight serves one layer alone.
        centred = layer.bias is not None and len(readers) == 1
        count = sum(heard.names.count(reader) for reader in readers)
        moments = _moments(network, before, readers, count, goal, x, centred=centred)
        mask = as_matrix(masks[name]) if name in masks else torch.ones_like(values, dtype=torch.bool)
        values = _solved(moments, values, mask, ridge)
        with torch.no_grad():
            layer.weight.copy_(values.reshape(layer.weight.movedim(1, -1).shape).movedim(-1, 1))
            if centred and layer.bias is not None and dense.bias is not None:
                layer.bias.copy_(dense.bias + moments.mean_goal - values @ moments.mean)


@dataclass(frozen=True)
class _Moments:
    """Moments of what layers read (c inputs) and what the dense ones made of it (o outputs), over all examples.

    Args:
        inputs: Second moments of what the pruned network's layers read, around the mean if there is a bias.
        cross: Moments of the dense layers' outputs with that.
        mean: Mean of what is read.
        mean_goal: Mean of the dense layers' outputs.
        size: Mean square of what is read.
    """

    inputs: Float[Tensor, "c c"]
    cross: Float[Tensor, "o c"]
    mean: Float[Tensor, " c"]
    mean_goal: Float[Tensor, " o"]
    size: float


def _moments(
    network: nn.Module,
    before: nn.Module,
    layers: Sequence[str],
    count: int,
    goal: Float[Tensor, "o c"],
    x: Tree,
    *,
    centred: bool,
) -> _Moments:
    """Over the readers of one weight, which run `count` times in a pass."""
    columns = goal.shape[1]
    inputs, cross = goal.new_zeros(columns, columns), goal.new_zeros(len(goal), columns)
    mean, mean_goal = goal.new_zeros(columns), goal.new_zeros(len(goal))
    pilot, pilot_goal = mean, mean_goal  # near the means: sums of squares around them lose no digits
    rows, size, block, done = 0, 0.0, _FIRST, 0
    with listening(network, layers, count) as new, listening(before, layers, count) as old:
        total = trees.samples(x)
        while done < total:
            examples = min(block, total - done)
            batch = trees.take(x, slice(done, done + examples))
            run(network, batch)
            run(before, batch)
            done += examples
            if [one.shape for one in new.kept] != [one.shape for one in old.kept]:
                raise InputError(f"{', '.join(layers)} read other inputs in the pruned network than in the dense one")
            for read, meant in zip(new.kept, old.kept, strict=True):
                made = meant @ goal.T
                if centred and not rows:
                    pilot, pilot_goal = read.mean(0), made.mean(0)
                size += read.square().mean(1).sum().item()
                read, made = read - pilot, made - pilot_goal
                inputs.addmm_(read.T, read)
                cross.addmm_(made.T, read)
                mean, mean_goal = mean + read.sum(0), mean_goal + made.sum(0)
                rows += len(read)
            each = sum(one.nbytes for one in new.kept) // examples
            block = max(1, min(256, _READ_BYTES // max(1, each)))
            new.clear()
            old.clear()
    inputs, cross, mean, mean_goal = inputs / rows, cross / rows, mean / rows, mean_goal / rows
    if not (inputs.isfinite().all() and cross.isfinite().all()):
        raise InputError(
            f"what {', '.join(layers)} read is not finite: the networks cannot be compared on these inputs"
        )
    if centred:
        inputs, cross = inputs - torch.outer(mean, mean), cross - torch.outer(mean_goal, mean)
        inputs.diagonal().clamp_(min=0)
    return _Moments(inputs, cross, mean + pilot, mean_goal + pilot_goal, size / rows)


def _solved(
    moments: _Moments, values: Float[Tensor, "o c"], mask: Bool[Tensor, "o c"], ridge: float
) -> Float[Tensor, "o c"]:
    """Kept values whose products come nearest to the dense layer's outputs, zero elsewhere."""
    pull = max(ridge * moments.inputs.diagonal().mean().item(), _ROUNDING * moments.size) or 1.0
    wrong = moments.cross - values @ moments.inputs
    solved = values.clone()
    whole = mask.all(1)
    if whole.any():  # rows that keep everything share one system
        system = moments.inputs.clone()
        system.diagonal().add_(pull)
        solved[whole] += torch.cholesky_solve(wrong[whole].T, torch.linalg.cholesky(system)).T
    counts = mask.sum(1).masked_fill(whole, 0)
    order = counts.argsort(descending=True, stable=True)
    start = 0
    while start < len(order) and (most := int(counts[order[start]])):
        rows = order[start : start + max(1, _SYSTEMS // most**2)]
        start += len(rows)
        # The kept columns of each row first; rows that keep fewer are filled up with others, which change nothing.
        at = mask[rows].byte().argsort(dim=1, descending=True, stable=True)[:, :most]
        inside = mask[rows].gather(1, at)
        systems = moments.inputs[at[:, :, None], at[:, None, :]] * (inside[:, :, None] & inside[:, None, :])
        systems.diagonal(dim1=1, dim2=2).add_(pull)
        right = wrong[rows].gather(1, at) * inside
        change = torch.cholesky_solve(right[..., None], torch.linalg.cholesky(systems))[..., 0]
        solved[rows] = values[rows].scatter_add(1, at, change * inside)
    return solved
