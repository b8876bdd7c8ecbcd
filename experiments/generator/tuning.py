"""What does a setting of the refinement do, on validation data?

    python -m experiments.generator.tuning runs/generator_digits/digits-0/density-0.1/tickets --radius 0.9

How the settings of the other experiments were chosen (minutes each). Fits a generator to tickets (built-in
tasks and networks; the convolutional one with --conv) and evaluates 100 samples as the other experiments do, but on the
validation split in place of the test split, which is not read. Figures are printed and added to a table; those from
before there was one are in NOTES.md alone.
"""

from dataclasses import replace
from pathlib import Path

import torch
import tyro
from tyro.conf import Positional

import weightspace as ws
from experiments.common import report_rows, tables
from experiments.generator import conv as conv_study
from experiments.generator import digits
from weightspace.generator import Directions

IMAGES = 2000  # of the training and of the validation split


# Columns of the table that say what a row was measured with.
SETTINGS = (
    "task", "density", "learned_from", "components", "radius", "steps", "ramp", "densities", "networks_per_step",
    "batch_size", "lr", "lr_mean", "diversity", "mask_diversity", "masks", "directions", "decoder", "flow_steps",
    "validation_fraction", "seed",
)  # fmt: skip


def main(
    tickets: Positional[tuple[Path, ...]],
    learned_from: int = 320,
    steps: int = 8000,
    networks: int = 32,
    batch_size: int = 128,
    lr: float = 1e-3,
    lr_mean: float | None = None,
    ramp: float = 0.0,
    densities: tuple[float, ...] = (),
    gates: bool = False,
    diversity: float = 0.3,
    mask_diversity: float = 0.3,
    radius: float | None = None,
    components: int = 16,
    flow_steps: int = 4000,
    validation_fraction: float = 0.1,
    directions: Directions = "tickets",
    random_decoder: bool = False,
    conv: bool = False,
    data_root: Path | None = None,
    seed: int = 0,
    results: Path = tables.RESULTS,
) -> None:
    """Print figures and verdicts, and add one row each for the tickets, the samples and the flow alone.

    Args:
        tickets: Folder of the tickets, or folders of one collection in parts.
        learned_from: Number of tickets that the generator sees; the others are held out.
        steps: Steps of refinement.
        networks: Number of samples a step.
        batch_size: Number of images for each sample of a step.
        lr: Learning rate of the components.
        lr_mean: Learning rate of the mean; None is three times `lr`.
        ramp: Fraction of the steps in which samples become sparse.
        densities: Densities of the refinement; none given takes the tickets' density.
        gates: Gates decide the masks, in place of magnitudes.
        diversity: Weight of the penalty on values that are alike.
        mask_diversity: Weight of the penalty on masks that are alike.
        radius: Radius of the sphere that samples start on; None leaves codes as the flow makes them.
        components: Number of components of the compression.
        flow_steps: Training steps of the flow.
        validation_fraction: Fraction of the codes that chooses the flow's weights.
        directions: Directions that refinement starts from.
        random_decoder: An untrained network and random directions in place of the tickets', the control of digits.py.
        conv: The tickets are those of conv.py.
        data_root: Folder with MNIST/raw and FashionMNIST/raw; None looks where the library looks.
        seed: Seed of the generator.
        results: Folder of the result tables.
    """
    factory = conv_study.network if conv else None
    every = ws.Collection.concatenate([ws.Collection.load(folder, factory=factory) for folder in tickets])
    found, held = every[:learned_from], every[learned_from:]
    task = conv_study.small_task(data_root) if conv else task_of(found, data_root)
    refine = ws.TaskRefinement(
        task,
        steps=steps,
        networks=networks,
        batch_size=batch_size,
        lr=lr,
        lr_mean=lr_mean,
        ramp=ramp,
        patterns=[*map(ws.Unstructured, densities)] or None,
        diversity=diversity,
        mask_diversity=mask_diversity,
        radius=radius,
        directions=directions,
    )
    model = ws.TicketGenerator(
        compress=ws.PCA(components),
        generate=ws.FlowMatching(steps=flow_steps, validation_fraction=validation_fraction),
        refine=refine,
        masks=ws.GateMask() if gates else ws.MagnitudeMask(),
    )
    generator = replace(model, refine=None if random_decoder else refine).fit(
        found, example=task.train.x[:8], seed=seed
    )
    if random_decoder:
        generator = digits.refined_random(generator, refine, found, task, seed)
    draw = {"density": found.densities.median().item(), "data": task.train, "seed": seed + 1}
    samples, alone = generator.sample(100, **draw), replace(generator, refined=None).sample(100, **draw)
    judged = replace(task, test=ws.Split(task.validation.x[:IMAGES], task.validation.y[:IMAGES]))
    report = ws.evaluate(
        samples,
        judged,
        reference=found,
        held_out=held if len(held) else None,
        others={"flow alone": alone},
        align=model.align,
        dropout=None,
        seed=seed,
    )
    rows: list[dict[str, object]] = []
    for name, some in {report.reference: found[:100], report.samples: samples, "flow alone": alone}.items():
        fit = training_nll(some, task)
        print(f"training NLL {fit.mean():.4f} ± {fit.std():.4f}; ", end="")
        row = report_rows.row(report, name)
        keys = {
            "task": task.name,
            "density": draw["density"],
            "learned_from": learned_from,
            "components": components,
            "radius": radius,
            "steps": steps,
            "ramp": ramp,
            "networks_per_step": networks,
            "batch_size": batch_size,
            "densities": " ".join(map(str, densities)) or "the tickets'",
            "lr": lr,
            "lr_mean": lr_mean,
            "diversity": diversity,
            "mask_diversity": mask_diversity,
            "masks": "gates" if gates else "magnitude",
            "directions": directions,
            "decoder": "random" if random_decoder else "tickets",
            "flow_steps": flow_steps,
            "validation_fraction": validation_fraction,
            "seed": seed,
        }
        rows.append(keys | {"training NLL": fit.mean().item(), "training NLL std": fit.std().item()} | row)
        report_rows.summary([row], ("networks",))
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
    """Of each network: it tells a generator that has not learned enough from one that knows too much by heart."""
    x, y = task.train.x[:IMAGES], task.train.y[:IMAGES]
    probable = networks.ensemble().member_proba(x).double().gather(2, y.expand(len(networks), -1)[..., None])
    return -probable[..., 0].log().mean(1)


if __name__ == "__main__":
    tyro.cli(main)
