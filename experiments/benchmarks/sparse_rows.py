"""How fast are products with compressed rows on one CPU thread, and what bounds them?

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.sparse_rows               (a minute)

LeNet-300-100 and 784-1000-1000-10 under random masks of the same density in every layer; batches of 1, 60 and 1,000,
held row by row (one input after the other, as usual) and column by column (`torch.randn(784, n).t()`), for every form
alike. Forms: the dense layer, the two of `sparse.accelerate` (rows by torch's embedding bag, and by the compiled
kernel), and CSR products of torch and SciPy. They take turns, of at least two milliseconds each; CPU time; a speed-up
is the median over turns of dense over sparse time in the same turn. "linear layers" is the sum of the layers, each on
inputs held in the same way; "network" the whole module with all layers in that form.

The bound of a layer is the largest of three times, from rates that are measured in the same run: its inputs, weights
and outputs once through memory (a copy of as many bytes), its multiplications and additions (a dense product of 512 x
512 matrices), and the activations that its weights meet, one read for each, through the cache (sums over as much
memory as the kernel's tile of inputs takes). A call with an empty batch shows what a call costs before any work.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
import tyro
from torch import nn

from experiments.common import tables
from weightspace.sparse.forms import CompiledCSRLinear, CSRLinear, Form
from weightspace.sparse.measuring import versions

SIZES = {"LeNet-300-100": (784, 300, 100, 10), "784-1000-1000-10": (784, 1000, 1000, 10)}
HELD: dict[str, Callable[[int, int], torch.Tensor]] = {
    "rows": lambda samples, length: torch.randn(samples, length),
    "columns": lambda samples, length: torch.randn(length, samples).t(),
}
TILE = 64  # samples that the kernel multiplies at once
SECONDS = 2e-3  # of a turn
Calls = Mapping[str, Callable[[], object]]


def main(turns: int = 9, out: Path = tables.RESULTS) -> None:
    """Write benchmarks/sparse_rows.csv.

    Args:
        turns: Number of turns of each form.
        out: Folder of the result tables.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    rows: list[dict[str, object]] = []
    with torch.no_grad():
        flops = multiplications()
        for network, sizes in SIZES.items():
            for density in (0.1, 0.05, 0.01):
                layers = sparse_layers(sizes, density)
                for batch, held in ((1, "rows"), (60, "rows"), (60, "columns"), (1000, "rows"), (1000, "columns")):
                    settings = {"network": network, "density": density, "batch": batch, "inputs held by": held}
                    new = measured(layers, batch, held, turns, flops)
                    rows += [settings | row | versions() for row in new]
                    print(settings, {r["form"]: f"{r['speedup']:.3g}" for r in new if r["part"] == "linear layers"})
    tables.write(out / "benchmarks/sparse_rows.csv", rows)


def sparse_layers(sizes: tuple[int, ...], density: float) -> list[nn.Linear]:
    """Layers under random masks."""
    layers = [nn.Linear(a, b).requires_grad_(False) for a, b in pairwise(sizes)]
    for layer in layers:
        layer.weight *= torch.rand(layer.weight.shape) < density
    return layers


def measured(layers: list[nn.Linear], batch: int, held: str, turns: int, flops: float) -> list[dict[str, object]]:
    """Rows of one batch: its layers, their sum, and the network."""
    rows: list[dict[str, object]] = []
    total: dict[str, list[float]] = {}
    bounds, overhead = 0.0, 0.0
    for layer in layers:
        x = HELD[held](batch, layer.in_features)
        compiled = CompiledCSRLinear(layer.weight, layer.bias)
        seconds = in_turns(forms(layer, compiled, x), turns)
        none = x[:0]
        empty = in_turns({"": lambda f=compiled, none=none: f(none)}, turns)[""]
        bound, by = roofline(layer, batch, flops)
        bounds, overhead = bounds + bound, overhead + statistics.median(empty)
        name = f"{layer.in_features} x {layer.out_features}"
        row = summary(name, Form.COMPILED, seconds[Form.COMPILED], seconds[Form.DENSE])
        rows.append(row | {"bound": 1e6 * bound, "bound by": by, "empty call": 1e6 * statistics.median(empty)})
        for form, times in seconds.items():
            total[form] = [a + b for a, b in zip(total.get(form, [0.0] * turns), times, strict=True)]
    for form, times in total.items():
        row = summary("linear layers", form, times, total[Form.DENSE])
        rows.append(row | ({"bound": 1e6 * bounds, "empty call": 1e6 * overhead} if form == Form.COMPILED else {}))
    x, make = HELD[held](batch, layers[0].in_features), {Form.CSR: CSRLinear, Form.COMPILED: CompiledCSRLinear}
    networks = {Form.DENSE: chain(layers)}
    networks |= {form: chain([kind(one.weight, one.bias) for one in layers]) for form, kind in make.items()}
    for form, network in networks.items():
        error = (network(x) - networks[Form.DENSE](x)).abs().max() / networks[Form.DENSE](x).abs().max()
        assert error < 1e-5, f"first correct, then fast: {form} is wrong by {error:.1e}"
    seconds = in_turns({form: lambda n=network: n(x) for form, network in networks.items()}, turns)
    return rows + [summary("network", form, times, seconds[Form.DENSE]) for form, times in seconds.items()]


