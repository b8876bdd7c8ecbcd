"""Can a generator that has seen 300 tickets of density 0.10 sample new ones that work?

    python -m experiments.demo.run        (six to nine minutes on two cores; or: make demo)

From real data to a sampled ensemble of sparse networks, on scikit-learn's handwritten digits. Interrupt it at any
time; started again it continues. Everything lands in the folder --out.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import tyro

import weightspace as ws
from weightspace.errors import InputError
from weightspace.storage.runs import open_run

NETWORKS, LEARNED_FROM = 360, 300


MODEL = ws.TicketGenerator(
    align=ws.WeightMatching(),
    compress=ws.PCA(components=16),
    generate=ws.FlowMatching(width=256, blocks=2, steps=4000, validation_fraction=0.1),
)


def main(out: Path = Path("runs/demo"), seed: int = 0, small: bool = False) -> ws.Report:
    """Run every stage on scikit-learn's handwritten digits.

    Args:
        out: Folder of the demo; the same command continues there.
        seed: Seed of everything random but the data splits.
        small: A tiny version for tests, which shows every stage and reaches no quality.
    """
    started = time.perf_counter()
    task, gradual, imp, model = (
        ws.tasks.digits(),
        ws.tickets.GradualPruning(density=0.1),
        ws.tickets.IMP(density=0.1),
        MODEL,
    )
    refinement = ws.TaskRefinement(steps=4000, radius=0.8, mask_diversity=0.3)
    networks, learned_from, imp_networks, samples = NETWORKS, LEARNED_FROM, 20, 100
    if small:
        short = ws.Step(epochs=2)
        task = replace(ws.tasks.digits(hidden=(16,)), recipe=replace(task.recipe, length=short))
        gradual, imp = replace(gradual, length=short), replace(imp, rate=0.7)
        flow = ws.FlowMatching(width=16, blocks=1, steps=40, batch_size=16)
        model = replace(model, compress=ws.PCA(4), generate=flow)
        refinement = ws.TaskRefinement(steps=20, networks=4, batch_size=16)
        networks, learned_from, imp_networks, samples = 12, 8, 2, 5

    dense = ws.collect(task, networks, seed=seed, folder=out / "dense")
    tickets = gradual.find(dense, task, folder=out / "tickets")
    standard = imp.find(dense[:imp_networks], task, folder=out / "imp")
    training, held_out = tickets[:learned_from], tickets[learned_from:]

    generator = replace(model, refine=refinement).fit(training, task=task, seed=seed, folder=out / "generator")
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
