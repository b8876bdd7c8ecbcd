"""Can a generator that has seen 300 tickets of density 0.10 sample new ones that work?

    python -m experiments.demo.run        (under five minutes on two cores; or: make demo)

From real data to a sampled ensemble of sparse networks, on scikit-learn's handwritten digits. Interrupt it at any
time; started again it continues. Everything lands in the folder --out.

What is done network by network is done in parts by two processes. The IMP tickets, which are for comparison alone, are
found by one of them while this process fits the generator.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import tyro

import weightspace as ws
from weightspace.errors import InputError
from weightspace.runtime import threads
from weightspace.storage.runs import open_run

NETWORKS, LEARNED_FROM = 360, 300
PARTS = 12  # of the networks: all processes have work to the end, and the bar moves


MODEL = ws.TicketGenerator(
    align=ws.WeightMatching(),
    compress=ws.PCA(components=16),
    generate=ws.FlowMatching(width=256, blocks=2, steps=4000, validation_fraction=0.1, patience=500),
)


def find_apart(finder: ws.tickets.IMP, task: ws.Task, folder: Path, networks: ws.Collection) -> Path:
    """Find tickets in another process, on one thread; returns the folder they are in."""
    threads.use(1)
    finder.find(networks, task, folder=folder)
    return folder


@contextmanager
def one_thread_less() -> Iterator[None]:
    """Inside the block a core is left to another process."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before - 1))
    yield
    torch.set_num_threads(before)


def main(out: Path = Path("runs/demo"), seed: int = 0, small: bool = False, workers: int = 2) -> ws.Report:
    """Run every stage on scikit-learn's handwritten digits.

    Args:
        out: Folder of the demo; the same command continues there.
        seed: Seed of everything random but the data splits.
        small: A tiny version for tests, which shows every stage and reaches no quality.
        workers: Processes that train networks at the same time.
    """
    started = time.perf_counter()
    task, gradual, imp, model = (
        ws.tasks.digits(),
        ws.tickets.GradualPruning(density=0.1),
        ws.tickets.IMP(density=0.1),
        MODEL,
    )
    refinement = ws.TaskRefinement(steps=4000, radius=0.8, mask_diversity=0.3)
    networks, learned_from, imp_networks, samples, parts = NETWORKS, LEARNED_FROM, 20, 100, PARTS
    if small:
        short = ws.Step(epochs=2)
        task = replace(ws.tasks.digits(hidden=(16,)), recipe=replace(task.recipe, length=short))
        gradual, imp = replace(gradual, length=short), replace(imp, rate=0.7)
        flow = ws.FlowMatching(width=16, blocks=1, steps=40, batch_size=16)
        model = replace(model, compress=ws.PCA(4), generate=flow)
        refinement = ws.TaskRefinement(steps=20, networks=4, batch_size=16)
        networks, learned_from, imp_networks, samples, parts = 12, 8, 2, 5, 2

    with ws.processes(workers) as pool:
        dense = ws.collect_on(pool, task, networks, shards=parts, seed=seed, folder=out / "dense")
        tickets = ws.find_on(pool, gradual, dense, task, shards=parts, folder=out / "tickets")
        training, held_out = tickets[:learned_from], tickets[learned_from:]
        imp_tickets = pool.begin(partial(find_apart, imp, task, out / "imp"), dense[:imp_networks])
        with one_thread_less():
            generator = replace(model, refine=refinement).fit(training, task=task, seed=seed, folder=out / "generator")
        standard = ws.Collection.load(imp_tickets())

    sampled = generator.sample(samples, density=0.1, seed=seed + 1, folder=out / "samples")
    # What flow matching alone makes is shown beside it.
    flow_alone = replace(generator, refined=None)
    unrefined = flow_alone.sample(samples, density=0.1, seed=seed + 1, folder=out / "flow-samples")

    inputs = {
        "samples": sampled.fingerprint(),
        "tickets": tickets.fingerprint(),
        "imp": standard.fingerprint(),
        "flow": unrefined.fingerprint(),
    }
    assert generator.compress is not None
    components = len(generator.compress.components)
    with open_run(out / "report", "evaluate", {"components": components}, inputs) as run:
        if not run.complete:
            report = ws.evaluate(
                sampled,
                task,
                training=training,
                held_out=held_out,
                others={"flow alone": unrefined, "IMP tickets": standard, "dense": dense},
                components=components,
                knowledge=generator.knowledge_of(held_out, training),
            )
            report.write(run.folder)
            run.finish()
    report = ws.Report.load(out / "report" / "report.json")
    print(report)
    before = time.perf_counter()
    generator.sample(samples, density=0.1, seed=2)
    each = 1e3 * (time.perf_counter() - before) / samples
    print(f"\nsampling another {samples} networks took {each:.1f} ms each")
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} s. Open {out / 'report' / 'report.html'}; all networks and figures are in {out}/")
    return report


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except InputError as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: run the same command again to continue")
