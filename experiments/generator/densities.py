"""Can one generator serve any density, also densities that no ticket had?

    python -m experiments.generator.densities        (about half an hour a seed on one core; resumable)

Digits, MLP 64-128-64-10: from each of 160 dense networks a ticket of density 0.2, 0.1 and 0.05, so 480 for a
generator that is conditioned on the density; refined under seven densities from 0.2 to 0.05, among them neither 0.15
nor 0.07, and under 2:4. For every pattern, 100 samples beside 100 tickets of just that density by the same method
from other dense networks. 2:4 tickets are pruned in one shot and trained as long as the others.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import OmitArgPrefixes

import weightspace as ws
from experiments.common import accuracy, report_rows, tables
from weightspace.masks.overlap import overlap_within

LEARNED = (0.2, 0.1, 0.05)
REFINED = (0.2, 0.16, 0.126, 0.1, 0.08, 0.063, 0.05)
PATTERNS = (0.2, 0.15, 0.1, 0.07, 0.05)
NETWORKS, OTHERS = 160, 100
TWO_OF_FOUR = ws.NM(2, 4)

# Columns of the table that say what a row was measured with.
SETTINGS = (
    "split", "refined_under", "masks", "components", "radius", "steps", "ramp", "mask_diversity", "pattern", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """How the generators are fitted.

    Args:
        steps: Steps of refinement.
        ramp: Fraction of the steps in which samples become sparse; 0.5 was chosen on the validation split.
        gates: Gates decide the masks of samples, in place of magnitudes.
        tickets_densities: Refinement under the three densities of the tickets and 2:4 alone, as often each.
        components: Number of components of the compression.
        radius: Radius of the sphere that samples start on, with a flow that held-out codes choose; None trains the
            flow to the end and uses its codes.
        mask_diversity: Weight of the penalty on masks that are alike.
    """

    steps: int = 24_000
    ramp: float = 0.5
    gates: bool = False
    tickets_densities: bool = False
    components: int = 128
    radius: float | None = None
    mask_diversity: float = 0.3

    def model(self) -> ws.TicketGenerator:
        """The generator with these settings."""
        # 2:4 as often as any two neighbours among many densities.
        under = [*LEARNED, TWO_OF_FOUR] if self.tickets_densities else [*REFINED, TWO_OF_FOUR, TWO_OF_FOUR]
        return ws.TicketGenerator(
            compress=ws.PCA(self.components),
            conditions=("density",),
            generate=ws.FlowMatching(validation_fraction=0.0 if self.radius is None else 0.1),
            refine=ws.TaskRefinement(
                steps=self.steps,
                ramp=self.ramp,
                patterns=[one if isinstance(one, ws.NM) else ws.Unstructured(one) for one in under],
                radius=self.radius,
                mask_diversity=self.mask_diversity,
            ),
            masks=ws.GateMask() if self.gates else ws.MagnitudeMask(),
        )

    @property
    def kind(self) -> str:
        """The name of its folder."""
        name = f"{self.steps}" + "-own-densities" * self.tickets_densities
        name += f"-ramp-{self.ramp:g}" * (self.ramp != 0.5) + "-gates" * self.gates
        name += f"-components-{self.components}" * (self.components != 128)
        name += f"-radius-{self.radius}" * (self.radius is not None)
        return name + f"-mask-diversity-{self.mask_diversity:g}" * (self.mask_diversity != 0.3)

    @property
    def columns(self) -> dict[str, object]:
        """Its columns in the table."""
        return {
            "refined_under": "the tickets' densities" if self.tickets_densities else "many densities",
            "masks": "gates" if self.gates else "magnitude",
            "components": self.components,
            "radius": self.radius,
            "steps": self.steps,
            "ramp": self.ramp,
            "mask_diversity": self.mask_diversity,
        }


def main(
    seeds: tuple[int, ...] = (0, 1, 2),
    fit: OmitArgPrefixes[Fit] = Fit(),
    validation: bool = False,
    out: Path = Path("runs/generator_densities"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each pattern, kind of network and seed to generator/densities.csv.

    Args:
        seeds: Seeds of networks, tickets and generators.
        fit: How the generators are fitted.
        validation: Networks are evaluated on the validation split, to choose a setting; otherwise on the test split.
        out: Folder where every stage is kept; the same command continues there.
        results: Folder of the result tables.
    """
    task = ws.tasks.digits()
    split = "validation" if validation else "test"
    data = task.validation if validation else task.test
    rows: list[dict[str, object]] = []
    for seed in seeds:
        folder = out / f"seed-{seed}"
        dense = ws.collect(task, NETWORKS + OTHERS, seed=seed, folder=folder / "dense")
        learned_from, others = dense.split(NETWORKS, OTHERS)
        learned = [
            ws.tickets.GradualPruning(density=density).find(learned_from, task, folder=folder / f"learned-{density}")
            for density in LEARNED
        ]
        generator = fit.model().fit(
            ws.Collection.concatenate(learned), task=task, seed=seed, folder=folder / f"generator-{fit.kind}"
        )
        assert generator.align is not None
        for pattern in (*map(ws.Unstructured, PATTERNS), TWO_OF_FOUR):
            samples = generator.sample(OTHERS, pattern=pattern, seed=seed + 1)
            # Samples have the tickets' order of units; matching their values anew can hide a mask that they share.
            tickets = tickets_of(others, pattern, task, folder)
            groups = {"samples": (samples, samples), "tickets": (tickets, generator.align.transform(tickets))}
            name = "2:4" if isinstance(pattern, ws.NM) else f"{pattern.density:g}"
            keys = {"split": split} | fit.columns | {"pattern": name, "seed": seed}
            rows += [keys | {"networks": kind} | row(*group, data) for kind, group in groups.items()]
        tables.add(results / "generator/densities.csv", rows, SETTINGS)
    report_rows.summary(rows, ("pattern", "networks"))


def tickets_of(dense: ws.Collection, pattern: ws.Unstructured | ws.NM, task: ws.Task, folder: Path) -> ws.Collection:
    """Tickets under just this pattern."""
    if isinstance(pattern, ws.Unstructured):
        gradual = ws.tickets.GradualPruning(density=pattern.density)
        return gradual.find(dense, task, folder=folder / f"tickets-{pattern.density}")
    masks = pattern.mask(dense.weights.abs(), dense.layout)
    pruned = dense.replace(weights=dense.weights * masks, masks=masks)
    return ws.train(pruned, task, "30ep", folder=folder / "tickets-2-4")


def row(networks: ws.Collection, ordered: ws.Collection, data: ws.tasks.Data) -> dict[str, object]:
    """Figures of one set of networks; `ordered` are the same with their units in the order of the tickets."""
    accuracies = accuracy.per_network(networks, data)
    return {
        "n": len(networks),
        "accuracy": accuracies.mean().item(),
        "accuracy std": accuracies.std().item(),
        "density": networks.densities.mean().item(),
        "mask overlap": overlap_within(ordered).shared,
        **accuracy.of_mean_prediction(networks, data),
    }


if __name__ == "__main__":
    tyro.cli(main)
