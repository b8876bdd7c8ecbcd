"""Accelerate: for every layer the fastest of its executable forms, measured where it will run."""

import copy
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.networks import calling
from weightspace.networks.arguments import check_inputs, check_module
from weightspace.networks.sparse_module import holds_sparse
from weightspace.runtime import checks, devices, trees
from weightspace.runtime.outputs import difference
from weightspace.runtime.trees import Tree
from weightspace.sparse.forms import CSRLinear, Form, MakeForm, other_forms
from weightspace.sparse.measuring import call_seconds, medians, versions
from weightspace.sparse.two_four import TwoFourLinear

_CLEARLY = 1.05  # a form must be so much faster than dense to be taken: measurements are noisy


@dataclass(frozen=True)
class LayerChoice:
    """What a layer became.

    Args:
        layer: Name of the layer.
        shape: Shape of its weight.
        density: Fraction of its weights that are not zero.
        form: Its form.
        turns: Seconds of a call of each form that was tried, on the layer's own inputs, measured in turns.
        reason: The reason in words.
    """

    layer: str
    shape: tuple[int, ...]
    density: float
    form: Form
    turns: Mapping[Form, Sequence[float]]
    reason: str

    @property
    def seconds(self) -> dict[Form, float]:
        """Seconds of a call of each form that was tried: medians over the turns."""
        return medians(self.turns)

    @property
    def speedup(self) -> float:
        """How many times as fast as the dense layer it is."""
        return self.seconds[Form.DENSE] / self.seconds[self.form] if self.seconds else 1.0


@dataclass(frozen=True)
class Accelerated:
    """A module to run, and what became of its layers.

    Args:
        module: The module in evaluation mode, for inference.
        choices: What became of each linear and convolution layer that ran.
        batch_size: Number of inputs in the batch it was measured with.
        versions: Versions that decide the speed.
    """

    module: nn.Module
    choices: Sequence[LayerChoice]
    batch_size: int
    versions: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, x: Tree) -> Tree:
        """What the module returns for a tensor, a tuple of all inputs, or a mapping of them by name."""
        with torch.no_grad():
            return calling.call(self.module, x)

    @property
    def nbytes(self) -> int:
        """Bytes of all layers as they are held."""
        forms = [m for m in self.module.modules() if isinstance(m, CSRLinear | TwoFourLinear)]
        inside = {id(t) for form in forms for t in form.parameters()}
        others = (t for t in itertools.chain(self.module.parameters(), self.module.buffers()) if id(t) not in inside)
        return sum(form.nbytes for form in forms) + sum(t.nbytes for t in others)

    def __str__(self) -> str:
        lines = [f"{'layer':<20}{'shape':<20}{'density':>8}  {'form':<18}{'speed-up':>9}  why"]
        for c in self.choices:
            shape = " x ".join(map(str, c.shape))
            lines.append(f"{c.layer:<20}{shape:<20}{c.density:>8.3f}  {c.form:<18}{c.speedup:>8.2f}x  {c.reason}")
        return "\n".join(lines)


