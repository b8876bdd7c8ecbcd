"""Which permutations does `symmetry.trace` find in networks of every kind, and is any of them wrong?

    python -m experiments.alignment.zoo          (about 10 minutes on one core)

Networks of torchvision (small inputs), tiny configurations of transformers as shipped, and hand-written ones. Each
table is proven by `trace`; beside that, a copy permuted at random by the table computes the same outputs in float64,
and the copy permuted back is the network bit for bit. A row says: proven, or refused (and why); the groups by kind,
the share of the parameters that some permutation moves, and the axes of which `trace` warned. Networks that have a row
are left out: remove it to measure one again.
"""

import csv
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn

from experiments.alignment import zoo_networks
from experiments.common import tables
from weightspace import symmetry
from weightspace.errors import InputError
from weightspace.runtime.copies import copied
from weightspace.runtime.double import doubled
from weightspace.runtime.outputs import difference
from weightspace.symmetry.passes import EXACT, SINGLE, exact_outputs
from weightspace.symmetry.spec import Symmetry


def main(only: tuple[str, ...] = (), results: Path = tables.RESULTS) -> None:
    """Write one row for each network to alignment/zoo.csv.

    Args:
        only: Names of networks; none given does all.
        results: Folder of the result tables.
    """
    torch.set_num_threads(1)
    path = results / "alignment/zoo.csv"
    done: set[str] = set()
    if path.exists() and not only:
        with path.open() as file:
            done = {row["network"] for row in csv.DictReader(file)}
    for name, make in zoo_networks.NETWORKS.items():
        if (only and name not in only) or name in done:
            continue
        torch.manual_seed(0)
        row = examine(name, make)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        tables.add(path, [row], ("network",))


def examine(name: str, make: Callable[[], tuple[nn.Module, Any]]) -> dict[str, object]:
    """One row of the table."""
    module, x = make()
    began = time.process_time()
    verdict, note, found, kinds = "proven", "", None, ""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = symmetry.trace(module.eval(), x)
        except InputError as error:
            verdict, note = "refused", str(error).split(". Leave")[0]
    seconds = time.process_time() - began
    if found is not None:
        kinds = groups_by_kind(found)
        note = next((str(w.message).split(" of ")[0] for w in said if "no permutation moves" in str(w.message)), "")
        if not same_outputs(found, module, x):
            verdict = "WRONG"
    return {
        "network": name,
        "parameters": sum(p.numel() for p in module.parameters()),
        "verdict": verdict,
        "groups": len(found.groups) if found else 0,
        "kinds": kinds,
        "parameters moved": f"{found.coverage:.4f}" if found else "-",
        "seconds": f"{seconds:.1f}",
        "note": note.replace("\n", " ")[:300],
    }


def groups_by_kind(found: Symmetry) -> str:
    """How many groups of each kind there are."""
    shared = set(found.shared)
    kinds = {
        "units": [g for g in found.groups if g.parent is None and not found.children(g.name)],
        "blocks": [g for g in found.groups if found.children(g.name)],
        "in blocks": [g for g in found.groups if g.parent is not None and not found.children(g.name)],
        "beside others": [g for g in found.groups if any((a.tensor, a.axis) in shared for a in g.axes)],
        "scalable": [g for g in found.groups if g.homogeneous],
        "odd": [g for g in found.groups if g.odd],
        "orthogonal": [g for g in found.groups if g.linear == "orthogonal"],
        "general linear": [g for g in found.groups if g.linear == "general"],
    }
    return ", ".join(f"{len(groups)} {kind}" for kind, groups in kinds.items() if groups)


def same_outputs(found: Symmetry, module: nn.Module, x: Any) -> bool:
    """Whether a permuted copy computes the same, and is the network itself when it is permuted back."""
    first, inputs, near, precision = copied(module).double().eval(), doubled(x), 1e-8, EXACT
    try:
        exact_outputs(first, inputs)
    except RuntimeError:  # no float64
        first, inputs, near, precision = copied(module).eval(), x, SINGLE.same, SINGLE
    orders = found.random(torch.Generator().manual_seed(7))
    state = first.state_dict()
    own = {entry.name: state[entry.name] for entry in found.layout.entries}
    moved = found.move(own, orders)
    back = found.move(moved, found.inverse(orders))
    second = copied(first)
    for name, tensor in second.state_dict().items():
        if name in moved:
            tensor.copy_(moved[name])
    outputs = exact_outputs(first, inputs, precision), exact_outputs(second, inputs, precision)
    return difference(*outputs) < near and all(torch.equal(back[name], tensor) for name, tensor in own.items())


if __name__ == "__main__":
    tyro.cli(main)
