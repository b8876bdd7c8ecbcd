"""How good are 2:4 networks from a generator of 2:4 networks?

    python -m experiments.generator.nm        (about ten minutes a seed on one core; resumable)

Digits, MLP 64-128-64-10: 260 dense networks, pruned to 2:4 by magnitude in one shot and trained as long again; the
generator sees 160 of these tickets, 100 are held out, and it is refined under 2:4 alone. Beside 100 samples: the flow
alone, and the tickets trained further for as many gradients of single networks on single images as the refinement
takes. The networks are those of densities.py, whose one generator serves 2:4 beside many densities.
"""

from dataclasses import replace
from pathlib import Path

import tyro

import weightspace as ws
from experiments.common import report_rows, tables
from experiments.generator import digits, tuning

LEARNED_FROM, HELD_OUT, SAMPLES = 160, 100, 100


# Columns of the table that say what a row was measured with.
SETTINGS = ("split", "components", "radius", "steps", "seed")


def main(
    seeds: tuple[int, ...] = (0, 1, 2),
    components: int = 16,
    radius: float = 0.5,
    steps: int = 6000,
    validation: bool = False,
    out: Path = Path("runs/generator_nm"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each set of networks and seed to generator/nm.csv.

    Args:
        seeds: Seeds of networks, tickets and generators.
        components: Number of components of the compression.
        radius: Radius of the sphere that samples start on.
        steps: Steps of refinement.
        validation: Networks are evaluated on the validation split, to choose a setting; otherwise on the test split.
        out: Folder where every stage is kept; the same command continues there.
        results: Folder of the result tables.
    """
    split = "validation" if validation else "test"
    task, pattern = ws.tasks.digits(), ws.NM(2, 4)
    evaluation_task = replace(task, test=task.validation) if validation else task
    rows: list[dict[str, object]] = []
    for seed in seeds:
        folder = out / f"seed-{seed}"
        dense = ws.collect(task, LEARNED_FROM + HELD_OUT, seed=seed, folder=folder / "dense")
        masks = pattern.mask(dense.weights.abs(), dense.layout)
        pruned = dense.replace(weights=dense.weights * masks, masks=masks)
        tickets = ws.train(pruned, task, "30ep", folder=folder / "tickets")
        training, held_out = tickets.split(LEARNED_FROM, HELD_OUT)
        model = ws.TicketGenerator(
            compress=ws.PCA(components),
            generate=ws.FlowMatching(validation_fraction=0.1),
            refine=ws.TaskRefinement(steps=steps, radius=radius, patterns=[pattern]),
        )
        kind = f"{components}-{radius}-{steps}"
        generator = model.fit(training, task=task, seed=seed, folder=folder / f"generator-{kind}")
        draw = {"pattern": pattern, "seed": seed + 1}
        others = {
            "flow alone": replace(generator, refined=None).sample(SAMPLES, **draw),
            "tickets trained on": digits.trained_on(model, training, task, folder / f"trained-on-{steps}"),
            "dense": dense[:SAMPLES],
        }
        samples = generator.sample(SAMPLES, **draw)
        fit = tuning.training_nll(samples, task).mean()
        print(f"training NLL of samples {fit:.4f}, of tickets {tuning.training_nll(training, task).mean():.4f}")
        report = ws.evaluate(
            samples,
            evaluation_task,
            training=training,
            held_out=held_out,
            others=others,
            dropout=None,
            seed=seed,
        )
        report.write(folder / f"report-{kind}")
        keys = {"split": split, "components": components, "radius": radius, "steps": steps, "seed": seed}
        keys["density"] = report[report.samples].mean("density")
        rows += report_rows.rows(report, keys)
        tables.add(results / "generator/nm.csv", rows, SETTINGS)
        few = [row for row in rows if row["networks"] in ("samples", report.reference, *others)]
        report_rows.summary(few, ("networks",))


if __name__ == "__main__":
    tyro.cli(main)
