"""Compact: a physically smaller module with the same function, without units that do nothing."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.networks.arguments import check_inputs, check_module
from weightspace.networks.layout import Layout
from weightspace.runtime import checks, trees
from weightspace.runtime.copies import copied
from weightspace.runtime.double import doubled
from weightspace.runtime.outputs import difference
from weightspace.runtime.trees import Tree
from weightspace.symmetry import Axis, Group, Symmetry, prove, trace
from weightspace.symmetry.passes import exact_outputs

# Sizes that a layer knows beside its tensors, for axis 0 and axis 1 of its weight.
_SIZES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Linear, ("out_features", "in_features")),
    (nn.modules.conv._ConvNd, ("out_channels", "in_channels")),
    (nn.modules.batchnorm._BatchNorm, ("num_features",)),
)
_TRANSPOSED = nn.modules.conv._ConvTransposeNd  # its axes are the other way round
_SAME = 1e-9  # in float64, relative to the largest output


def compact(module: nn.Module, example: Tree, *, symmetry: Symmetry | None = None) -> nn.Module:
    """Remove dead units and channels of a network.

    A unit that nothing reads is dead; so is one whose incoming weights are all zero, which is a constant that goes into
    the biases of what reads it. Removing one may leave others dead, and so on. Every group of units keeps at least one.

    Args:
        module: Module of linear and convolution layers and BatchNorm, with any wiring that can be traced; it is left as
            it is. Masks beside its weights (`weight_mask`) are cut with them.
        example: A batch of at least two inputs: a tensor, a tuple of all inputs, or a mapping of them by name.
        symmetry: Symmetry written by hand, for a module that cannot be traced; it is proven first.

    Returns:
        A module of the same class in evaluation mode, proven on random inputs (on the example, if it holds tokens, or
        the module does not take random ones) to compute the same. Units of layers that cannot be cut (LayerNorm,
        attention, grouped convolutions) stay.

    Raises:
        InputError: The module cannot be traced, or the symmetry is wrong for it.
    """
    check_module(module)
    check_inputs(example, "example")
    checks.given(symmetry, "symmetry", checks.instance, kinds=Symmetry, wanted="a Symmetry, or None to trace it")
    if not any(tensor.ndim and len(tensor) > 1 for tensor in trees.tensors(example)):
        raise InputError(f"the example is a batch of at least two inputs, got shape {trees.shapes(example)}")
    symmetry = _proven(module, example, symmetry)
    work = copied(module).double().eval()
    example = doubled(example)
    reference = _Reference(work, example)
    groups = [group for group in symmetry.groups if _can_cut(symmetry, group, work)]
    # Whatever also acts without parameters (a softmax over units, say) is found out by the proof: all at once, and if
    # that fails one by one.
    work, groups = _proven_folds(reference, work, symmetry, groups, example)
    dead = {group.name: _all_but_one(~_read(symmetry, group, work)) for group in groups}
    dead = {name: units for name, units in dead.items() if units.any()}
    small = _cut(work, symmetry, dead)
    if dead and not reference.equals(small):  # a module whose code holds its sizes
        small, accepted = work, {}
        for name, units in dead.items():
            trial = _cut(work, symmetry, accepted | {name: units})
            if reference.equals(trial):
                small, accepted = trial, accepted | {name: units}
    return _as_it_was(small, module)


def _proven(module: nn.Module, example: Tree, symmetry: Symmetry | None) -> Symmetry:
    """The symmetry that was traced, or that is written by hand."""
    if symmetry is None:
        return trace(module, example, fix_unknown=True)
    symmetry.layout.require(Layout.of(module), type(module).__name__)
    prove(symmetry, module, example)
    return symmetry


def _as_it_was(small: nn.Module, module: nn.Module) -> nn.Module:
    """The small module with the dtypes of the module, and what is trained in it."""
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    for name, tensor in itertools.chain(small.named_parameters(), small.named_buffers()):
        tensor.data = tensor.data.to(own[name].dtype)
        if isinstance(tensor, nn.Parameter):
            tensor.requires_grad_(own[name].requires_grad)
    return small


class _Reference:
    """What a float64 module computes, to which others are held.

    Args:
        module: The module.
        example: Inputs in float64; the proof is on random ones of their shapes where the module takes them.
    """

    def __init__(self, module: nn.Module, example: Tree) -> None:
        random = torch.Generator().manual_seed(0)

        def drawn(t: Tensor) -> Tensor:  # of tokens: others may not exist
            return torch.randn(t.shape, dtype=t.dtype, generator=random) if t.is_floating_point() else t

        self.inputs = trees.apply(drawn, example)
        try:
            self.expected = exact_outputs(module, self.inputs)
            usable = all(bool(one.isfinite().all()) for one in self.expected)
        except Exception:  # whatever the module's own code raises on inputs that it was not made for
            usable = False
        if not usable:
            self.inputs = example
            self.expected = exact_outputs(module, example)

    def equals(self, small: nn.Module) -> bool:
        """Does another module compute the same? One whose code holds its sizes may not even run."""
        try:
            outputs = exact_outputs(small, self.inputs)
        except Exception:  # whatever the module's own code raises: then the units stay
            return False
        return difference(outputs, self.expected) <= _SAME


def _proven_folds(
    reference: _Reference, work: nn.Module, symmetry: Symmetry, groups: list[Group], example: Tree
) -> tuple[nn.Module, list[Group]]:
    """The module with constants folded, and the groups for which that is proven to change nothing."""
    folded = copied(work)
    _fold(folded, symmetry, groups, example)
    if reference.equals(folded):
        return folded, groups
    accepted: list[Group] = []
    best = work
    for group in groups:
        folded = copied(work)
        _fold(folded, symmetry, [*accepted, group], example)
        if reference.equals(folded):
            best, accepted = folded, [*accepted, group]
    return best, accepted


def _all_but_one(units: Bool[Tensor, " units"]) -> Bool[Tensor, " units"]:
    """The same, less the first if it is all of them: a layer without outputs is no layer."""
    first = torch.arange(len(units)) == 0
    return units & ~first if units.all() else units


def _can_cut(symmetry: Symmetry, group: Group, module: nn.Module) -> bool:
    """Do all of a group's axes lie in layers whose sizes are known? What no layer reads is read by something else."""
    if (
        not group.outgoing
        or group.parent is not None
        or symmetry.children(group.name)
        or any(axis.within is not None for axis in group.axes)
    ):
        return False
    tied = {name for pair in symmetry.layout.aliases for name in pair}
    for axis in group.axes:
        owner = _owner(module, axis.tensor)
        known = isinstance(owner, tuple(kind for kind, _ in _SIZES)) and not isinstance(owner, _TRANSPOSED)
        if axis.tensor in tied or not known or getattr(owner, "groups", 1) != 1:
            return False
    return True


