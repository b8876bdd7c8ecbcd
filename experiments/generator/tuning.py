"""What does a setting of the refinement do, on validation data?

    python -m experiments.generator.tuning runs/generator_digits/digits-0/density-0.1/tickets --radius 0.9

How the settings of the other experiments were chosen (minutes each). Fits a generator to tickets (built-in
tasks and networks; the convolutional one with --conv) and evaluates 100 samples as the other experiments do, but on the
validation split in place of the test split, which is not read. Figures are printed and added to a table; those from
before there was one are in NOTES.md alone.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from tyro.conf import OmitArgPrefixes, Positional

import weightspace as ws
from experiments.common import report_rows, tables
from experiments.generator import conv as conv_study
from experiments.generator import digits
from weightspace.generator import Directions, FittedGenerator

IMAGES = 2000  # of the training and of the validation split


@dataclass(frozen=True)
class Fit:
    """How the generator is fitted.

    Args:
        learned_from: Number of tickets that the generator sees; the others are held out.
        components: Number of components of the compression.
        radius: Radius of the sphere that samples start on; None leaves codes as the flow makes them.
        steps: Steps of refinement.
        ramp: Fraction of the steps in which samples become sparse.
        densities: Densities of the refinement; none given takes the tickets' density.
        networks_per_step: Number of samples a step.
        batch_size: Number of images for each sample of a step.
        lr: Learning rate of the components.
        lr_mean: Learning rate of the mean; None is three times `lr`.
        diversity: Weight of the penalty on values that are alike.
        mask_diversity: Weight of the penalty on masks that are alike.
        masks: What decides the masks.
        directions: Directions that refinement starts from.
        decoder: "random" is an untrained network and random directions, the control of digits.py.
        flow_steps: Training steps of the flow.
        validation_fraction: Fraction of the codes that chooses the flow's weights.
        seed: Seed of the generator.
    """

    learned_from: int = 320
    components: int = 16
    radius: float | None = None
    steps: int = 8000
    ramp: float = 0.0
    densities: tuple[float, ...] = ()
    networks_per_step: int = 32
    batch_size: int = 128
    lr: float = 1e-3
    lr_mean: float | None = None
    diversity: float = 0.3
    mask_diversity: float = 0.3
    masks: Literal["magnitude", "gates"] = "magnitude"
    directions: Directions = "tickets"
    decoder: Literal["tickets", "random"] = "tickets"
    flow_steps: int = 4000
    validation_fraction: float = 0.1
    seed: int = 0

    def refine(self) -> ws.TaskRefinement:
        """The refinement with these settings."""
        return ws.TaskRefinement(
            steps=self.steps,
            networks=self.networks_per_step,
            batch_size=self.batch_size,
            lr=self.lr,
            lr_mean=self.lr_mean,
            ramp=self.ramp,
            patterns=[*map(ws.Unstructured, self.densities)] or None,
            diversity=self.diversity,
            mask_diversity=self.mask_diversity,
            radius=self.radius,
            directions=self.directions,
        )

    def generator(self, tickets: ws.Collection, task: ws.Task) -> FittedGenerator:
        """The fitted generator."""
        model = ws.TicketGenerator(
            compress=ws.PCA(self.components),
            generate=ws.FlowMatching(steps=self.flow_steps, validation_fraction=self.validation_fraction),
            refine=self.refine() if self.decoder == "tickets" else None,
            masks=ws.GateMask() if self.masks == "gates" else ws.MagnitudeMask(),
        )
        fitted = model.fit(tickets, task=task, example=task.train.x[:8], seed=self.seed)
        if self.decoder == "tickets":
            return fitted
        return digits.refined_random(fitted, self.refine(), tickets, task, self.seed)

    @property
    def columns(self) -> dict[str, object]:
        """Its columns in the table."""
        return {**vars(self), "densities": " ".join(map(str, self.densities)) or "the tickets'"}


# Columns of the table that say what a row was measured with.
SETTINGS = ("task", "density", *(field.name for field in fields(Fit)))


def main(
    tickets: Positional[tuple[Path, ...]],
    fit: OmitArgPrefixes[Fit] = Fit(),
    conv: bool = False,
    data_root: Path | None = None,
    results: Path = tables.RESULTS,
) -> None:
    """Print figures and verdicts, and add one row each for the tickets, the samples and the flow alone.

    Args:
        tickets: Folder of the tickets, or folders of one collection in parts.
        fit: How the generator is fitted.
        conv: The tickets are those of conv.py.
        data_root: Folder with MNIST/raw and FashionMNIST/raw; None looks where the library looks.
        results: Folder of the result tables.
    """
    factory = conv_study.network if conv else None
    every = ws.Collection.concatenate([ws.Collection.load(folder, factory=factory) for folder in tickets])
    training, held_out = every[: fit.learned_from], every[fit.learned_from :]
    task = conv_study.small_task(data_root) if conv else task_of(training, data_root)
    generator = fit.generator(training, task)
    draw = {"density": training.densities.median().item(), "data": task.train, "seed": fit.seed + 1}
    samples, alone = generator.sample(100, **draw), replace(generator, refined=None).sample(100, **draw)
    validation = replace(task, test=ws.Split(task.validation.x[:IMAGES], task.validation.y[:IMAGES]))
    report = ws.evaluate(
        samples,
        validation,
        training=training,
        held_out=held_out if len(held_out) else None,
        others={"flow alone": alone},
        align=ws.WeightMatching(),
        dropout=None,
        seed=fit.seed,
    )
    rows: list[dict[str, object]] = []
    for name, networks in {report.reference: training[:100], report.samples: samples, "flow alone": alone}.items():
        nll = training_nll(networks, task)
        print(f"training NLL {nll.mean():.4f} ± {nll.std():.4f}; ", end="")
        keys = {"task": task.name, "density": draw["density"]} | fit.columns
        figures = report_rows.row(report, name)
        rows.append(keys | {"training NLL": nll.mean().item(), "training NLL std": nll.std().item()} | figures)
        report_rows.summary([figures], ("networks",))
    tables.add(results / "generator/tuning.csv", rows, SETTINGS)
    for verdict in report.verdicts:
        print(f"{verdict.outcome}: {verdict.words}", flush=True)


def task_of(tickets: ws.Collection, data_root: Path | None) -> ws.Task:
    """The built-in task that the tickets' records name."""
    sizes = tickets.architecture.arguments["sizes"][1:-1]
    name = tickets.records[0]["task"]
    if name == "digits":
        return ws.tasks.digits(hidden=sizes)
    known = {"mnist": ws.tasks.mnist, "fashion_mnist": ws.tasks.fashion_mnist}
    return known[name](hidden=sizes, data_root=data_root)


def training_nll(networks: ws.Collection, task: ws.Task) -> torch.Tensor:
    """Of each network: it tells a generator that has not learned enough from one that has memorised too much."""
    x, y = task.train.x[:IMAGES], task.train.y[:IMAGES]
    likelihoods = networks.ensemble().member_proba(x).double().gather(2, y.expand(len(networks), -1)[..., None])
    return -likelihoods[..., 0].log().mean(1)


if __name__ == "__main__":
    tyro.cli(main)
