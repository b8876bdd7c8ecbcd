"""What does a sampled network cost, and from how many networks on does the generator pay?

    python -m experiments.generator.cost        (about five minutes on one core)

The whole cost of a generator of 128 components (dense networks, tickets, alignment, flow, refinement) and the
marginal cost of one more sampled network, against a ticket by iterative magnitude pruning and against one by gradual
pruning, which are what the generator learned from. Nothing is kept on disk, as a run that is continued would cost
nothing. Both kinds of ticket are trained side by side, as the library does it.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import tyro

import weightspace as ws
from experiments.common import tables

T = TypeVar("T")


def main(networks: int = 360, imp_networks: int = 40, steps: int = 4000, results: Path = tables.RESULTS) -> None:
    """Print the bill and write it to generator/cost.csv.

    Args:
        networks: Number of networks whose tickets the generator learns from.
        imp_networks: Number of tickets by iterative magnitude pruning, over which their cost is averaged.
        steps: Steps of refinement.
        results: Folder of the result tables.
    """
    task = ws.tasks.digits()
    rows: list[dict[str, object]] = []

    def timed(what: str, action: Callable[[], T], count: int) -> T:
        began = time.perf_counter()
        result = action()
        seconds = time.perf_counter() - began
        rows.append({"what": what, "seconds": seconds, "networks": count, "seconds each": seconds / count})
        return result

    dense = timed("dense networks", lambda: ws.collect(task, networks), networks)
    tickets = timed("tickets (gradual)", lambda: ws.tickets.GradualPruning(density=0.1).find(dense, task), networks)
    aligned = timed("alignment", lambda: ws.WeightMatching().fit(tickets).transform(tickets), networks)
    refine = ws.TaskRefinement(steps=steps, radius=None, mask_diversity=0.3)
    model = ws.TicketGenerator(align=None, compress=ws.PCA(128), generate=ws.FlowMatching(), refine=refine)
    generator = timed("compression, flow and refinement", lambda: model.fit(aligned, task=task), networks)
    timed("sampling", lambda: generator.sample(1000, density=0.1, seed=1), 1000)
    few = dense[:imp_networks]
    timed("IMP tickets", lambda: ws.tickets.IMP(density=0.1).find(few, task), imp_networks)
    seconds = {str(row["what"]): float(str(row["seconds"])) for row in rows}
    each = {str(row["what"]): float(str(row["seconds each"])) for row in rows}
    kinds = {"an IMP ticket": "IMP tickets", "a gradual ticket": "tickets (gradual)"}
    costs = {one: each[many] + each["dense networks"] for one, many in kinds.items()}
    bill = sum(list(seconds.values())[:4])
    tables.write(results / "generator/cost.csv", rows)
    for row in rows:
        print(f"{row['what']}: {row['seconds']:.1f} s, {1e3 * each[str(row['what'])]:.2f} ms a network")
    print(f"whole bill {bill:.0f} s; one sample {1e3 * each['sampling']:.2f} ms")
    for name, cost in costs.items():
        print(
            f"a sample is {cost / each['sampling']:,.0f} times cheaper than {name} ({cost:.2f} s), and the generator "
            f"pays from {bill / (cost - each['sampling']):,.0f} networks on"
        )


if __name__ == "__main__":
    tyro.cli(main)