def chain(layers: list[nn.Linear] | list[CSRLinear]) -> nn.Sequential:
    """Layers with ReLU between them."""
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])


def forms(layer: nn.Linear, compiled: nn.Module, x: torch.Tensor) -> Calls:
    """Calls of one layer in each form, checked against the dense one."""
    rows, bias = CSRLinear(layer.weight, layer.bias), layer.bias[:, None]
    own = layer.weight.to_sparse_csr()
    matrix, right, shift = scipy.sparse.csr_array(layer.weight.numpy()), x.numpy().T, np.asarray(layer.bias)[:, None]
    calls = {
        Form.DENSE: lambda: layer(x),
        Form.CSR: lambda: rows(x),
        Form.COMPILED: lambda: compiled(x),
        "torch CSR": lambda: (own @ x.t()).add_(bias).t(),
        "SciPy CSR": lambda: torch.from_numpy(matrix @ right + shift).t(),
    }
    for name, call in calls.items():
        assert torch.allclose(call(), layer(x), atol=1e-4), f"first correct, then fast: {name}"
    return calls


def in_turns(calls: Calls, turns: int) -> dict[str, list[float]]:
    """CPU seconds of a call in each turn."""
    counts = {name: 1 + int(SECONDS / max(once(call, 3), 1e-7)) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            seconds[name].append(once(call, counts[name]))
    return seconds


def once(call: Callable[[], object], count: int) -> float:
    """CPU seconds of a call, over some in a row; the first brings its data into the cache."""
    call()
    began = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - began) / count


def summary(part: str, form: str, seconds: list[float], dense: list[float]) -> dict[str, object]:
    """A row of the table: time, and speed-up with quartiles over turns."""
    ratios = [d / s for d, s in zip(dense, seconds, strict=True)]
    lower, middle, upper = statistics.quantiles(ratios, n=4)
    return {
        "part": part,
        "form": str(form),
        "microseconds": 1e6 * statistics.median(seconds),
        "speedup": middle,
        "speedup lower": lower,
        "speedup upper": upper,
    }


def multiplications() -> float:
    """Multiplications and additions a second, of a dense product."""
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    return 2 * 512**3 / statistics.median(in_turns({"": lambda: a @ b}, 9)[""])


def roofline(layer: nn.Linear, batch: int, flops: float) -> tuple[float, str]:
    """Seconds below which a layer cannot be, and by what."""
    weights = int((layer.weight != 0).sum())
    moved = 4 * batch * (layer.in_features + layer.out_features) + 8 * (weights + layer.out_features)
    there, tile = torch.empty(moved // 8), torch.ones(layer.in_features * min(batch, TILE))
    here, again = torch.empty_like(there), max(1, 2**20 // len(tile))
    many = tile.expand(again, -1)
    rates = in_turns({"copy": lambda: here.copy_(there), "sums": lambda: many.sum(1)}, 5)
    read = 4 * many.numel() / statistics.median(rates["sums"])
    times = {
        "memory": statistics.median(rates["copy"]),
        "multiplications": 2 * weights * batch / flops,
        "cache": 4 * weights * batch / read,
    }
    by = max(times, key=times.__getitem__)
    return times[by], by


if __name__ == "__main__":
    tyro.cli(main)
