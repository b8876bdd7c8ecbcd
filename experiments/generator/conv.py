"""Does the generator work on a network with convolutions, residual connections and BatchNorm?

    python -m experiments.generator.conv --data-root data        (about an hour and a half on one core; resumable)

ResNet with two residual blocks (8 and 16 channels, BatchNorm, projection shortcut; 5 thousand parameters) on
Fashion-MNIST at half resolution, 10,000 of its training and 2,000 of its test images; 88 networks of 6 epochs,
tickets of density 0.10 by 6 epochs of gradual pruning, 64 of them for the generator. A tenth of their codes chooses
the flow's weights: trained to the end it memorises the 64, and samples are as many clusters (--memorise). All
networks get the same BatchNorm pass over training data.
"""

from dataclasses import replace
from pathlib import Path

import tyro
from torch import nn
from torch.nn import functional as F

import weightspace as ws
from experiments.common import report_rows, tables
from weightspace.models.resnet import ResNet

NETWORKS, LEARNED_FROM, SAMPLES, DENSITY = 88, 64, 100, 0.10


def network() -> nn.Module:
    """A ResNet with two residual blocks."""
    return ResNet((1, 1), (8, 16), inputs=1)


def small_task(data_root: Path | None) -> ws.Task:
    """Fashion-MNIST at 14 x 14 pixels, 10,000 training images."""
    task = ws.tasks.fashion_mnist(data_root=data_root)
    halved = {
        name: ws.Split(F.avg_pool2d(split.x[:limit], 2), split.y[:limit])
        for name, split, limit in (
            ("train", task.train, 10_000),
            ("validation", task.validation, None),
            ("test", task.test, None),
        )
    }
    architecture = ws.Architecture.of(network)
    recipe = ws.Recipe(ws.Step(epochs=6), batch_size=128, optimizer=ws.Adam(lr=3e-3), schedule="cosine")
    return replace(task, name="fashion_mnist_14", architecture=architecture, recipe=recipe, ood=None, **halved)


# Columns of the table that say what a row was measured with.
SETTINGS = ("density", "components", "radius", "steps", "validation_fraction", "mask_diversity", "seed")


def main(
    data_root: Path | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    components: int = 12,
    steps: int = 3000,
    mask_diversity: float = 0.15,
    radius: float = 0.3,
    memorise: bool = False,
    out: Path = Path("runs/generator_conv"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each set of networks and generator to generator/conv.csv.

    Args:
        data_root: Folder with FashionMNIST/raw; None looks where the library looks.
        seeds: Seeds of the generators and their samples; networks and tickets are the same.
        components: Number of components of the compression.
        steps: Steps of refinement.
        mask_diversity: Weight of the penalty on masks that are alike.
        radius: Radius of the sphere that samples start on.
        memorise: Train the flow to the end, so that it memorises the tickets, and use its codes without a sphere.
        out: Folder where every stage is kept; the same command continues there.
        results: Folder of the result tables.
    """
    task = small_task(data_root)
    evaluation_task = replace(task, test=ws.Split(task.test.x[:2000], task.test.y[:2000]))
    dense = ws.collect(task, NETWORKS, folder=out / "dense")
    gradual = ws.tickets.GradualPruning(density=DENSITY, length=ws.Step(epochs=6))
    tickets = gradual.find(dense, task, folder=out / "tickets")
    training, held_out = tickets.split(LEARNED_FROM, NETWORKS - LEARNED_FROM)
    kind = f"{components}-{steps}-{mask_diversity}-{radius}{'-by-heart' * memorise}"
    fraction, start = (0.0, None) if memorise else (0.1, radius)
    settings = {
        "density": DENSITY,
        "components": components,
        "radius": start,
        "steps": steps,
        "validation_fraction": fraction,
        "mask_diversity": mask_diversity,
    }
    rows: list[dict[str, object]] = []
    for seed in seeds:
        model = ws.TicketGenerator(
            compress=ws.PCA(components),
            generate=ws.FlowMatching(validation_fraction=fraction),
            refine=ws.TaskRefinement(steps=steps, networks=16, radius=start, mask_diversity=mask_diversity),
        )
        generator = model.fit(
            training, task=task, example=task.train.x[:8], seed=seed, folder=out / f"generator-{seed}-{kind}"
        )
        draw = {"density": DENSITY, "data": task.train, "seed": seed + 1}
        samples = generator.sample(SAMPLES, **draw)
        flow_alone = replace(generator, refined=None).sample(SAMPLES, **draw)
        report = ws.evaluate(
            samples,
            evaluation_task,
            training=training,
            held_out=held_out,
            others={"flow alone": flow_alone, "dense": dense},
            align=model.align,
            dropout=None,
            seed=seed,
        )
        report.write(out / f"report-{seed}-{kind}")
        keys = settings | {"seed": seed}
        rows += report_rows.rows(report, keys)
        tables.add(results / "generator/conv.csv", rows, SETTINGS)
        few = [row for row in rows if row["networks"] in ("samples", report.reference, "flow alone", "dense")]
        report_rows.summary(few, ("networks",))


if __name__ == "__main__":
    tyro.cli(main)
