"""Refit the weights that pruning kept, so that the outputs of each layer come back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.networks import calling
from weightspace.networks.arguments import check_inputs, check_module, check_networks
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks, evaluation
from weightspace.runtime import checks, trees
from weightspace.runtime.live_bytes import LiveBytes
from weightspace.runtime.progress import progress
from weightspace.runtime.trees import Tree
from weightspace.sparse.dense_products import DenseProducts
from weightspace.sparse.gathered import as_matrix
from weightspace.sparse.layer_inputs import Call, Layer, before_calls, calls, run, weight_uses
from weightspace.sparse.moments import Moments, MomentSums
from weightspace.sparse.ridge import solved

_FIRST = 8  # examples, which tell what runs and how many fit


def refit(pruned: Collection, dense: Collection, x: Tree, *, ridge: float = 0.01, memory_gb: float = 1.0) -> Collection:
    """Change kept weights and biases so that each layer gives the outputs it gave before pruning, without training.

    Layer by layer, from the inputs on: what a row keeps solves a ridge regression of the outputs of the dense network's
    layer on the inputs that the pruned network's layer gets now that the layers before it are refitted. In closed form,
    one system for each row: o k^3 / 3 products for o rows that keep k weights each. Where k is more than some hundreds,
    all rows are solved together by conjugate gradients, with o c^2 products a step for c inputs; the leading directions
    of the inputs are solved directly, so that some dozens of steps do. With the dense network's own inputs this is the
    least-squares update of optimal brain compression (arXiv 2208.11580, section 3) for all pruned weights at once,
    which SparseGPT (arXiv 2301.00774) approximates.

    Args:
        pruned: Sparse networks under masks of any pattern; network i is `dense[i]` with weights taken away, its units
            in the same order.
        dense: The networks before pruning.
        x: Training inputs, several times as many as the widest layer has inputs (a convolution gets one from each
            position): a tensor, a tuple of all inputs, or a mapping of them by name.
        ridge: Pull towards the weights as they are, in mean squares of the layer's inputs.
        memory_gb: Memory for what layers read and return. What fits is computed in one pass of both networks, what does
            not in several.

    Returns:
        The pruned networks with other values and the same masks, without extras and the metrics of their records, which
        are not theirs any more. BatchNorm statistics stay, as layers are refitted to them; `recover` finds out whether
        others are better.

    Raises:
        InputError: The collections do not belong together, inputs are not finite or do not fit, layers do not run alike
            in both, or something other than linear layers and the convolutions of
            `weightspace.sparse.MatrixConv.takes` was pruned.
    """
    check_networks(pruned, "pruned")
    check_networks(dense, "dense")
    check_inputs(x)
    ridge = checks.number(ridge, "ridge", at_least=0)
    room = _room(memory_gb)
    pruned.layout.require(dense.layout, "the dense networks")
    if len(pruned) != len(dense):
        raise InputError(f"each pruned network needs its dense one: got {len(pruned)} and {len(dense)}")
    x = _checked(x, ridge, pruned.weights.dtype)
    weights = pruned.weights.clone()
    for i in progress(range(len(pruned)), "refitting networks"):
        network, before = pruned.module(i).eval(), dense.module(i).eval()
        masks = {name: mask for name, mask in pruned.layout.tensors(pruned.masks[i]).items() if not mask.all()}
        _refit(network, before, masks, x, ridge, room)
        weights[i] = pruned.layout.pack(network.state_dict())
    records = [record.without("metrics") for record in pruned.records]
    return pruned.replace(weights=weights, extras={}, records=records)


def refit_module(module: nn.Module, dense: nn.Module, x: Tree, *, ridge: float = 0.01, memory_gb: float = 1.0) -> None:
    """Refit one module in place, as `refit` does, such as one whose inputs were gathered: zero weights stay zero.

    Args:
        module: The pruned module, with the names of `dense`; after an error it is as it was.
        dense: The module before pruning, its units in the same order.
        x: Training inputs, as in `refit`.
        ridge: Pull towards the weights as they are, as in `refit`.
        memory_gb: Memory for what layers read and return, as in `refit`.

    Raises:
        InputError: The modules have other parameters, or as in `refit`.
    """
    check_module(module)
    check_module(dense, "dense")
    check_inputs(x)
    ridge = checks.number(ridge, "ridge", at_least=0)
    room = _room(memory_gb)
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
            _refit(module, dense, masks, x, ridge, room)
    except BaseException:
        with torch.no_grad():
            for p, old in held:
                p.copy_(old)
        raise


def _room(memory_gb: Any) -> int:
    return int(checks.number(memory_gb, "memory_gb", above=0) * 2**30)


def _checked(x: Tree, ridge: float, dtype: torch.dtype) -> Tree:
    if not 0 < ridge < float("inf"):
        raise InputError(f"ridge must be positive and finite, got {ridge}")
    if not trees.samples(x) or not trees.finite(x):
        raise InputError(f"refitting needs a batch of at least one input, all finite; got shape {trees.shapes(x)}")
    return trees.cast(x, dtype)


@dataclass(frozen=True)
class _Step:
    """One weight to refit.

    Args:
        name: Name of the weight.
        readers: Layers that read it.
        calls: Numbers of their calls in a pass.
    """

    name: str
    readers: Sequence[str]
    calls: Sequence[int]


def _refit(network: nn.Module, before: nn.Module, masks: dict[str, Tensor], x: Tree, ridge: float, room: int) -> None:
    """One network in evaluation mode, in place."""
    few = trees.take(x, slice(_FIRST))
    ran, ran_before = calls(network, few), calls(before, few)
    names = [call.layer for call in ran]
    if names != [call.layer for call in ran_before]:
        raise InputError(
            "the layers of the pruned network run in another order than those of the dense one: "
            f"{', '.join(names)} and {', '.join(call.layer for call in ran_before)}"
        )
    steps: list[_Step] = []
    for name, readers in weight_uses(network, list(dict.fromkeys(names)), masks).items():
        if steps or name in masks:  # before the first pruned layer both networks are the same
            steps.append(_Step(name, readers, [i for i, one in enumerate(names) if one in readers]))
    if not steps:
        return
    with torch.no_grad(), LiveBytes() as live:
        calling.run(before, few)
    each = max(1, live.most // trees.samples(few))
    once = all(len(step.calls) == 1 for step in steps) and 4 * each * trees.samples(x) <= 3 * room
    block = trees.samples(x) if once else max(1, min(256, room // 4 // each))
    batches = list(blocks(trees.samples(x), block))
    wanted = [call for step in steps for call in step.calls]
    dense = DenseProducts(before, ran_before, wanted, x, batches, room // 6)
    fitting = _Fitting(network, before, ran, masks, dense, ridge)
    if once:
        fitting.in_one_pass(steps, x)
    else:
        for step in steps:
            fitting.by_passes(step, x, batches)


@dataclass(frozen=True)
class _Fitting:
    """Refits the weights of one network, in the order in which they are read.

    Args:
        network: The network, in evaluation mode; it is changed in place.
        before: The dense network.
        ran: Calls of a pass.
        masks: What the pruned weights keep.
        dense: What the layers of the dense network return.
        ridge: As in `refit`.
    """

    network: nn.Module
    before: nn.Module
    ran: Sequence[Call]
    masks: dict[str, Tensor]
    dense: DenseProducts
    ridge: float

    def in_one_pass(self, steps: Sequence[_Step], x: Tree) -> None:
        """Refit each layer just before it runs: all examples pass at once, and read what the layers before now make."""
        todo = {step.calls[0]: step for step in steps}
        last = max(todo)

        def act(call: int, layer: Layer, read: Tensor) -> bool:
            if call in todo:
                step = todo.pop(call)
                sums = self._sums(step)
                sums.add(layer, read, self.dense.take(call, 0))
                self._set(step, sums.result())
            return call < last

        with before_calls(self.network, self.ran, act):
            run(self.network, x)
        if todo:
            raise InputError(f"{', '.join(step.name for step in todo.values())} did not run with all examples")

    def by_passes(self, step: _Step, x: Tree, batches: Sequence[slice]) -> None:
        """Refit one weight after passes of blocks of examples."""
        sums = self._sums(step)
        last = max(step.calls)
        for number, batch in enumerate(batches):

            def act(call: int, layer: Layer, read: Tensor, number: int = number) -> bool:
                if call in step.calls:
                    sums.add(layer, read, self.dense.take(call, number))
                return call < last

            with before_calls(self.network, self.ran, act):
                run(self.network, trees.take(x, batch))
        self._set(step, sums.result())

    def _sums(self, step: _Step) -> MomentSums:
        layer = self.network.get_submodule(step.readers[0])
        assert isinstance(layer, Layer)
        # A bias takes up the means, if the weight serves one layer alone.
        centred = layer.bias is not None and len(step.readers) == 1
        return MomentSums(layer, ", ".join(step.readers), centred=centred)

    def _set(self, step: _Step, moments: Moments) -> None:
        layer, dense = (one.get_submodule(step.readers[0]) for one in (self.network, self.before))
        assert isinstance(layer, Layer)
        assert isinstance(dense, Layer)
        values = as_matrix(layer.weight.detach()).double()
        mask = torch.ones_like(values, dtype=torch.bool)
        if step.name in self.masks:
            mask = as_matrix(self.masks[step.name])
        values = solved(moments, values, mask, self.ridge)
        with torch.no_grad():
            layer.weight.copy_(values.reshape(layer.weight.movedim(1, -1).shape).movedim(-1, 1))
            if len(step.readers) == 1 and layer.bias is not None and dense.bias is not None:
                layer.bias.copy_(dense.bias + moments.mean_goal - values @ moments.mean)
