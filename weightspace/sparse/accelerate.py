"""Accelerate: for every layer the fastest of its executable forms, measured where it will run."""

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from weightspace.errors import InputError
from weightspace.kernels.csr import Rows
from weightspace.networks.forward import evaluation
from weightspace.networks.sparse_module import KeepSparse
from weightspace.runtime import devices
from weightspace.sparse.gathered import MatrixConv, as_matrix
from weightspace.sparse.int8 import Int8Linear
from weightspace.sparse.two_four import SemiLinear, is_2_4

_CLEARLY = 1.05  # a form must be so much faster than dense to be taken: measurements are noisy
_REPEATS, _SECONDS = 7, 0.02


@dataclass(frozen=True)
class Choice:
    """What a layer became.

    Args:
        layer: name of the layer.
        shape: of its weight.
        density: fraction of its weights that are not zero.
        form: "dense", "rows" (compressed rows on the CPU), "cutlass", "cusparselt" or "cusparselt, tuned"; with int8 also
            "int8", "int8, cutlass" and "int8, cusparselt".
        turns: seconds of a call of each form that was tried, on the layer's own inputs, measured in turns.
        reason: why, in words.
    """

    layer: str
    shape: tuple[int, ...]
    density: float
    form: str
    turns: Mapping[str, Sequence[float]]
    reason: str

    @property
    def seconds(self) -> dict[str, float]:
        """Medians over the turns."""
        return medians(self.turns)

    @property
    def speedup(self) -> float:
        """Over the dense layer."""
        return self.seconds["dense"] / self.seconds[self.form] if self.seconds else 1.0


class RowsLinear(nn.Module):
    """A linear layer as compressed rows, for the CPU."""

    def __init__(self, weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None) -> None:
        super().__init__()
        self.rows = Rows.of(weight != 0)
        self.values = nn.Parameter(weight.detach()[weight != 0], requires_grad=False)
        self.bias = bias if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @property
    def nbytes(self) -> int:
        """Of values, indices and bias."""
        parts = (self.values, self.rows.columns, self.rows.starts, *(() if self.bias is None else (self.bias,)))
        return sum(part.nbytes for part in parts)

    def forward(self, input: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:  # as nn.Linear calls it
        return self.rows.infer(input, self.values, self.bias)


@dataclass(frozen=True)
class Accelerated:
    """A module to run, and what became of its layers.

    Args:
        module: in evaluation mode, for inference.
        choices: one for each linear and convolution layer that ran.
        rows: of the batch it was measured with.
    """

    module: nn.Module
    choices: Sequence[Choice]
    rows: int
    versions: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.module(x)

    @property
    def nbytes(self) -> int:
        """Of all layers as they are held."""
        forms = [m for m in self.module.modules() if isinstance(m, RowsLinear | SemiLinear)]
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
    example: Tensor,
    *,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    strict: bool = False,
    int8: bool = False,
) -> Accelerated:
    """The same network with every linear and convolution layer in its fastest form, for inference.

    On the CPU: compressed rows, where they beat the dense layer. On CUDA: 2:4 tensors by CUTLASS or cuSPARSELt, with and
    without a search for its fastest algorithm, in bfloat16 or float16. Each form is checked against the dense layer and
    timed on the inputs that the layer gets from the example, so that batch sizes matter; dense layers stay unless another
    form is clearly faster. At the end the whole network is checked and timed against the dense one; where it does not run
    with the new layers, computes something else, or is not faster, all layers stay dense.

    Args:
        module: a ticket's module, or any; is left as it is.
        example: a batch of inputs, of the size that will be used.
        dtype: to run in; by default the module's.
        device: by default the module's.
        strict: raise where a layer cannot run as 2:4, instead of leaving it dense.
        int8: also try products in eight-bit integers, dense and 2:4, which round weights and inputs
            (:class:`weightspace.sparse.Int8Linear`); on CUDA. If with them the whole network computes something else, as
            errors add up over layers, it is done again without.

    Raises:
        InputError: the module does not run on the example, which is empty or not finite, or there is no such device; with
            `strict` also for float32, for weights that are not 2:4, and without CUDA.
    """
    first = next(module.parameters(), None)
    if first is None:
        raise InputError(f"{type(module).__name__} has no parameters: there is nothing to make faster")
    dtype, device = dtype or first.dtype, devices.pick(device) if device else str(first.device)
    if strict and (not device.startswith("cuda") or dtype not in (torch.bfloat16, torch.float16)):
        raise InputError(
            f"strict asks for 2:4 in every layer, which needs CUDA and bfloat16 or float16; got {device} and "
            f"{str(dtype).removeprefix('torch.')}"
        )
    if int8 and (not device.startswith("cuda") or dtype not in (torch.bfloat16, torch.float16)):
        raise InputError(
            "products in eight-bit integers need CUDA and bfloat16 or float16 around them; got "
            f"{device} and {str(dtype).removeprefix('torch.')}"
        )
    try:
        dense = copy.deepcopy(module)
    except RuntimeError as error:
        raise InputError(
            f"{type(module).__name__} cannot be copied ({error}): make pruning by torch.nn.utils.prune permanent first, by "
            "prune.remove"
        ) from error
    if not len(example) or (example.is_floating_point() and not example.isfinite().all()):
        raise InputError(f"the example is a batch of at least one input, all finite; got shape {tuple(example.shape)}")
    dense = dense.to(device=device, dtype=dtype).eval().requires_grad_(False)
    example = example.to(device=device, dtype=dtype) if example.is_floating_point() else example.to(device)
    with torch.no_grad(), _inputs(dense) as seen:
        try:
            expected = dense(example)
        except (RuntimeError, TypeError, IndexError) as error:
            raise InputError(
                f"the module does not run on an example of shape {tuple(example.shape)}: {error}"
            ) from error
    choices: list[Choice] = []
    replaced: dict[nn.Module, nn.Module] = {}
    for layer, (name, x) in seen.items():
        forms, why = _forms(layer, device, dtype, int8)
        chosen, choice = _choose(name, layer, forms, x, why)
        if strict and choice.form == "dense" and not any("cu" in form for form in choice.seconds):
            raise InputError(f"layer {name or 'itself'} cannot run as 2:4: {choice.reason}")
        choices.append(choice)
        if chosen is not layer:
            replaced[layer] = chosen
    fast = _assembled(dense, replaced)
    why = "" if not replaced else _objection(dense, fast, example, expected)
    if why and int8:
        return accelerate(module, example, dtype=dtype, device=device, strict=strict)
    if why:  # some code around a layer does not go with its new form: all stay as they were
        fast = dense
        choices = [replace(choice, form="dense", reason=f"{why}, so that all layers stay dense") for choice in choices]
    return Accelerated(fast, choices, len(example), versions())


