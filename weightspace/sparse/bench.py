"""Bench: how fast sparse networks run, layer by layer and whole, over batch sizes: first correct, then timed."""

import copy
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from weightspace.runtime.progress import progress
from weightspace.sparse.accelerate import Accelerated, Choice, accelerate, measured, relative_error

_CACHE = 128 * 2**20  # inputs in turn fill more than the card's cache


@dataclass(frozen=True)
class Row:
    """One measurement.

    Args:
        network: its name.
        part: a layer, or "network".
        batch: inputs in a call.
        density: fraction of the weights that are not zero.
        form: what ran.
        milliseconds: median of a call.
        lower, upper: quartiles of the same.
        dense: median of the dense form, in the same turns.
        error: relative to float64, of the largest output; NaN for single layers, whose forms are checked when made.
        megabytes: of weights and buffers, as they are held.
        limit: the speed-up that the hardware or the number of products allows.
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
        return self.dense / self.milliseconds

    def to_json(self) -> dict[str, object]:
        """As a row of a table."""
        return {**vars(self), "speedup": self.speedup, "share_of_limit": self.speedup / self.limit,
                "per_second": 1000 * self.batch / self.milliseconds}  # fmt: skip


def bench(
    name: str, module: nn.Module, inputs: Callable[[int], Tensor], batches: Sequence[int], *,
    dtype: torch.dtype = torch.float32, device: str = "cpu", compiled: bool = True, int8: bool = False,
) -> tuple[list[Row], list[Accelerated]]:  # fmt: skip
    """Dense, compiled and accelerated, over batch sizes.

    Args:
        name: for the table.
        module: of a ticket, or any.
        inputs: makes a batch of so many inputs.
        batches: their sizes.
        compiled: also time `torch.compile` of the dense module, where a compiler is found.
        int8: also in eight-bit integers, on CUDA: a form of its own, as it rounds.

    Returns:
        The rows, and the accelerated module of each batch size with its choices.
    """
    plain = copy.deepcopy(module).to(device=device, dtype=dtype).eval().requires_grad_(False)
    weights = [p for p in plain.parameters() if p.ndim > 1]
    density = sum(float((p != 0).sum()) for p in weights) / sum(p.numel() for p in weights)
    cuda = device.startswith("cuda")
    held = sum(t.nbytes for t in itertools.chain(plain.parameters(), plain.buffers()))
    rows: list[Row] = []
    made: list[Accelerated] = []
    for batch in progress(batches, f"timing {name}"):
        x = inputs(batch).to(device=device)
        x = x.to(dtype) if x.is_floating_point() else x
        fast = accelerate(plain, x)
        made.append(fast)
        inputs_in_turn = _turns(x, cuda)
        forms: dict[str, Callable[[Tensor], Tensor]] = {"dense": plain, "accelerated": fast}
        chosen = {"accelerated": fast}
        if int8:
            forms["accelerated, int8"] = chosen["accelerated, int8"] = accelerate(plain, x, int8=True)
        if compiled:
            forms |= _compiled(plain, x)
        with torch.no_grad():
            calls = {form: _call(work, inputs_in_turn) for form, work in forms.items()}
            turns = measured(calls, cuda=cuda)
        for form in forms:
            one = chosen.get(form)
            size = held if one is None else one.nbytes
            limit = 1.0 if one is None else _limit([choice.form for choice in one.choices], density, cuda)
            rows.append(Row(
                name, "network", batch, density, form, *_spread(turns[form]), 1000 * statistics.median(turns["dense"]),
                relative_error(forms[form], module, x[:64]), size / 1e6, limit,
            ))  # fmt: skip
        own_forms = [(choice, form, own) for choice in fast.choices for form, own in choice.turns.items()]
        for choice in chosen["accelerated, int8"].choices if int8 else ():
            own_forms += [(choice, form, own) for form, own in choice.turns.items() if form.startswith("int8")]
        for choice, form, own in own_forms:
            rows.append(Row(
                name, choice.layer, batch, choice.density, form, *_spread(own), 1000 * choice.seconds["dense"],
                float("nan"), _megabytes(choice, form, dtype),
                1.0 if form == "dense" else _limit([form], choice.density, cuda),
            ))  # fmt: skip
    return rows, made


def blocks_2_4(dtype: torch.dtype) -> dict[str, tuple[nn.Module, int]]:
    """Modules of common sizes under 2:4, with the length of their inputs, for a card: square layers, blocks of a ViT-L and
    of a Llama-sized MLP, and LeNet-300-100, which is too small to gain.
    """

    def linear(inputs: int, outputs: int) -> nn.Linear:
        layer = nn.Linear(inputs, outputs, bias=False, dtype=dtype)
        groups = layer.weight.data.unflatten(1, (-1, 4))
        groups *= torch.zeros_like(groups).scatter_(2, groups.abs().topk(2, dim=2).indices, 1.0)
        return layer

    found: dict[str, tuple[nn.Module, int]] = {
        f"square layer of {size}": (linear(size, size), size) for size in (1024, 2048, 4096, 8192)
    }
    found["layer 16384 x 2048"] = (linear(2048, 16384), 2048)
    for name, width, hidden in (
        ("ViT-L block, 1024-4096-1024", 1024, 4096),
        ("Llama block, 4096-11008-4096", 4096, 11008),
    ):
        found[name] = (nn.Sequential(linear(width, hidden), nn.GELU(), linear(hidden, width)), width)
    small = nn.Sequential(linear(784, 300), nn.ReLU(), linear(300, 100), nn.ReLU(), linear(100, 10))
    found["LeNet-300-100"] = (small, 784)
    return found


def _turns(x: Tensor, cuda: bool) -> Iterator[Tensor]:
    """The same inputs on the CPU; on a card as many copies as its cache does not hold."""
    count = max(1, -(-_CACHE // max(1, x.nbytes))) if cuda else 1
    return itertools.cycle([x.clone() for _ in range(min(count, 1024))])


def _call(work: Callable[[Tensor], Tensor], turns: Iterator[Tensor]) -> Callable[[], Tensor]:
    return lambda: work(next(turns))


def _compiled(module: nn.Module, x: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """`torch.compile` of the dense module; nothing where no compiler works."""
    try:
        torch._dynamo.reset()  # otherwise later sizes run a graph for any size, and the ninth module none
        whole = torch.compile(module, dynamic=False)
        with torch.no_grad():
            whole(x)
    except Exception as error:  # whatever a tool chain raises
        print(f"torch.compile is left out: {str(error).splitlines()[0][:120]}")
        return {}
    return {"dense, torch.compile": whole}


def _spread(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Median and quartiles, in milliseconds."""
    lower, median, upper = statistics.quantiles(seconds, n=4)
    return 1000 * median, 1000 * lower, 1000 * upper


def _limit(forms: Sequence[str], density: float, cuda: bool) -> float:
    """What sparsity allows: twice the rate for 2:4 on a card, twice again in eight bits; on the CPU the products that are
    left.
    """
    if all(form == "dense" for form in forms):
        return 1.0
    if not cuda:
        return 1 / max(density, 1e-9)
    return max((2.0 if "cu" in form else 1.0) * (2.0 if form.startswith("int8") else 1.0) for form in forms)


def _megabytes(choice: Choice, form: str, dtype: torch.dtype) -> float:
    """A layer's weight in a form: as 2:4 36 of 64 bits, in int8 20 of 32; values and 8-byte indices as rows."""
    count = 1
    for size in choice.shape:
        count *= size
    if form == "rows":
        return (choice.density * count * (dtype.itemsize + 8) + 8 * (choice.shape[0] + 1)) / 1e6
    if form.startswith("int8"):
        return count * (0.625 if "cu" in form else 1.0) / 1e6
    return count * dtype.itemsize * (1.0 if form == "dense" else 0.5625) / 1e6
