"""Refit the weights that pruning kept, so that the outputs of each layer come back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.networks.collection import Collection
from weightspace.networks.forward import evaluation
from weightspace.runtime.progress import progress
from weightspace.sparse.gathered import MatrixConv, as_matrix, read_by

_READ_BYTES = 2**28  # of what a layer reads in a pass
_FIRST = 8  # examples, which tell how many fit
_SYSTEMS = 2**25  # numbers in the systems that are solved at once
_ROUNDING = 1e-10  # of the mean square of inputs: variances below are rounding
_Layer = nn.Linear | nn.Conv2d


def refit(pruned: Collection, dense: Collection, x: Tensor, *, ridge: float = 0.01) -> Collection:
    """Change kept weights and biases so that each layer gives the outputs that it gave before pruning, without training.

    Layer by layer, from the inputs on: what a row keeps solves a ridge regression of the outputs of the dense network's
    layer on the inputs that the pruned network's layer gets now that the layers before it are refitted. In closed form, one
    system for each row: o k^3 / 3 products for o rows that keep k weights each, minutes for layers of some thousand units.
    With the dense network's own inputs this is the least-squares update of optimal brain compression (arXiv 2208.11580,
    section 3) for all pruned weights at once, which SparseGPT (arXiv 2301.00774) approximates.

    Args:
        pruned: masks of any pattern; network i is `dense[i]` with weights taken away, its units in the same order.
        dense: what they were before.
        x: training inputs, several times as many as the widest layer has inputs (a convolution gets one from each position).
        ridge: pull towards the weights as they are, in mean squares of the layer's inputs.

    Returns:
        The pruned networks with other values and the same masks, without extras and the metrics of their records, which are
        not theirs any more. BatchNorm statistics stay: estimate them anew (`weightspace.training.batchnorm.recalibrated`).

    Raises:
        InputError: collections that do not belong together, inputs that are not finite or do not fit, layers that do not run
            alike in both, or pruned weights of anything but linear layers and convolutions that
            :class:`weightspace.sparse.MatrixConv` takes.
    """
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
    records = [{key: value for key, value in record.items() if key != "metrics"} for record in pruned.records]
    return pruned.replace(weights=weights, extras={}, records=records)


def refit_module(module: nn.Module, dense: nn.Module, x: Tensor, *, ridge: float = 0.01) -> None:
    """:func:`refit` of one module, in place, such as one whose inputs were gathered: zero weights stay zero.

    Args:
        module: pruned, with the names of `dense`; after an error it is as it was.
        dense: what it was before, in the same order.

    Raises:
        InputError: as :func:`refit`, and for modules of other parameters.
    """
    shapes = [{name: p.shape for name, p in one.named_parameters()} for one in (module, dense)]
    if shapes[0] != shapes[1] or not shapes[0]:
        other = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))
        raise InputError(
            "the module and its dense one must have the same parameters, and some; these differ: "
            f"{', '.join(f'{name} {tuple(shape)}' for name, shape in other[:4]) or 'there are none'}"
        )
    x = _checked(x, ridge, next(module.parameters()).dtype)
    masks = {
        name: p != 0 for name, p in module.named_parameters()
        if name.endswith("weight") and p.ndim > 1 and not (p != 0).all()
    }  # fmt: skip
    held = [(p, p.detach().clone()) for p in module.parameters()]
    try:
        with evaluation(module), evaluation(dense):
            _refit(module, dense, masks, x, ridge)
    except BaseException:
        with torch.no_grad():
            for p, old in held:
                p.copy_(old)
        raise


def _checked(x: Tensor, ridge: float, dtype: torch.dtype) -> Tensor:
    if not 0 < ridge < float("inf"):
        raise InputError(f"ridge must be positive and finite, got {ridge}")
    if not x.ndim or not len(x) or (x.is_floating_point() and not x.isfinite().all()):
        raise InputError(f"refitting needs a batch of at least one input, all finite; got shape {tuple(x.shape)}")
    return x.to(dtype) if x.is_floating_point() else x


def _refit(network: nn.Module, before: nn.Module, masks: dict[str, Tensor], x: Tensor, ridge: float) -> None:
    """One network in evaluation mode, in place."""
    with _reading(network) as run, _reading(before) as run_before:
        _run(network, x[:64])
        _run(before, x[:64])
    if run.names != run_before.names:
        raise InputError(
            f"the layers of the pruned network run in another order than those of the dense one: {', '.join(run.names)} and "
            f"{', '.join(run_before.names)}"
        )
    uses = _uses(network, list(dict.fromkeys(run.names)), masks)
    changed = False  # before the first pruned layer both networks are the same
    for name, readers in uses.items():
        changed = changed or name in masks
        if not changed:
            continue
        layer, dense = network.get_submodule(readers[0]), before.get_submodule(readers[0])
        assert isinstance(layer, _Layer)
        assert isinstance(dense, _Layer)
        goal, values = as_matrix(dense.weight.detach()).double(), as_matrix(layer.weight.detach()).double()
        # A bias takes up the means, if the weight serves one layer alone.
        centred = layer.bias is not None and len(readers) == 1
        count = sum(run.names.count(reader) for reader in readers)
        moments = _moments(network, before, readers, count, goal, x, centred=centred)
        mask = as_matrix(masks[name]) if name in masks else torch.ones_like(values, dtype=torch.bool)
        values = _solved(moments, values, mask, ridge)
        with torch.no_grad():
            layer.weight.copy_(values.reshape(layer.weight.movedim(1, -1).shape).movedim(-1, 1))
            if centred and layer.bias is not None and dense.bias is not None:
                layer.bias.copy_(dense.bias + moments.mean_goal - values @ moments.mean)


def _uses(network: nn.Module, ran: Sequence[str], masks: dict[str, Tensor]) -> dict[str, list[str]]:
    """For each weight that can be refitted the layers that read it, in the order in which they run.

    A weight that something else reads too (an embedding that shares it with the last layer) is left as it is.
    """
    layers = dict(network.named_modules())
    owners: dict[int, list[str]] = {}
    for layer, module in layers.items():
        for own in module._parameters.values():
            owners.setdefault(id(own), []).append(layer)
    uses: dict[str, list[str]] = {}
    for name, parameter in network.named_parameters():
        readers = [layer for layer in ran if layers[layer]._parameters["weight"] is parameter]
        if readers and all(_readable(layers[owner]) for owner in owners[id(parameter)]):
            uses[name] = readers
        elif name in masks:
            whose = ", ".join(f"{type(layers[one]).__name__} {one!r}" for one in owners[id(parameter)])
            raise InputError(
                f"{name} was pruned and cannot be refitted: it belongs to {whose}. What can be refitted are weights of linear "
                "layers and of 2-d convolutions without groups, padded with zeros by numbers, that the inputs pass; leave "
                "others as they are"
            )
    return dict(sorted(uses.items(), key=lambda item: ran.index(item[1][0])))


@dataclass(frozen=True)
class _Moments:
    """Of what layers read (c inputs) and what the dense ones made of it (o outputs), over all examples.

    Args:
        own: second moments of what the pruned network's layers read, around the mean if there is a bias.
        cross: of the dense layers' outputs with that.
        size: mean square of what is read.
    """

    own: Float[Tensor, "c c"]
    cross: Float[Tensor, "o c"]
    mean: Float[Tensor, " c"]
    mean_goal: Float[Tensor, " o"]
    size: float


def _moments(
    network: nn.Module, before: nn.Module, layers: Sequence[str], count: int, goal: Float[Tensor, "o c"], x: Tensor, *,
    centred: bool,
) -> _Moments:  # fmt: skip
    """Over the readers of one weight, which run `count` times in a pass."""
    columns = goal.shape[1]
    own, cross = goal.new_zeros(columns, columns), goal.new_zeros(len(goal), columns)
    mean, mean_goal = goal.new_zeros(columns), goal.new_zeros(len(goal))
    pilot, pilot_goal = mean, mean_goal  # near the means: sums of squares around them lose no digits
    rows, size, block, done = 0, 0.0, _FIRST, 0
    with _reading(network, layers, count) as new, _reading(before, layers, count) as old:
        while done < len(x):
            some = x[done : done + block]
            _run(network, some)
            _run(before, some)
            done += len(some)
            if [one.shape for one in new.kept] != [one.shape for one in old.kept]:
                raise InputError(f"{', '.join(layers)} read other inputs in the pruned network than in the dense one")
            for read, meant in zip(new.kept, old.kept, strict=True):
                made = meant @ goal.T
                if centred and not rows:
                    pilot, pilot_goal = read.mean(0), made.mean(0)
                size += read.square().mean(1).sum().item()
                read, made = read - pilot, made - pilot_goal
                own.addmm_(read.T, read)
                cross.addmm_(made.T, read)
                mean, mean_goal = mean + read.sum(0), mean_goal + made.sum(0)
                rows += len(read)
            each = sum(one.nbytes for one in new.kept) // len(some)
            block = max(1, min(256, _READ_BYTES // max(1, each)))
            new.clear()
            old.clear()
    own, cross, mean, mean_goal = own / rows, cross / rows, mean / rows, mean_goal / rows
    if not (own.isfinite().all() and cross.isfinite().all()):
        raise InputError(
            f"what {', '.join(layers)} read is not finite: the networks cannot be compared on these inputs"
        )
    if centred:
        own, cross = own - torch.outer(mean, mean), cross - torch.outer(mean_goal, mean)
        own.diagonal().clamp_(min=0)
    return _Moments(own, cross, mean + pilot, mean_goal + pilot_goal, size / rows)


def _solved(
    moments: _Moments, values: Float[Tensor, "o c"], mask: Bool[Tensor, "o c"], ridge: float
) -> Float[Tensor, "o c"]:
    """Kept values whose products come nearest to the dense layer's outputs, zero elsewhere."""
    pull = max(ridge * moments.own.diagonal().mean().item(), _ROUNDING * moments.size) or 1.0
    wrong = moments.cross - values @ moments.own
    solved = values.clone()
    whole = mask.all(1)
    if whole.any():  # rows that keep everything share one system
        system = moments.own.clone()
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
        systems = moments.own[at[:, :, None], at[:, None, :]] * (inside[:, :, None] & inside[:, None, :])
        systems.diagonal(dim1=1, dim2=2).add_(pull)
        right = wrong[rows].gather(1, at) * inside
        change = torch.cholesky_solve(right[..., None], torch.linalg.cholesky(systems))[..., 0]
        solved[rows] = values[rows].scatter_add(1, at, change * inside)
    return solved