def _assembled(dense: nn.Module, replaced: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """A copy of a module with some of its layers replaced, under all of their names."""
    if dense in replaced:
        return replaced[dense]
    memo: dict[int, Any] = {id(layer): chosen for layer, chosen in replaced.items()}
    return copy.deepcopy(dense, memo)


def _objection(dense: nn.Module, fast: nn.Module, example: Tensor, expected: Any) -> str:
    """Why the network as a whole cannot be run with its new layers; empty if it can."""
    leaves = [one for one in tree_leaves(expected) if isinstance(one, Tensor)]
    with torch.no_grad():
        try:
            found = [one for one in tree_leaves(fast(example)) if isinstance(one, Tensor)]
        except Exception as error:  # whatever the module's own code raises
            return f"with them the network does not run ({type(error).__name__}: {str(error).splitlines()[0][:80]})"
        tolerance = 1e-4 if example.dtype is torch.float32 else 5e-2
        for a, b in zip(found, leaves, strict=True):
            if a.shape != b.shape or float((a - b).abs().max()) > tolerance * max(float(b.abs().max()), 1e-30):
                return "with them the network computes something else"
        work = {"dense": lambda: dense(example), "fast": lambda: fast(example)}
        seconds = medians(measured(work, cuda=example.is_cuda))
    return "" if seconds["fast"] < seconds["dense"] else "as a whole the network is not faster with them"


def versions() -> dict[str, str]:
    """Of what decides the speed."""
    found = {"torch": torch.__version__, "threads": str(torch.get_num_threads())}
    if torch.cuda.is_available():
        found |= {"device": torch.cuda.get_device_name(), "cuSPARSELt": str(torch.backends.cusparselt.version())}
    return found


@contextmanager
def _inputs(module: nn.Module) -> Iterator[dict[nn.Module, tuple[str, Tensor]]]:
    """First inputs of the linear and convolution layers that run, with the layers' names."""
    seen: dict[nn.Module, tuple[str, Tensor]] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor]], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            seen.setdefault(layer, (name, (*inputs, *named.values())[0].detach()))

        return hook

    # Subclasses may use their weight in ways of their own, and hooks belong to a layer as it is; those that keep a ticket's
    # pruned weights at zero while it trains have done their work.
    layers = [
        (name, layer) for name, layer in module.named_modules()
        if type(layer) in (nn.Linear, nn.Conv2d) and isinstance(layer._parameters.get("weight"), nn.Parameter)
        and not layer._forward_hooks and all(isinstance(h, KeepSparse) for h in layer._forward_pre_hooks.values())
    ]  # fmt: skip
    handles = [layer.register_forward_pre_hook(keep(name), with_kwargs=True) for name, layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _forms(
    layer: nn.Module, device: str, dtype: torch.dtype, int8: bool
) -> tuple[dict[str, Callable[[Tensor], nn.Module]], str]:
    """Executable forms of a layer besides the dense one, each made for an input; and why there are no more."""
    weight, bias = layer.get_parameter("weight"), getattr(layer, "bias", None)
    conv = layer if isinstance(layer, nn.Conv2d) else None
    if conv is not None and not MatrixConv.takes(conv):
        return {}, "a grouped convolution, or one with a padding of its own"

    def form(linear: Callable[[Tensor, Tensor | None], nn.Module]) -> nn.Module:
        return linear(weight, bias) if conv is None else MatrixConv(conv, linear)

    if not device.startswith("cuda"):
        if dtype is not torch.float32:
            return {}, "compressed rows are for float32"
        return {"rows": lambda _x: form(RowsLinear)}, ""
    if dtype not in (torch.bfloat16, torch.float16):
        return {}, f"2:4 needs bfloat16 or float16, not {str(dtype).removeprefix('torch.')}"
    rounded = {"int8": lambda _x: form(lambda w, b: Int8Linear(w, b, "dense"))} if int8 else {}
    if conv is not None and weight.shape[1] % 4:
        return rounded, f"{weight.shape[1]} input channels, not a multiple of 4"
    if not is_2_4(as_matrix(weight)):
        return rounded, "the weights are not 2:4"
    if int8:
        rounded["int8, cutlass"] = lambda _x: form(lambda w, b: Int8Linear(w, b, "cutlass"))
        rounded["int8, cusparselt"] = lambda _x: form(lambda w, b: Int8Linear(w, b, "cusparselt"))
    return rounded | {
        "cutlass": lambda _x: form(lambda w, b: SemiLinear(w, b, "cutlass")),
        "cusparselt": lambda _x: form(lambda w, b: SemiLinear(w, b, "cusparselt")),
        "cusparselt, tuned": lambda x: form(lambda w, b: SemiLinear(w, b, "cusparselt", tuned=_rows(layer, x))),
    }, ""


def _rows(layer: nn.Module, x: Tensor) -> int:
    """Rows of the matrix that a layer multiplies."""
    return x.shape[:-1].numel() if isinstance(layer, nn.Linear) else len(x) * layer(x)[0, 0].numel()


def _choose(
    name: str, layer: nn.Module, forms: Mapping[str, Callable[[Tensor], nn.Module]], x: Tensor, why: str
) -> tuple[nn.Module, Choice]:
    """The fastest form, which is the dense layer unless another is clearly faster and computes the same."""
    weight = layer.get_parameter("weight")
    density = float((weight != 0).double().mean())

    def choice(form: str, turns: Mapping[str, Sequence[float]], reason: str) -> Choice:
        return Choice(name, tuple(weight.shape), density, form, turns, reason)

    made: dict[str, nn.Module] = {"dense": layer}
    failed: list[str] = []
    with torch.no_grad():
        expected = layer(x)
        scale = float(expected.abs().max()) or 1.0
        for form, make in forms.items():
            tolerance = 1e-4 if x.dtype is torch.float32 else 5e-2 if form.startswith("int8") else 2e-2
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
            return layer, choice("dense", {}, why or "; ".join(failed))
        turns = measured({form: (lambda m=m: m(x)) for form, m in made.items()}, cuda=x.is_cuda)
    seconds = medians(turns)
    fastest = min(seconds, key=seconds.__getitem__)
    if fastest != "dense" and seconds["dense"] > _CLEARLY * seconds[fastest]:
        return made[fastest], choice(fastest, turns, "; ".join(["measured fastest", *failed]))
    return layer, choice("dense", turns, "; ".join([why or "no form is clearly faster", *failed]))


def medians(turns: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Of what :func:`measured` found."""
    return {name: statistics.median(own) for name, own in turns.items()}


def measured(work: Mapping[str, Callable[[], object]], *, cuda: bool = False) -> dict[str, list[float]]:
    """Seconds of one call of each, turn by turn; a turn is as many calls as take a few hundredths of a second."""
    calls: dict[str, int] = {}
    for name, call in work.items():
        call()
        calls[name] = max(1, min(1000, round(_SECONDS / max(_once(call, 1, cuda), 1e-7))))
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(_REPEATS):
        for name, call in work.items():
            times[name].append(_once(call, calls[name], cuda))
    return times


def _once(call: Callable[[], object], count: int, cuda: bool) -> float:
    if cuda:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            call()
        stop.record()
        torch.cuda.synchronize()
        return start.elapsed_time(stop) / 1000 / count
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count


def relative_error(module: Callable[[Tensor], Tensor], reference: nn.Module, x: Shaped[Tensor, "n ..."]) -> float:
    """Largest error against the reference in float64, over its largest output."""
    exact = copy.deepcopy(reference).double().cpu()
    with torch.no_grad(), evaluation(exact):
        expected = exact(x.double().cpu() if x.is_floating_point() else x.cpu())
        found = module(x).double().cpu()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))
