"""Trace one forward pass of a module, operator by operator, and label every axis on the way."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from weightspace.errors import InputError
from weightspace.runtime.outputs import tensors_within
from weightspace.runtime.trees import Tree
from weightspace.runtime.watching import OperatorMode
from weightspace.symmetry.passes import EXACT, Precision, SeesValues, call, training_mode, without_caches
from weightspace.symmetry.tracing import linear_rules, views
from weightspace.symmetry.tracing.attention_rules import RULES
from weightspace.symmetry.tracing.labels import ANY, FIXED, LOST, Label, Labels, Units
from weightspace.symmetry.tracing.rules import Traced, Untraceable, elementwise, pointwise_signed
from weightspace.symmetry.tracing.tensors import convolution_groups, identical, memory

aten = torch.ops.aten
_MAKES_NUMBERS = (aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select)
_FACTORIES = (
    aten.new_zeros,
    aten.new_ones,
    aten.new_full,
    aten.new_empty,
    aten.zeros_like,
    aten.ones_like,
    aten.full_like,
    aten.empty_like,
)
_WAYS = 16  # through a module with conditions on data
_RESIZES = (aten.squeeze, aten.unsqueeze, aten.squeeze_, aten.unsqueeze_)


@dataclass
class Traces:
    """The result of tracing.

    Args:
        units: The units, united as the module's operators demand.
        axes: Labels of each parameter and buffer that was used, by name.
        left_fixed: What kept units in place that might have moved: operators without a rule, and writes into parts of
            tensors.
        random: The operator that draws random numbers in evaluation mode, and where it is; None if there is none.
    """

    units: Units
    axes: dict[str, Labels]
    left_fixed: list[str]
    random: str | None = None


def run(module: nn.Module, inputs: Tree, precision: Precision = EXACT, *, fix_unknown: bool) -> Traces:
    """Trace a module in evaluation mode and with its normalisation in training mode.

    Args:
        module: The module; a copy of it runs.
        inputs: A batch of inputs, or all arguments of forward, as in `weightspace.networks.calling`.
        precision: In which type of number the module runs.
        fix_unknown: Whether units that meet an operator without a rule stay in place instead of an error.

    Raises:
        InputError: The module computes something that no rule describes, or its control flow depends on data otherwise
            than by a few conditions.
    """
    name = type(module).__name__
    module, inputs = precision.module(module), precision.inputs(inputs)
    training_mode(module, False)
    with torch.no_grad(), precision.kept(), _ordinary_kernels(module):
        call(module, copy.deepcopy(inputs))
    tracer = _Tracer(module, fix_unknown)
    for training in (False, True):
        training_mode(module, training)
        tracer.training = training
        # Every way through the module: from each condition on data the other one, too.
        ways: list[tuple[bool, ...]] = [()]
        for count, way in enumerate(ways):
            if count == _WAYS:
                raise InputError(
                    f"{name} has control flow that depends on data, with more than {_WAYS} ways through it, so that it "
                    "cannot be traced. Write the symmetry by hand (symmetry=)"
                )
            taken = _trace_one_way(tracer, module, inputs, way, precision)
            ways += [(*taken[:i], not taken[i]) for i in range(len(way), len(taken))]
    tracer.units.tighten()
    unused = sorted({name for name, _ in module.named_parameters()} - set(tracer.named()))
    if tracer.numbers and unused:
        raise InputError(
            f"{name} makes numbers of its inputs ({tracer.numbers[0]}), and {unused[0]} was not used: with other "
            "inputs it may be. Give an example that uses all parameters, or write the symmetry by hand (symmetry=)"
        )
    return Traces(tracer.units, tracer.named(), list(dict.fromkeys(tracer.left_fixed)), tracer.random)


def _trace_one_way(
    tracer: "_Tracer", module: nn.Module, inputs: Tree, way: tuple[bool, ...], precision: Precision
) -> list[bool]:
    """Trace a pass in which the first conditions on data have these outcomes; those of all its conditions."""
    name = type(module).__name__
    arguments = copy.deepcopy(inputs)
    for tensor in tensors_within(arguments, "the example"):
        tracer.add_input(tensor)
    with torch.no_grad(), precision.kept(), _ordinary_kernels(module):
        handles = tracer.follow(module, way)
        try:
            with SeesValues(tracer.known, tracer.place), tracer:
                outputs = call(module, arguments)
        except InputError:
            raise
        except Exception as error:
            if way:  # the module refuses what it would never meet on this way
                return tracer.taken
            raise InputError(f"{name} cannot be traced: {error!r}. Write the symmetry by hand (symmetry=)") from error
        finally:
            for handle in handles:
                handle.remove()
    tracer.follow_replaced(module)
    tensors = tensors_within(without_caches(outputs))
    if not tensors:
        raise InputError(f"{name} returned no tensor but a {type(outputs).__name__}")
    for output in tensors:
        tracer.pin(output)
    return tracer.taken


@contextmanager
def _ordinary_kernels(module: nn.Module) -> Iterator[None]:
    """No fused kernels for whole layers: their operators are to be seen."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    recurrent = any(isinstance(m, nn.RNNBase) for m in module.modules())
    before = torch.backends.mkldnn.set_flags(_enabled=False)[0] if recurrent else None
    try:
        yield
    finally:
        if before is not None:
            torch.backends.mkldnn.set_flags(_enabled=before)
        torch.backends.mha.set_fastpath_enabled(fast)


