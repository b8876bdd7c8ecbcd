"""Can one generator serve any density, also densities that no ticket had?

    python -m experiments.generator.densities        (about half an hour a seed on one core; resumable)

Digits, MLP 64-128-64-10: from each of 160 dense networks a ticket of density 0.2, 0.1 and 0.05, so 480 for a
generator that is conditioned on the density; refined under seven densities from 0.2 to 0.05, among them neither 0.15
nor 0.07, and under 2:4. For every pattern, 100 samples beside 100 tickets of just that density by the same method
from other dense networks. 2:4 tickets are pruned in one shot and trained as long as the others.
"""

from pathlib import Path

import tyro

import weightspace as ws
from experiments.common import accuracy, report_rows, tables
from weightspace.evaluation.connectivity import mask_overlap

LEARNED = (0.2, 0.1, 0.05)
REFINED = (0.2, 0.16, 0.126, 0.1, 0.08, 0.063, 0.05)
PATTERNS = (0.2, 0.15, 0.1, 0.07, 0.05)
NETWORKS, OTHERS = 160, 100


# Columns of the table that say what a row was measured with.
SETTINGS = (
    "split", "refined_under", "masks", "components", "radius", "steps", "ramp", "mask_diversity", "pattern", "seed",
)  # fmt: skip


def main(
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 24_000,
    ramp: float = 0.5,
    gates: bool = False,
    tickets_densities: bool = False,
    components: int = 128,
    radius: float | None = None,
    mask_diversity: float = 0.3,
    validation: bool = False,
    out: Path = Path("runs/generator_densities"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each pattern, kind of network and seed to generator/densities.csv.

    Args:
        seeds: Seeds of networks, tickets and generators.
        steps: Steps of refinement.
        ramp: Fraction of the steps in which samples become sparse; 0.5 was chosen on the validation split.
        gates: Gates decide the masks of samples, in place of magnitudes.
        tickets_densities: Refinement under the three densities of the tickets and 2:4 alone, as often each.
        components: Number of components of the compression.
        radius: Radius of the sphere that samples start on, with a flow that held-out codes choose; None trains the
            flow to the end and uses its codes.
        mask_diversity: Weight of the penalty on masks that are alike.
        validation: Networks are evaluated on the validation split, to choose a setting; otherwise on the test split.
        out: Folder where every stage is kept; the same command continues there.
        results: Folder of the result tables.
    """
    task = ws.tasks.digits()
    judged = task.validation if validation else task.test
    two_of_four = ws.NM(2, 4)
    setting = "-own-densities" * tickets_densities + f"-ramp-{ramp:g}" * (ramp != 0.5) + "-gates" * gates
    setting += f"-components-{components}" * (components != 128) + f"-radius-{radius}" * (radius is not None)
    setting += f"-mask-diversity-{mask_diversity:g}" * (mask_diversity != 0.3)
    # 2:4 as often as any two neighbours among many densities.
    under = [*LEARNED, two_of_four] if tickets_densities else [*REFINED, two_of_four, two_of_four]
    patterns = [one if isinstance(one, ws.NM) else ws.Unstructured(one) for one in under]
    settings = {
        "split": "validation" if validation else "test",
        "refined_under": "the tickets' densities" if tickets_densities else "many densities",
        "masks": "gates" if gates else "magnitude",
        "components": components,
        "radius": radius,
        "steps": steps,
        "ramp": ramp,
        "mask_diversity": mask_diversity,
    }
    rows: list[dict[str, object]] = []
    for seed in seeds:
        folder = out / f"seed-{seed}"
        dense = ws.collect(task, NETWORKS + OTHERS, seed=seed, folder=folder / "dense")
        own, foreign = dense.split(NETWORKS, OTHERS)
        learned = [
            ws.tickets.GradualPruning(density=d).find(own, task, folder=folder / f"learned-{d}") for d in LEARNED
        ]
        model = ws.TicketGenerator(
            compress=ws.PCA(components),
            conditions=("density",),
            generate=ws.FlowMatching(validation_fraction=0.0 if radius is None else 0.1),
            refine=ws.TaskRefinement(
                task, steps=steps, ramp=ramp, patterns=patterns, radius=radius, mask_diversity=mask_diversity
            ),
            masks=ws.GateMask() if gates else ws.MagnitudeMask(),
        )
        generator = model.fit(
            ws.Collection.concatenate(learned), seed=seed, folder=folder / f"generator-{steps}{setting}"
        )
        assert generator.align is not None
        for pattern in (*map(ws.Unstructured, PATTERNS), two_of_four):
            name = "2:4" if isinstance(pattern, ws.NM) else f"{pattern.density:g}"
            samples = generator.sample(OTHERS, pattern=pattern, seed=seed + 1)
            if isinstance(pattern, ws.NM):
                masks = pattern.mask(foreign.weights.abs(), foreign.layout)
                pruned = foreign.replace(weights=foreign.weights * masks, masks=masks)
                found = ws.train(pruned, task, "30ep", folder=folder / "tickets-2-4")
            else:
                gradual = ws.tickets.GradualPruning(density=pattern.density)
                found = gradual.find(foreign, task, folder=folder / f"tickets-{pattern.density}")
            for kind, networks in {"samples": samples, "tickets": found}.items():
                right = accuracy.per_network(networks, judged)
                # Samples have the tickets' order of units; matching their values anew can hide a mask that they share.
                ordered = networks if kind == "samples" else generator.align.transform(networks)
                alike = mask_overlap(ordered).shared
                rows.append(
                    {
                        **settings,
                        "pattern": name,
                        "seed": seed,
                        "networks": kind,
                        "n": len(networks),
                        "accuracy": right.mean().item(),
                        "accuracy std": right.std().item(),
                        "density": networks.densities.mean().item(),
                        "mask overlap": alike,
                        **accuracy.of_mean_prediction(networks, judged),
                    }
                )
        tables.add(results / "generator/densities.csv", rows, SETTINGS)
    report_rows.summary(rows, ("pattern", "networks"))


if __name__ == "__main__":
    tyro.cli(main)
