"""The generator on LeNet-300-100 and Fashion-MNIST, densities 0.10 and 0.05.

    python experiments/generator_fashion.py --data-root data      (some hours on one core; every stage is kept)

264 networks of 5 epochs (Adam 1e-3, cosine decay, batches of 128); tickets of density 0.10 by 9 further epochs of
gradual magnitude pruning, where their validation loss is at its lowest, and from these in 7 more epochs tickets of
density 0.05; the generator sees 200 of them, its flow is chosen by the loss of a tenth of their codes, and its refinement
starts from random directions. Three generators with other seeds on the same tickets. Control: the tickets trained on for
as many gradients of single networks on single images as the refinement takes.
"""

from dataclasses import replace
from pathlib import Path

import generator_rows
import tables
import tyro

import weightspace as ws
from weightspace.generate import Directions

NETWORKS, LEARNED_FROM, SAMPLES = 264, 200, 100
LADDER = (
    ws.tickets.Gradual(density=0.10, length=ws.Step(epochs=9), ramp=0.5),
    ws.tickets.Gradual(density=0.05, length=ws.Step(epochs=7)),
)  # each starts from the tickets before it


def main(
    data_root: Path | None = None, densities: int = 2, seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 8000, directions: Directions = "random",
    out: Path = Path("runs/generator_fashion"), results: Path = Path("docs/results"),
) -> None:  # fmt: skip
    """Print and write one row for each set of networks, density and seed.

    Args:
        data_root: folder with FashionMNIST/raw.
        densities: 1 stops after density 0.10.
        seeds: of the generators and their samples; networks and tickets are the same.
        steps: of refinement.
        directions: that it starts from.
        out: where all stages are kept.
        results: where the CSV file goes.
    """
    task = ws.tasks.fashion_mnist(data_root=data_root)
    task = replace(task, recipe=replace(task.recipe, length=ws.Step(epochs=5)))
    dense = ws.collect(task, NETWORKS, folder=out / "dense")
    rows: list[dict[str, object]] = []
    tickets = dense
    for gradual in LADDER[:densities]:
        density = gradual.density
        tickets = gradual.find(tickets, task, folder=out / f"tickets-{density}")
        training, held_out = tickets.split(LEARNED_FROM, NETWORKS - LEARNED_FROM)
        for seed in seeds:
            refine = ws.TaskRefinement(
                task, steps=steps, networks=16, lr=1e-4, lr_mean=4e-4, diversity=0.2, directions=directions
            )
            model = ws.TicketGenerator(compress=ws.PCA(32), generate=ws.FlowMatching(held_out=0.1), refine=refine)
            here = out / f"density-{density}-{seed}-{steps}-{directions}"
            generator = model.fit(training, seed=seed, folder=here / "generator")
            draw = {"density": density, "seed": seed + 1}
            samples = generator.sample(SAMPLES, **draw)
            gradients = steps * refine.networks * refine.batch_size / LEARNED_FROM
            longer = ws.Step(iterations=max(1, round(gradients / task.recipe.batch_size)))
            others = {
                "flow alone": replace(generator, refined=None).sample(SAMPLES, **draw),
                "tickets trained on": ws.train(training[:SAMPLES], task, longer, folder=here / "trained-on"),
            }
            report = ws.evaluate(
                samples, task, reference=training, held_out=held_out, others=others, dropout=None, seed=seed
            )
            report.write(here / "report")
            keys = {"density": density, "seed": seed}
            rows += [
                keys | generator_rows.row(report, arm.name) | generator_rows.verdicts(report) for arm in report.arms
            ]
            name = "generator_fashion" + (f"_{directions}" if directions != "random" else "")
            tables.write(results / f"{name}.csv", rows)
            few = [row for row in rows if row["networks"] in ("samples", report.reference, *others)]
            generator_rows.summary(few, ("density", "networks"))


if __name__ == "__main__":
    tyro.cli(main)