def _read(symmetry: Symmetry, group: Group, module: nn.Module) -> Bool[Tensor, " units"]:
    """Which units are read: some outgoing entry is not zero."""
    units = torch.zeros(group.size, dtype=torch.bool)
    for axis in group.outgoing:
        units |= _slots(symmetry, group, axis, module).any(1)
    return units


def _written(symmetry: Symmetry, group: Group, module: nn.Module, layout: Layout) -> Bool[Tensor, " units"]:
    """Which units depend on their inputs: some incoming weight is not zero."""
    weights = {entry.name for entry in layout.weights}
    units = torch.zeros(group.size, dtype=torch.bool)
    for axis in (*group.incoming, *group.following):
        if axis.tensor in weights:
            units |= _slots(symmetry, group, axis, module).any(1)
    return units


def _slots(symmetry: Symmetry, group: Group, axis: Axis, module: nn.Module) -> Bool[Tensor, "units rest"]:
    """What of a tensor is not zero, unit by unit."""
    named = dict(module.named_parameters()) | dict(module.named_buffers())
    tensor = named[axis.tensor].detach()
    place = symmetry.places[group.name, axis]
    return (tensor.movedim(axis.axis, 0)[place.flatten()] != 0).reshape(len(place), -1)


@torch.no_grad()
def _fold(module: nn.Module, symmetry: Symmetry, groups: Sequence[Group], example: Tree) -> None:
    """Put constant units into the biases of their readers, and forget what unread units read, until nothing changes."""
    layout = symmetry.layout
    while True:
        changed = False
        for group in groups:
            unread = ~_read(symmetry, group, module)
            for axis in (*group.incoming, *group.following):
                changed |= _clear(module, symmetry, group, axis, unread & _nonzero(module, symmetry, group, axis))
            constant = _read(symmetry, group, module) & ~_written(symmetry, group, module, layout)
            if constant.any():
                with _inputs_of(module, [axis.tensor for axis in group.outgoing]) as seen:
                    exact_outputs(module, example)
                for axis in group.outgoing:
                    constant &= _foldable(module, symmetry, group, axis, seen)
                for axis in group.outgoing if constant.any() else ():
                    _into_bias(module, symmetry, group, axis, constant, seen)
                    changed |= _clear(module, symmetry, group, axis, constant)
        if not changed:
            return


def _nonzero(module: nn.Module, symmetry: Symmetry, group: Group, axis: Axis) -> Bool[Tensor, " units"]:
    """Units with something other than zero on an axis; statistics are left as they are."""
    if axis.tensor not in symmetry.layout.slices:
        return torch.zeros(group.size, dtype=torch.bool)
    return _slots(symmetry, group, axis, module).any(1)