class _Reader:
    """Names of layers as they run, and what they multiply."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.kept: list[Float[Tensor, "rows columns"]] = []

    def clear(self) -> None:
        self.names.clear()
        self.kept.clear()


class _Enough(Exception):
    """All that was asked for has run: what follows need not."""


@contextmanager
def _reading(module: nn.Module, layers: Sequence[str] | None = None, count: int = 0) -> Iterator[_Reader]:
    """Listen to layers as they run.

    Args:
        layers: to keep inputs of, until they ran `count` times; without, names alone are kept, of all that could be
            refitted.
    """
    found = _Reader()

    def listen(name: str, layer: _Layer) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            found.names.append(name)
            if layers is not None:
                found.kept.append(read_by(layer, (*inputs, *named.values())[0].detach()).double())
                if len(found.kept) == count:
                    raise _Enough

        hooks.append(layer.register_forward_pre_hook(hook, with_kwargs=True))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for name, layer in module.named_modules():
        if isinstance(layer, _Layer) and _readable(layer) and (layers is None or name in layers):
            listen(name, layer)
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _readable(layer: nn.Module) -> bool:
    """Is it known what this layer's weight is multiplied with? Its subclasses may do other things."""
    known = type(layer) is nn.Linear or (type(layer) is nn.Conv2d and MatrixConv.takes(layer))
    return known and isinstance(layer._parameters.get("weight"), nn.Parameter)


def _run(module: nn.Module, x: Tensor) -> None:
    try:
        with torch.no_grad():
            module(x)
    except _Enough:
        pass
    except (RuntimeError, TypeError, IndexError) as error:
        raise InputError(
            f"{type(module).__name__} does not run on inputs of shape {tuple(x.shape)} and {x.dtype}: {error}"
        ) from error
