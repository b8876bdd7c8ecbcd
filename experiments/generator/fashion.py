"""Does the generator work for LeNet-300-100 on Fashion-MNIST, at densities 0.10 and 0.05?

    python -m experiments.generator.fashion --data-root data --workers 2      (some hours; every stage is kept)

264 networks of 5 epochs (Adam 1e-3, cosine decay, batches of 128); tickets of density 0.10 by 9 further epochs of
gradual magnitude pruning, where their validation loss is at its lowest, and from these in 7 more epochs tickets of
density 0.05. The generator sees 200 of them, a tenth of the codes chooses its flow, and its refinement starts from
random directions. Three generators with other seeds on the same tickets. Control: the tickets trained further, for as
many gradients of single networks on single images as the refinement takes.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from tyro.conf import OmitArgPrefixes

import weightspace as ws
from experiments.common import budget, report_rows, tables
from weightspace.generator import Directions
from weightspace.runtime import allocator, threads

NETWORKS, LEARNED_FROM, SAMPLES, SHARDS = 264, 200, 100, 6
LADDER = (
    ws.tickets.GradualPruning(density=0.10, length=ws.Step(epochs=9), ramp=0.5),
    ws.tickets.GradualPruning(density=0.05, length=ws.Step(epochs=7)),
)  # each starts from the tickets before it
RAMPS = {0.10: 0.0, 0.05: 0.5}  # of the refinement: no difference at 0.10; at 0.05 digits need one (validation data)


@dataclass(frozen=True)
class Fit:
    """How the generators are fitted.

    Args:
        components: Number of components of the compression.
        radius: Radius of the sphere that samples start on; None leaves codes as the flow makes them.
        steps: Steps of refinement.
        lr_mean: Learning rate of the mean; the components' is 1e-4.
        directions: Directions that refinement starts from.
        mask_diversity: Weight of the penalty on masks that are alike.
    """

    components: int = 32
    radius: float | None = None
    steps: int = 8000
    lr_mean: float = 4e-4
    directions: Directions = "random"
    mask_diversity: float = 0.2

    @property
    def kind(self) -> str:
        """The name of its folders."""
        return "-".join(map(str, vars(self).values()))


@dataclass(frozen=True)
class Study:
    """What its two kinds of work, one shard of the networks and one generator, can be done from by any worker.

    Args:
        data_root: Folder with FashionMNIST/raw; None looks where the library looks.
        out: Folder where every stage is kept.
        fit: How the generators are fitted.
        networks: Number of networks.
        learned_from: How many of them the generator sees; the others are held out.
        samples: Number of samples.
        shards: Number of parts that networks are made in.
        hidden: Widths of the hidden layers.
        epochs: Epochs of training of a network.
        ladder: How tickets are found, each from those before it.
    """

    data_root: Path | None
    out: Path
    fit: Fit
    networks: int = NETWORKS
    learned_from: int = LEARNED_FROM
    samples: int = SAMPLES
    shards: int = SHARDS
    hidden: tuple[int, ...] = (300, 100)
    epochs: int = 5
    ladder: tuple[ws.tickets.GradualPruning, ...] = LADDER

    def task(self) -> ws.Task:
        """Fashion-MNIST, with some epochs of training."""
        task = ws.tasks.fashion_mnist(self.hidden, data_root=self.data_root)
        return replace(task, recipe=replace(task.recipe, length=ws.Step(epochs=self.epochs)))

    def kept(self, shard: int, stage: str) -> Path:
        """Folder of one stage of a shard."""
        return self.out / f"shard-{shard}" / stage

    def prepare(self, job: tuple[int, int]) -> None:
        """A shard of the tickets after some levels of the ladder, made where it is not there."""
        ready()
        (shard, levels), task = job, self.task()
        networks = ws.collect(task, self.networks, shard=(shard, self.shards), folder=self.kept(shard, "dense"))
        for gradual in self.ladder[:levels]:
            networks = gradual.find(networks, task, folder=self.kept(shard, f"tickets-{gradual.density}"))

    def tickets(self, density: float) -> ws.Collection:
        """Read from the folders, as `find` lets one process at a time into a folder and generators are fitted side by
        side.
        """
        shards = [ws.Collection.load(self.kept(shard, f"tickets-{density}")) for shard in range(self.shards)]
        return ws.Collection.concatenate(shards)

    def longer(self, density: float) -> Path:
        """Where tickets are that were trained on."""
        return self.out / f"density-{density}-trained-on-{self.fit.steps}"

    def train_on(self, levels: int) -> None:
        """The control, the same for all seeds of the generator."""
        ready()
        task, density = self.task(), self.ladder[levels - 1].density
        refine = self.refine(density)
        length = budget.length_for(budget.gradients(refine) / self.learned_from, task)
        ws.train(self.tickets(density)[: self.samples], task, length, folder=self.longer(density))

    def refine(self, density: float) -> ws.TaskRefinement:
        """The refinement at this density."""
        return ws.TaskRefinement(
            steps=self.fit.steps,
            networks=16,
            lr=1e-4,
            lr_mean=self.fit.lr_mean,
            diversity=0.2,
            mask_diversity=self.fit.mask_diversity,
            radius=self.fit.radius,
            directions=self.fit.directions,
            ramp=RAMPS[density],
        )

    def generator(self, job: tuple[int, int]) -> list[dict[str, object]]:
        """Fit one generator and judge it."""
        ready()
        levels, seed = job
        task, density = self.task(), self.ladder[levels - 1].density
        training, held_out = self.tickets(density).split(self.learned_from, self.networks - self.learned_from)
        model = ws.TicketGenerator(
            compress=ws.PCA(self.fit.components),
            generate=ws.FlowMatching(validation_fraction=0.1),
            refine=self.refine(density),
        )
        here = self.out / f"density-{density}-{seed}-{self.fit.kind}"
        generator = model.fit(training, task=task, seed=seed, folder=here / "generator")
        draw = {"density": density, "seed": seed + 1}
        samples = generator.sample(self.samples, **draw)
        others = {
            "flow alone": replace(generator, refined=None).sample(self.samples, **draw),
            "tickets trained on": ws.Collection.load(self.longer(density)),
        }
        report = ws.evaluate(
            samples, task, training=training, held_out=held_out, others=others, dropout=None, seed=seed
        )
        report.write(here / "report")
        keys = {"density": density, "ramp": RAMPS[density], "seed": seed} | vars(self.fit)
        return report_rows.rows(report, keys)


def ready() -> None:
    """A worker: one thread, and freed memory stays with it."""
    threads.use(1)
    allocator.keep()


# Columns of the table that say what a row was measured with.
SETTINGS = (
    "density", "components", "radius", "steps", "ramp", "lr_mean", "directions", "mask_diversity", "seed",
)  # fmt: skip


def main(
    data_root: Path | None = None,
    densities: int = 2,
    seeds: tuple[int, ...] = (0, 1, 2),
    fit: OmitArgPrefixes[Fit] = Fit(),
    workers: int = 1,
    out: Path = Path("runs/generator_fashion"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each set of networks, density and seed to generator/fashion.csv.

    Args:
        data_root: Folder with FashionMNIST/raw; None looks where the library looks.
        densities: Number of densities; 1 stops after 0.10, 2 goes on to 0.05.
        seeds: Seeds of the generators and their samples; networks and tickets are the same.
        fit: How the generators are fitted.
        workers: Number of processes, of one thread each.
        out: Folder where every stage is kept; the same command continues there.
        results: Folder of the result tables.
    """
    study = Study(data_root, out, fit)
    rows: list[dict[str, object]] = []
    study.task()  # unpacks the images, before several workers would do so at once
    shown = ("training tickets", "held-out tickets", "samples", "flow alone", "tickets trained on")
    with ws.processes(workers) as pool:
        for levels in range(1, densities + 1):
            list(pool.map(study.prepare, [(shard, levels) for shard in range(study.shards)]))
            list(pool.map(study.train_on, [levels]))
            for judged in pool.map(study.generator, [(levels, seed) for seed in seeds]):
                rows += judged
                tables.add(results / "generator/fashion.csv", rows, SETTINGS)
    report_rows.summary([row for row in rows if row["networks"] in shown], ("density", "networks"))


if __name__ == "__main__":
    tyro.cli(main)