def accelerate(
    module: nn.Module,
    example: Tree,
    *,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    strict: bool = False,
    int8: bool = False,
    forms: Collection[Form] | None = None,
) -> Accelerated:
    """Bring every linear and convolution layer of a network into its fastest form, for inference.

    On the CPU: compressed rows where they beat the dense layer, by torch or by a kernel that the C++ compiler makes
    when it is first needed. On CUDA: 2:4 tensors by CUTLASS or cuSPARSELt, with and without a search for its fastest
    algorithm, in bfloat16 or float16. Each form is checked against the dense layer and timed on the inputs that the
    layer gets from the example, so that batch sizes matter; dense layers stay unless another form is clearly faster. At
    the end the whole network is checked and timed against the dense one; where it does not run with the new layers,
    computes something else, or is not faster, all layers stay dense.

    Args:
        module: Module of a ticket, or any; it is left as it is.
        example: A batch of inputs, of the size that will be used: a tensor, a tuple of all inputs, or a mapping of them
            by name.
        dtype: Type to run in; by default the module's.
        device: Device to run on; by default the module's.
        strict: Whether a layer that cannot run as 2:4 is an error, instead of staying dense.
        int8: Whether products in eight-bit integers are tried too, dense and 2:4, on CUDA. They round weights and
            inputs (`weightspace.sparse.Int8Linear`). If with them the whole network computes something else, as
            errors add up over layers, it is done again without.
        forms: Forms that may be chosen besides the dense one, such as `[Form.CSR]`; by default all that there are.

    Raises:
        InputError: The module does not run on the example, the example is empty or not finite, or there is no such
            device or form. With `strict` also for float32, for weights that are not 2:4, and without CUDA.
    """
    check_module(module)
    check_inputs(example, "example")
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise checks.refuse("dtype", "a torch.dtype, such as torch.float16, or None", dtype)
    if device is not None:
        devices.pick(device)
    strict, int8 = checks.flag(strict, "strict"), checks.flag(int8, "int8")
    allowed = _allowed(forms, int8)
    dense, example = _prepared(module, example, dtype, device, strict=strict, int8=int8)
    device, dtype = str(next(dense.parameters()).device), next(dense.parameters()).dtype
    with torch.no_grad(), _inputs(dense) as seen:
        expected = calling.run(dense, example)
    choices: list[LayerChoice] = []
    replaced: dict[nn.Module, nn.Module] = {}
    for layer, (name, x) in seen.items():
        found, why = other_forms(layer, device, dtype, int8)
        made = {form: make for form, make in found.items() if form in allowed}
        chosen, choice = _choose(name, layer, made, x, _why(found, made, why, allowed))
        if strict and choice.form is Form.DENSE and not any(form.two_four for form in choice.seconds):
            raise InputError(f"layer {name or 'itself'} cannot run as 2:4: {choice.reason}")
        choices.append(choice)
        if chosen is not layer:
            replaced[layer] = chosen
    fast = _assembled(dense, replaced)
    why = "" if not replaced else _objection(dense, fast, example, expected, dtype)
    if why and int8:
        return accelerate(
            module,
            example,
            dtype=dtype,
            device=device,
            strict=strict,
            forms=[form for form in allowed if not form.int8],
        )
    if why:  # some code around a layer does not go with its new form: all stay as they were
        fast = dense
        choices = [
            replace(choice, form=Form.DENSE, reason=f"{why}, so that all layers stay dense") for choice in choices
        ]
    return Accelerated(fast, choices, len(trees.first(example)), versions())


def _why(found: Collection[Form], made: Collection[Form], why: str, allowed: Collection[Form]) -> str:
    """Why there are no more forms of a layer than those that are made."""
    others = ", ".join(form for form in Form if form in allowed and form is not Form.DENSE)
    if not others:
        return "only dense was asked for"
    return why if made or (why and not found) else f"none of the forms asked for fits it here: {others}"


def _allowed(forms: Collection[Form] | None, int8: bool) -> set[Form]:
    """The forms that may be chosen; anything else raises InputError."""
    if forms is None:
        return set(Form)
    known = ", ".join(repr(str(form)) for form in Form)
    if isinstance(forms, str) or not isinstance(forms, Collection):
        raise checks.refuse("forms", f"a list of forms, out of {known}, or None", forms)
    unknown = [form for form in forms if form not in set(Form)]
    if unknown:
        raise InputError(f"forms must be out of {known}, got {unknown[0]!r}")
    allowed = {Form(form) for form in forms}
    if not int8 and any(form.int8 for form in allowed):
        raise InputError("forms in eight-bit integers round weights and inputs: ask for them with int8=True, too")
    return allowed


def _prepared(
    module: nn.Module, example: Tree, dtype: torch.dtype | None, device: str | None, *, strict: bool, int8: bool
) -> tuple[nn.Module, Tree]:
    """A frozen copy of the module, and the example, where and as they will run."""
    first = next(module.parameters(), None)
    if first is None:
        raise InputError(f"{type(module).__name__} has no parameters: there is nothing to make faster")
    dtype, device = dtype or first.dtype, devices.pick(device) if device else str(first.device)
    halves = device.startswith("cuda") and dtype in (torch.bfloat16, torch.float16)
    if strict and not halves:
        raise InputError(
            f"strict asks for 2:4 in every layer, which needs CUDA and bfloat16 or float16; got {device} and "
            f"{str(dtype).removeprefix('torch.')}"
        )
    if int8 and not halves:
        raise InputError(
            "products in eight-bit integers need CUDA and bfloat16 or float16 around them; got "
            f"{device} and {str(dtype).removeprefix('torch.')}"
        )
    try:
        dense = copy.deepcopy(module)
    except RuntimeError as error:
        raise InputError(
            f"{type(module).__name__} cannot be copied ({error}): make pruning by torch.nn.utils.prune permanent "
            "first, by prune.remove"
        ) from error
    if not len(trees.first(example)) or not trees.finite(example):
        raise InputError(f"the example is a batch of at least one input, all finite; got shape {trees.shapes(example)}")
    dense = dense.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return dense, trees.cast(trees.to(example, device), dtype)