def _clear(module: nn.Module, symmetry: Symmetry, group: Group, axis: Axis, units: Bool[Tensor, " units"]) -> bool:
    if not units.any():
        return False
    tensor = module.get_parameter(axis.tensor).data.movedim(axis.axis, 0)
    tensor[symmetry.places[group.name, axis][units].flatten()] = 0
    return True


@contextmanager
def _inputs_of(module: nn.Module, tensors: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Inputs of the layers that own these tensors, call by call."""
    seen: dict[str, list[Tensor]] = {name: [] for name in tensors}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor]], None]:
        return lambda _layer, inputs, named: seen[name].append((*inputs, *named.values())[0])

    handles = [_owner(module, name).register_forward_pre_hook(keep(name), with_kwargs=True) for name in seen]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _foldable(
    module: nn.Module, symmetry: Symmetry, group: Group, axis: Axis, seen: Mapping[str, list[Tensor]]
) -> Bool[Tensor, " units"]:
    """Of which units a reader sees one value each, which its bias can take over."""
    owner, calls = _owner(module, axis.tensor), seen[axis.tensor]
    if len(calls) != 1 or not isinstance(owner, nn.Linear | nn.modules.conv._ConvNd) or axis.axis != 1:
        return torch.zeros(group.size, dtype=torch.bool)
    values, constant = _values(symmetry, group, axis, torch.ones(group.size, dtype=torch.bool), owner, calls[0])
    # At the borders a padded convolution sees zeros in place of the constant.
    bordered = isinstance(owner, nn.modules.conv._ConvNd) and (owner.padding_mode != "zeros" or _padded(owner))
    if owner.bias is None or bordered:
        constant &= values == 0
    return constant.reshape(group.size, -1).all(1)


def _padded(owner: nn.modules.conv._ConvNd) -> bool:
    return owner.padding != "valid" and (isinstance(owner.padding, str) or any(owner.padding))


def _values(
    symmetry: Symmetry, group: Group, axis: Axis, units: Tensor, owner: nn.Module, x: Tensor
) -> tuple[Float[Tensor, " slots"], Bool[Tensor, " slots"]]:
    """The first value of each slot of these units at a reader's input, and whether it is the only one."""
    channel = x.ndim - 1 if isinstance(owner, nn.Linear) else 1
    slots = x.movedim(channel, 0)[symmetry.places[group.name, axis][units].flatten()].flatten(1)
    return slots[:, 0], (slots == slots[:, :1]).all(1)


def _into_bias(
    module: nn.Module, symmetry: Symmetry, group: Group, axis: Axis, units: Tensor, seen: Mapping[str, list[Tensor]]
) -> None:
    owner = _owner(module, axis.tensor)
    values, _ = _values(symmetry, group, axis, units, owner, seen[axis.tensor][0])
    if values.any():
        columns = module.get_parameter(axis.tensor)[:, symmetry.places[group.name, axis][units].flatten()]
        owner.get_parameter("bias").data += (columns.flatten(2).sum(2) if columns.ndim > 2 else columns) @ values


def _cut(module: nn.Module, symmetry: Symmetry, dead: Mapping[str, Tensor]) -> nn.Module:
    """A copy without these units."""
    small = copied(module)
    kept: dict[tuple[str, int], Tensor] = {}
    shapes = {entry.name: entry.shape for entry in symmetry.layout.entries}
    for group in symmetry.groups:
        if group.name not in dead:
            continue
        for axis in group.axes:
            keep = kept.setdefault(
                (axis.tensor, axis.axis), torch.ones(shapes[axis.tensor][axis.axis], dtype=torch.bool)
            )
            keep[symmetry.places[group.name, axis][dead[group.name]].flatten()] = False
    for (name, axis), keep in kept.items():
        _take(_owner(small, name), name.rpartition(".")[2], axis, keep.nonzero()[:, 0])
    return small


def _take(owner: nn.Module, name: str, axis: int, index: Int[Tensor, " kept"]) -> None:
    """Keep these positions of a layer's tensor, of the mask beside it, and of the layer's sizes."""
    old = getattr(owner, name)
    new = old.detach().index_select(axis, index)
    if isinstance(old, nn.Parameter):
        setattr(owner, name, nn.Parameter(new, old.requires_grad))
    else:
        owner.register_buffer(name, new)
    mask = getattr(owner, f"{name}_mask", None)
    if isinstance(mask, Tensor):
        owner.register_buffer(f"{name}_mask", mask.index_select(axis, index), persistent=False)
    for kind, sizes in _SIZES:
        if isinstance(owner, kind) and axis < len(sizes):
            setattr(owner, sizes[axis], len(index))


def _owner(module: nn.Module, tensor: str) -> nn.Module:
    return module.get_submodule(tensor.rpartition(".")[0])
