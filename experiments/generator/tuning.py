"""What a setting of the refinement does, on validation data: how the settings of the other experiments were chosen.

    python -m experiments.generator.tuning runs/generator_digits/digits-0/density-0.1/tickets --components 16 --radius 0.9

Fits a generator to tickets (built-in tasks and networks; the convolutional one with --conv) and judges 100
samples as the other experiments do, but on the validation split in place of the test split, which is not read. Figures are
printed, and added to a CSV file (those from before there was one are in docs/generator-measured.md alone).
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


def main(
    tickets: Positional[tuple[Path, ...]], learned_from: int = 320, steps: int = 8000, networks: int = 32, batch_size: int = 128,
    lr: float = 1e-3, lr_mean: float | None = None, ramp: float = 0.0,
    densities: tuple[float, ...] = (), gates: bool = False, diversity: float = 0.3,
    mask_diversity: float = 0.3,
    radius: float | None = None, components: int = 16, flow_steps: int = 4000, held_out: float = 0.1,
    directions: Directions = "tickets", random_decoder: bool = False,
    conv: bool = False, data_root: Path | None = None, seed: int = 0, results: Path = Path("docs/results"),
) -> None:  # fmt: skip
    """Print one line for the tickets, the samples and the flow alone, and the verdicts.

    Args:
        tickets: folder, or folders of one collection in parts.
        learned_from: how many of them the generator sees; the others are held out.
        steps: of refinement.
        networks: samples a step.
        batch_size: images for each of them.
        lr: of the components.
        lr_mean: of the mean; by default three times lr.
        ramp: share of the steps in which samples become sparse.
        densities: that it is refined under; by default the tickets' own.
        gates: decide the masks.
        diversity: weight of the penalty on values that are alike.
        mask_diversity: weight of the penalty on masks that are alike.
        radius: that samples start at; None leaves codes as the flow makes them.
        components: of the compression.
        flow_steps: training iterations of the flow.
        held_out: share of the codes that it is chosen by.
        directions: that refinement starts from.
        random_decoder: refine an untrained network and random directions instead, the control of digits.py.
        conv: the tickets are those of conv.py.
        data_root: folder with MNIST/raw and FashionMNIST/raw.
        seed: of the generator.
        results: where the CSV file is that the figures are added to.
    """
    given = locals()
    setting = tables.variant(main, **{k: v for k, v in given.items() if k not in ("tickets", "data_root", "results")})
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
        align=ws.WeightMatching(example=task.train.x[:8]),
        compress=ws.PCA(components),
        generate=ws.FlowMatching(steps=flow_steps, held_out=held_out),
        refine=refine,
        masks=ws.Gates() if gates else ws.Magnitude(),
    )
    generator = replace(model, refine=None if random_decoder else refine).fit(found, seed=seed)
    if random_decoder:
        generator = digits.refined_random(generator, refine, found, task, seed)
    draw = {"density": found.densities.median().item(), "data": task.train, "seed": seed + 1}
    samples, alone = generator.sample(100, **draw), replace(generator, refined=None).sample(100, **draw)
    judged = replace(task, test=ws.Split(task.validation.x[:IMAGES], task.validation.y[:IMAGES]))
    report = ws.evaluate(
        samples, judged, reference=found, held_out=held if len(held) else None, others={"flow alone": alone},
        align=model.align, dropout=None, seed=seed,
    )  # fmt: skip
    rows: list[dict[str, object]] = []
    for name, some in {report.reference: found[:100], report.samples: samples, "flow alone": alone}.items():
        fit = training_nll(some, task)
        print(f"training NLL {fit.mean():.4f} ± {fit.std():.4f}; ", end="")
        row = report_rows.row(report, name)
        keys = {"task": task.name, "density": draw["density"], "settings": setting.strip("_")}
        rows.append(keys | {"training NLL": fit.mean().item(), "training NLL std": fit.std().item()} | row)
        report_rows.summary([row], ("networks",))
    tables.add(results / "generator_tuning.csv", rows)
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