def _assembled(dense: nn.Module, replaced: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """A copy of a module with some of its layers replaced, under all of their names."""
    if dense in replaced:
        return replaced[dense]
    memo: dict[int, Any] = {id(layer): chosen for layer, chosen in replaced.items()}
    return copy.deepcopy(dense, memo)


def _objection(dense: nn.Module, fast: nn.Module, example: Tree, expected: Tree, dtype: torch.dtype) -> str:
    """Why the network as a whole cannot be run with its new layers; empty if it can."""
    with torch.no_grad():
        try:
            outputs = calling.call(fast, example)
        except Exception as error:  # whatever the module's own code raises
            return f"with them the network does not run ({type(error).__name__}: {str(error).splitlines()[0][:80]})"
        if difference(outputs, expected) > (5e-2 if dtype in (torch.bfloat16, torch.float16) else 1e-4):
            return "with them the network computes something else"
        work = {"dense": lambda: calling.call(dense, example), "fast": lambda: calling.call(fast, example)}
        seconds = medians(call_seconds(work, cuda=trees.first(example).is_cuda))
    return "" if seconds["fast"] < seconds["dense"] else "as a whole the network is not faster with them"


@contextmanager
def _inputs(module: nn.Module) -> Iterator[dict[nn.Module, tuple[str, Tensor]]]:
    """First inputs of the linear and convolution layers that run, with the layers' names."""
    seen: dict[nn.Module, tuple[str, Tensor]] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor]], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            seen.setdefault(layer, (name, (*inputs, *named.values())[0].detach()))

        return hook

    # Subclasses may use their weight in ways of their own, and hooks belong to a layer as it is; those that keep a
    # ticket's pruned weights at zero while it trains have done their work.
    layers = [
        (name, layer)
        for name, layer in module.named_modules()
        if type(layer) in (nn.Linear, nn.Conv2d)
        and isinstance(layer._parameters.get("weight"), nn.Parameter)
        and all(holds_sparse(hook) for hook in (*layer._forward_hooks.values(), *layer._forward_pre_hooks.values()))
    ]
    handles = [layer.register_forward_pre_hook(keep(name), with_kwargs=True) for name, layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _choose(
    name: str, layer: nn.Module, forms: Mapping[Form, MakeForm], x: Tensor, why: str
) -> tuple[nn.Module, LayerChoice]:
    """The fastest form, which is the dense layer unless another is clearly faster and computes the same."""
    weight = layer.get_parameter("weight")
    density = float((weight != 0).double().mean())

    def choice(form: Form, turns: Mapping[Form, Sequence[float]], reason: str) -> LayerChoice:
        return LayerChoice(name, tuple(weight.shape), density, form, turns, reason)

    made: dict[Form, nn.Module] = {Form.DENSE: layer}
    failed: list[str] = []
    with torch.no_grad():
        expected = layer(x)
        scale = float(expected.abs().max()) or 1.0
        for form, make in forms.items():
            tolerance = 1e-4 if x.dtype is torch.float32 else 5e-2 if form.int8 else 2e-2
            try:
                trial = make(x)
                error = float((trial(x) - expected).abs().max()) / scale
            except RuntimeError as problem:  # a library that is missing here, or refuses the shape
                failed.append(f"{form}: {str(problem).splitlines()[0][:60]}")
                continue
            if error <= tolerance:
                made[form] = trial
            else:
                failed.append(f"{form}: wrong by {error:.1e} of the largest output")
        if len(made) == 1:
            return layer, choice(Form.DENSE, {}, why or "; ".join(failed))
        turns = call_seconds({form: (lambda m=m: m(x)) for form, m in made.items()}, cuda=x.is_cuda)
    seconds = medians(turns)
    fastest = min(seconds, key=seconds.__getitem__)
    if fastest is not Form.DENSE and seconds[Form.DENSE] > _CLEARLY * seconds[fastest]:
        return made[fastest], choice(fastest, turns, "; ".join(["measured fastest", *failed]))
    return layer, choice(Form.DENSE, turns, "; ".join([why or "no form is clearly faster", *failed]))
