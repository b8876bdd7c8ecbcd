"""Bench: how fast sparse networks run, layer by layer and whole, over batch sizes: first correct, then timed."""

import itertools
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import nn

from weightspace.networks.calling import call
from weightspace.runtime import trees
from weightspace.runtime.copies import copied
from weightspace.runtime.progress import progress
from weightspace.runtime.trees import Tree
from weightspace.sparse.accelerate import Accelerated, LayerChoice, accelerate
from weightspace.sparse.forms import Form
from weightspace.sparse.measuring import call_seconds, relative_error

_CACHE = 128 * 2**20  # inputs in turn fill more than the card's cache


@dataclass(frozen=True)
class Timing:
    """How fast a network or one of its layers runs in one form.

    Args:
        network: Name of the network.
        part: Name of a layer, or "network".
        batch: Number of inputs in a call.
        density: Fraction of the weights that are not zero.
        form: What ran: a form of a layer (`weightspace.sparse.Form`), or of the network.
        milliseconds: Median of a call.
        lower: Lower quartile of the same, in milliseconds.
        upper: Upper quartile of the same, in milliseconds.
        dense: Median of the dense form in the same turns, in milliseconds.
        error: Largest error against float64, relative to the largest output; NaN for single layers, whose forms are
            checked when they are made.
        megabytes: Size of weights and buffers as they are held.
        limit: Speed-up that the hardware or the number of products allows.
    """

    network: str
    part: str
    batch: int
    density: float
    form: str
    milliseconds: float
    lower: float
    upper: float
    dense: float
    error: float
    megabytes: float
    limit: float

    @property
    def speedup(self) -> float:
        """How many times as fast as the dense form it is."""
        return self.dense / self.milliseconds

    def to_json(self) -> dict[str, object]:
        """A row of a table."""
        return {
            **vars(self),
            "speedup": self.speedup,
            "share_of_limit": self.speedup / self.limit,
            "per_second": 1000 * self.batch / self.milliseconds,
        }


def bench(
    name: str,
    module: nn.Module,
    inputs: Callable[[int], Tree],
    batches: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    compiled: bool = True,
    int8: bool = False,
) -> tuple[list[Timing], list[Accelerated]]:
    """Time a network over batch sizes: dense, compiled and accelerated.

    Args:
        name: Name of the network in the table.
        module: Module of a ticket, or any; it is left as it is.
        inputs: Makes a batch of a number of inputs: a tensor, a tuple of all inputs, or a mapping of them by name.
        batches: Batch sizes.
        dtype: Type to run in.
        device: Device to run on.
        compiled: Whether `torch.compile` of the dense module is timed too, where a compiler is found.
        int8: Whether products in eight-bit integers are timed too, on CUDA, as a form of its own, as it rounds.

    Returns:
        The timings, and the accelerated module of each batch size with its choices.
    """
    plain = copied(module).to(device=device, dtype=dtype).eval().requires_grad_(False)
    rows: list[Timing] = []
    accelerated: list[Accelerated] = []
    for batch in progress(batches, f"timing {name}"):
        x = trees.cast(trees.to(inputs(batch), device), dtype)
        fast = accelerate(plain, x)
        rounded = accelerate(plain, x, int8=True) if int8 else None
        accelerated.append(fast)
        rows += _network_timings(name, module, plain, x, fast, rounded, compiled)
        rows += _layer_timings(name, batch, fast, rounded, dtype, trees.first(x).is_cuda)
    return rows, accelerated


def _network_timings(
    name: str,
    module: nn.Module,
    plain: nn.Module,
    x: Tree,
    fast: Accelerated,
    rounded: Accelerated | None,
    compiled: bool,
) -> list[Timing]:
    """Of the whole network in each form."""
    weights = [p for p in plain.parameters() if p.ndim > 1]
    density = sum(float((p != 0).sum()) for p in weights) / sum(p.numel() for p in weights)
    dense_bytes = sum(t.nbytes for t in itertools.chain(plain.parameters(), plain.buffers()))
    cuda = trees.first(x).is_cuda
    inputs_in_turn = _turns(x, cuda)
    forms: dict[str, Callable[[Tree], Tree]] = {"dense": partial(call, plain), "accelerated": fast}
    accelerated = {"accelerated": fast}
    if rounded is not None:
        forms["accelerated, int8"] = accelerated["accelerated, int8"] = rounded
    if compiled:
        forms |= _compiled(plain, x)
    with torch.no_grad():
        turns = call_seconds({form: _call(work, inputs_in_turn) for form, work in forms.items()}, cuda=cuda)
    dense = 1000 * statistics.median(turns["dense"])
    rows: list[Timing] = []
    for form, work in forms.items():
        one = accelerated.get(form)
        size = dense_bytes if one is None else one.nbytes
        limit = 1.0 if one is None else _limit([choice.form for choice in one.choices], density, cuda)
        error = relative_error(work, module, trees.take(x, slice(64)))
        milliseconds = _spread(turns[form])
        rows.append(
            Timing(name, "network", fast.batch_size, density, form, *milliseconds, dense, error, size / 1e6, limit)
        )
    return rows


