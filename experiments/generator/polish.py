"""How many training steps do samples need to be as good as tickets, and what is left of their novelty then?

    python -m experiments.generator.polish --data-root data --workers 2      (after experiments.generator.fashion)

Goes on in the folder of `experiments.generator.fashion`, which is made where it is not there: its tickets, its novel
generators. Samples are polished for 0, 10, 30, 100 and 300 steps of the task's recipe; so are as many tickets, and as
many copies of the mean of the aligned tickets, pruned to the density, each through the data in an order of its own.
Every row is judged beside the same training and held-out tickets.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import OmitArgPrefixes

import weightspace as ws
from experiments.common import report_rows, tables
from experiments.generator.fashion import LADDER, LEARNED_FROM, NETWORKS, SAMPLES, SHARDS, Fit, Study, ready

SETTINGS = ("density", "polish", "seed")
MEAN, LONGER = "mean, polished", "tickets, polished"


@dataclass(frozen=True)
class Polished:
    """What one report can be made from by any worker.

    Args:
        study: The study of Fashion-MNIST.
    """

    study: Study

    def report(self, job: tuple[int, int, int]) -> list[dict[str, object]]:
        """Rows of one number of levels, seed and number of steps."""
        ready()
        levels, seed, steps = job
        study, density = self.study, LADDER[levels - 1].density
        task = study.task()
        training, held_out = study.tickets(density).split(LEARNED_FROM, NETWORKS - LEARNED_FROM)
        here = study.out / f"density-{density}-{seed}-{study.fit.kind}"
        model = ws.TicketGenerator(
            compress=ws.PCA(study.fit.components),
            generate=ws.FlowMatching(validation_fraction=0.1),
            refine=study.refine(density),
        )
        generator = model.fit(training, task=task, seed=seed, folder=here / "generator")
        samples = generator.sample(
            SAMPLES,
            density=density,
            polish=f"{steps}it" if steps else None,
            task=task if steps else None,
            seed=seed + 1,
            folder=here / f"samples-{steps}",
        )
        others = {LONGER: training[:SAMPLES], MEAN: mean_of(training, task, seed)}
        if steps:
            others = {
                name: ws.train(networks, task, f"{steps}it", folder=here / f"{name.split(',')[0]}-{steps}")
                for name, networks in others.items()
            }
        report = ws.evaluate(
            samples, task, training=training, held_out=held_out, others=others, dropout=None,
            knowledge=generator.knowledge, seed=seed,
        )  # fmt: skip
        report.write(here / f"report-{steps}")
        rows = report_rows.rows(report, {"density": density, "polish": steps, "seed": seed})
        shown = ("training tickets", "held-out tickets", "samples", LONGER, MEAN)
        return [row for row in rows if row["networks"] in shown]


def mean_of(training: ws.Collection, task: ws.Task, seed: int) -> ws.Collection:
    """As many copies of the tickets' mean as there are samples, pruned, each with a seed of its own."""
    aligned = ws.WeightMatching().fit(training, example=task.train.head(8).x).transform(training)
    mean = aligned.weights.mean(0, keepdim=True).expand(SAMPLES, -1).clone()
    masks = ws.Unstructured(float(training.densities.median())).mask(mean.abs(), training.layout)
    records = [{"kind": "mean", "index": i, "seed": 10_000 * (seed + 1) + i} for i in range(SAMPLES)]
    return ws.Collection(
        training.layout, mean * masks, architecture=training.architecture, masks=masks, records=records
    )


def main(
    data_root: Path | None = None,
    densities: int = 2,
    polish: tuple[int, ...] = (0, 10, 30, 100, 300),
    seeds: tuple[int, ...] = (0, 1, 2),
    fit: OmitArgPrefixes[Fit] = Fit(),
    workers: int = 1,
    out: Path = Path("runs/generator_fashion"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each set of networks, density, seed and number of steps to generator/polish.csv.

    Args:
        data_root: Folder with FashionMNIST/raw; None looks where the library looks.
        densities: Number of densities; 1 stops after 0.10, 2 goes on to 0.05.
        polish: Numbers of training steps.
        seeds: Seeds of the generators and their samples; networks and tickets are the same.
        fit: How the generators are fitted; by default the novel setting.
        workers: Number of processes, of one thread each.
        out: Folder of experiments.generator.fashion; the same command continues there.
        results: Folder of the result tables.
    """
    study = Study(data_root, out, fit)
    polished, rows = Polished(study), list[dict[str, object]]()
    study.task()  # unpacks the images, before several workers would do so at once
    with ws.processes(workers) as pool:
        for levels in range(1, densities + 1):
            list(pool.map(study.prepare, [(shard, levels) for shard in range(SHARDS)]))
            jobs = [(levels, seed, count) for seed in seeds for count in polish]
            for judged in pool.map(polished.report, jobs):
                rows += judged
                tables.add(results / "generator/polish.csv", rows, SETTINGS)
    report_rows.summary(rows, ("density", "polish", "networks"))


if __name__ == "__main__":
    tyro.cli(main)