class _Tracer(OperatorMode):
    def __init__(self, module: nn.Module, fix_unknown: bool) -> None:
        super().__init__()
        self.units = Units()
        self.fix_unknown = fix_unknown
        self.left_fixed: list[str] = []
        self._labels: Any = WeakIdKeyDictionary()
        self._names: dict[int, str] = {}
        self._own: dict[str, Tensor] = {}
        self._where: list[str] = []
        self.way: tuple[bool, ...] = ()
        self.taken: list[bool] = []
        self.training = False
        self.random: str | None = None  # what draws random numbers in evaluation mode
        self.numbers: list[str] = []  # what makes numbers of inputs
        self._written_to: dict[int, Any] = {}  # memory of constants that data were written into
        self._kernels = convolution_groups(module)
        for name, tensor in module.state_dict(keep_vars=True).items():
            if id(tensor) not in self._names:
                self._names[id(tensor)] = name
                self._own[name] = tensor

    def follow(self, module: nn.Module, way: tuple[bool, ...]) -> list[Any]:
        """Know inside which layer an operator runs, and how the first conditions on data come out."""
        self.way, self.taken = way, []
        self._where.clear()

        def enter(name: str) -> Callable[..., None]:
            return lambda *_: self._where.append(name)

        def leave(*_: Any) -> None:
            self._where.pop()

        handles: list[Any] = []
        for name, child in module.named_modules():
            handles.append(child.register_forward_pre_hook(enter(name)))
            handles.append(child.register_forward_hook(leave))
        return handles

    def known(self, tensor: Tensor) -> bool:
        """Whether no permutation changes a tensor, and it holds whole numbers if it is of the inputs."""
        labels = self.labels(tensor)
        return labels.constant or (labels.given and not tensor.is_floating_point() and tensor.dtype is not torch.bool)

    def add_input(self, tensor: Tensor) -> None:
        """An input: the order along each of its axes means something."""
        self._labels[tensor] = Labels([FIXED] * tensor.ndim, given=True)

    def follow_replaced(self, module: nn.Module) -> None:
        """A buffer that the module replaced by another tensor goes with it."""
        for name, tensor in module.state_dict(keep_vars=True).items():
            old = self._own.get(name)
            if old is not None and tensor is not old and tensor in self._labels and tensor.is_floating_point():
                new, before = self._labels[tensor], self.labels(old)
                for k, (a, b) in enumerate(zip(new.axes, before.axes, strict=True)):
                    self.units.combine([a, b], [k, k])

    def named(self) -> dict[str, Labels]:
        return {name: self._labels[tensor] for name, tensor in self._own.items() if tensor in self._labels}

    def labels(self, tensor: Tensor) -> Labels:
        """The labels of any tensor: a parameter's axes are new units at first, constants have none."""
        if tensor not in self._labels:
            name = self._names.get(id(tensor))
            statistic = name is not None and tensor.is_floating_point() and tensor.ndim > 0
            if name is not None and (isinstance(tensor, nn.Parameter) or statistic):
                self._labels[tensor] = self._fresh(tensor)
            elif memory(tensor) in self._written_to:
                return Labels([ANY if size == 1 else LOST for size in tensor.shape])
            else:  # not kept: a constant can still be written to
                return Labels([_constant_axis(tensor, k) for k in range(tensor.ndim)], constant=True)
        return self._labels[tensor]

    def _fresh(self, tensor: Tensor, groups: int = 1) -> Labels:
        axes: list[Label] = []
        for k, size in enumerate(tensor.shape):
            if size == 1:
                axes.append(ANY)
            elif k > 1 and self._names[id(tensor)] in self._kernels:
                axes.append(FIXED)
            elif k == 1 and (groups := max(groups, self._kernels.get(self._names[id(tensor)], 1))) > 1:
                # Grouped convolution: each block of rows reads units of its own.
                fresh = self.units.new(groups, 1, size).repeat(tensor.shape[0] // groups, 1)
                axes.append(fresh.reshape(tensor.shape[0], size, *[1] * (tensor.ndim - 2)))
            else:
                axes.append(self.units.new(*(size if d == k else 1 for d in range(tensor.ndim))))
        if groups == 1 and tensor.ndim > 1:
            self.units.own(axes)
        return Labels(axes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet is aten.convolution and args[8] > 1 and id(args[1]) in self._names and args[1] not in self._labels:
            self._labels[args[1]] = self._fresh(args[1], args[8])
        if self.random is None and not self.training and _draws(func, kwargs):
            self.random = f"{packet} {self.place()}"
        operands: list[Traced] = []

        def traced(tensor: Tensor) -> Traced:
            one = Traced(tensor, tuple(tensor.shape), self.labels(tensor), id(tensor) in self._names)
            operands.append(one)
            return one

        wrapped, options = tree_map_only(Tensor, traced, (args, kwargs))
        constant = all(one.labels.constant for one in operands)
        if packet is aten._local_scalar_dense and not constant and args[0].dtype is torch.bool:
            return self._decided(func, args[0])
        given = all(one.labels.untouched for one in operands)
        if packet in _MAKES_NUMBERS and given and not constant and not args[0].is_floating_point():
            self.numbers.append(f"{packet} {self.place()}")
        elif packet in _MAKES_NUMBERS and not constant:
            raise InputError(
                f"an operator {self.place()} turns a tensor into a number or a length ({packet}): control flow that "
                "depends on data cannot be traced. Write the symmetry by hand (symmetry=)"
            )
        out = func(*args, **kwargs)
        outputs = [o for o in (out if isinstance(out, tuple | list) else [out]) if isinstance(o, Tensor)]
        if constant or packet in _FACTORIES:
            return out  # the labels of constants are read off their values
        output_labels = self._apply(func, operands, wrapped, options, outputs)
        linear_rules.follow(self.units, packet, operands, wrapped, options, output_labels)
        for tensor, labels in zip(outputs, output_labels, strict=False):
            if len(labels.axes) != tensor.ndim:
                raise AssertionError(f"the rule for {packet} gave {len(labels.axes)} labels for {tuple(tensor.shape)}")
            labels.given = labels.given or given
            labels.axes = [ANY if size == 1 else axis for axis, size in zip(labels.axes, tensor.shape, strict=True)]
            self._store(tensor, labels, operands)
        for tensor in outputs[len(output_labels) :]:
            self._labels[tensor] = Labels([ANY if size == 1 else FIXED for size in tensor.shape], given=given)
        return out

    def _decided(self, func: Any, condition: Tensor) -> bool:
        """The outcome of a condition on data, which no permutation may change; a change of sign might."""
        self.pin(condition)
        self.units.unflippable.update(self.units.all().tolist())
        count = len(self.taken)
        self.taken.append(self.way[count] if count < len(self.way) else func(condition))
        return self.taken[-1]

    def pin(self, tensor: Tensor) -> None:
        """The units of a tensor stay where they are."""
        labels = self.labels(tensor)
        self.units.bind(labels)
        for k, label in enumerate(labels.axes):
            self.units.pin(label, k)

    def _apply(
        self, func: Any, operands: list[Traced], args: Any, options: Mapping[str, Any], outputs: list[Tensor]
    ) -> list[Labels]:
        packet = func._overloadpacket
        rule = RULES.get(packet, pointwise_signed if torch.Tag.pointwise in func.tags else None)
        if packet in _RESIZES:
            return [views.reshape(self.units, operands[0].labels, operands[0].shape, tuple(outputs[0].shape))]
        reason, cause = "no rule describes it", None
        if rule is not None:
            try:
                out = options.get("out")
                labels = rule(self.units, *args, **{key: o for key, o in options.items() if key != "out"})
                if out is not None:
                    labels = self._written_out(out, labels, outputs)
            except Untraceable as error:
                reason, cause = f"it is {error}", error
            except (ValueError, TypeError, AttributeError, IndexError, AssertionError) as error:
                reason, cause = f"its rule does not cover this use ({error!r})", error
            else:
                return labels if isinstance(labels, list) else [labels]
        if all(one.labels.plain for one in operands):
            return []
        what = f"{packet} {self.place()}"
        if not self.fix_unknown:
            names = sorted({self._names[id(one.tensor)] for one in operands if one.parameter})
            raise InputError(
                f"the operator {what} cannot be traced: {reason}"
                f"{' (parameters: ' + ', '.join(names) + ')' if names else ''}. Leave its units in place with "
                "fix_unknown=True, or write the symmetry by hand (symmetry=)"
            ) from cause
        self.left_fixed.append(f"{what}: {reason}")
        for one in operands:
            self.units.bind(one.labels)
            for k, label in enumerate(one.labels.axes):
                self.units.pin(label, k)
        return []

    def _written_out(self, out: Any, labels: Labels | list[Labels], results: list[Tensor]) -> Labels:
        """The labels of a tensor of the caller that a result is written into (out=)."""
        if not isinstance(out, Traced) or out.shape != tuple(results[0].shape):
            raise Untraceable("written into tensors of the caller of another shape (out=)")
        made = labels[0] if isinstance(labels, list) else labels
        return elementwise(self.units, out, Traced(results[0], out.shape, made, False))

    def _store(self, tensor: Tensor, labels: Labels, operands: list[Traced]) -> None:
        before = next((one for one in operands if one.tensor is tensor), None)
        if before is not None and before.labels.constant:
            if not labels.plain and tensor._is_view():
                self.left_fixed.append(f"a write {self.place()} into a part of a constant tensor")
                for k, label in enumerate(labels.axes):
                    self.units.pin(label, k)
            self._written_to[memory(tensor)] = tensor.untyped_storage()
        if before is not None and before.labels.given and not labels.given:
            for other in [o for o in list(self._labels) if memory(o) == memory(tensor)]:
                self._labels[other].given = False
        if before is not None and not identical(before.labels.axes, labels.axes):
            self._written(tensor, before.labels, labels)
        if before is None or id(tensor) not in self._names:
            self._labels[tensor] = labels

    def _written(self, tensor: Tensor, before: Labels, after: Labels) -> None:
        """After a write in place the labels of other views of the same memory hold no longer."""
        others = [o for o in list(self._labels) if o is not tensor and memory(o) == memory(tensor)]
        same = all(
            isinstance(a, str) if isinstance(b, str) else not isinstance(a, str) and np.array_equal(a, b)
            for a, b in zip(before.axes, after.axes, strict=True)
        )
        for other in others:
            old = self._labels[other]
            if not same:
                for k, label in enumerate(old.axes):
                    self.units.pin(label, k)
            keep = [axis if same and not isinstance(axis, str) else FIXED for axis in old.axes]
            self._labels[other] = Labels(
                [ANY if size == 1 else axis for size, axis in zip(other.shape, keep, strict=True)], old.pending
            )
        if others and not same:
            self.left_fixed.append(f"a write {self.place()} into a view of another tensor")
            for k, label in enumerate(after.axes):
                self.units.pin(label, k)

    def place(self) -> str:
        """Where in the module an operator runs, for messages."""
        return f"in layer {self._where[-1]!r}" if self._where and self._where[-1] else "in the module's own forward"


def _constant_axis(tensor: Tensor, k: int) -> Label:
    """ANY where nothing varies along an axis."""
    if tensor.shape[k] <= 1:
        return ANY
    first = tensor.narrow(k, 0, 1)
    same = (tensor == first) | ((tensor != tensor) & (first != first))
    return ANY if bool(same.all()) else LOST


def _draws(func: Any, options: Mapping[str, Any]) -> bool:
    """Whether an operator draws from the global generator; dropout is passed over before it gets here."""
    seeded = torch.Tag.nondeterministic_seeded in func.tags and options.get("generator") is None
    return seeded and "attention" not in func.name()