def _layer_timings(
    name: str, batch: int, fast: Accelerated, rounded: Accelerated | None, dtype: torch.dtype, cuda: bool
) -> list[Timing]:
    """Of each layer in each form that was tried."""
    tried = [(choice, form, turns) for choice in fast.choices for form, turns in choice.turns.items()]
    for choice in rounded.choices if rounded is not None else ():
        tried += [(choice, form, turns) for form, turns in choice.turns.items() if form.int8]
    rows: list[Timing] = []
    for choice, form, turns in tried:
        dense, limit = 1000 * choice.seconds[Form.DENSE], _limit([form], choice.density, cuda)
        size, milliseconds = _megabytes(choice, form, dtype), _spread(turns)
        error = float("nan")
        rows.append(
            Timing(name, choice.layer, batch, choice.density, str(form), *milliseconds, dense, error, size, limit)
        )
    return rows


def two_four_blocks(dtype: torch.dtype) -> dict[str, tuple[nn.Module, int]]:
    """Modules of common sizes under 2:4 with the length of their inputs, by name, to be timed on a card.

    Square layers, blocks of a ViT-L and of a Llama-sized MLP, and LeNet-300-100, which is too small to gain.

    Args:
        dtype: Type of the weights.
    """

    def linear(inputs: int, outputs: int) -> nn.Linear:
        layer = nn.Linear(inputs, outputs, bias=False, dtype=dtype)
        groups = layer.weight.data.unflatten(1, (-1, 4))
        groups *= torch.zeros_like(groups).scatter_(2, groups.abs().topk(2, dim=2).indices, 1.0)
        return layer

    modules: dict[str, tuple[nn.Module, int]] = {
        f"square layer of {size}": (linear(size, size), size) for size in (1024, 2048, 4096, 8192)
    }
    modules["layer 16384 x 2048"] = (linear(2048, 16384), 2048)
    for name, width, hidden in (
        ("ViT-L block, 1024-4096-1024", 1024, 4096),
        ("Llama block, 4096-11008-4096", 4096, 11008),
    ):
        modules[name] = (nn.Sequential(linear(width, hidden), nn.GELU(), linear(hidden, width)), width)
    small = nn.Sequential(linear(784, 300), nn.ReLU(), linear(300, 100), nn.ReLU(), linear(100, 10))
    modules["LeNet-300-100"] = (small, 784)
    return modules


def _turns(x: Tree, cuda: bool) -> Iterator[Tree]:
    """The same inputs on the CPU; on a card as many copies as its cache does not hold."""
    count = max(1, -(-_CACHE // max(1, sum(t.nbytes for t in trees.tensors(x))))) if cuda else 1
    return itertools.cycle([trees.apply(torch.clone, x) for _ in range(min(count, 1024))])


def _call(work: Callable[[Tree], Tree], turns: Iterator[Tree]) -> Callable[[], Tree]:
    return lambda: work(next(turns))


def _compiled(module: nn.Module, x: Tree) -> dict[str, Callable[[Tree], Tree]]:
    """`torch.compile` of the dense module; nothing where no compiler works."""
    try:
        torch._dynamo.reset()  # otherwise later sizes run a graph for any size, and the ninth module none
        whole = partial(call, cast(nn.Module, torch.compile(module, dynamic=False)))
        with torch.no_grad():
            whole(x)
    except Exception as error:  # whatever a tool chain raises
        warnings.warn(f"torch.compile is left out: {str(error).splitlines()[0][:120]}", stacklevel=2)
        return {}
    return {"dense, torch.compile": whole}


def _spread(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Median and quartiles, in milliseconds."""
    lower, median, upper = statistics.quantiles(seconds, n=4)
    return 1000 * median, 1000 * lower, 1000 * upper


def _limit(forms: Sequence[Form], density: float, cuda: bool) -> float:
    """Speed-up that sparsity allows.

    On a card twice the rate for 2:4, twice again in eight bits; on the CPU as the number of products falls.
    """
    if all(form is Form.DENSE for form in forms):
        return 1.0
    if not cuda:
        return 1 / max(density, 1e-9)
    return max((2.0 if form.two_four else 1.0) * (2.0 if form.int8 else 1.0) for form in forms)


def _megabytes(choice: LayerChoice, form: Form, dtype: torch.dtype) -> float:
    """Of a layer in a form: 2:4 has 36 of 64 bits, in int8 20 of 32; rows have values, and indices of 8 or 4 bytes."""
    count = 1
    for size in choice.shape:
        count *= size
    if form in (Form.CSR, Form.COMPILED):
        index = 8 if form is Form.CSR else 4
        return (choice.density * count * (dtype.itemsize + index) + 8 * (choice.shape[0] + 1)) / 1e6
    if form.int8:
        return count * (0.625 if form.two_four else 1.0) / 1e6
    return count * dtype.itemsize * (1.0 if form is Form.DENSE else 0.5625) / 1e6
