"""What a setting of the refinement does, on validation data: how the settings of the other experiments were chosen.

    python experiments/generator_tuning.py runs/generator_digits/digits-0/density-0.1/tickets --lr 1e-3 --diversity 0.3

Fits a generator to a folder of tickets (built-in tasks and networks; the convolutional one with --conv) and prints
fit, accuracy, mask overlap and ensemble of 100 samples beside 100 of the tickets. The test split is not read.
"""

from dataclasses import replace
from pathlib import Path

import generator_conv
import torch
import tyro
from tyro.conf import Positional

import weightspace as ws
from weightspace.generate import Directions

IMAGES = 2000  # of the training and of the validation split


def main(
    tickets: Positional[Path], learned_from: int = 320, steps: int = 4000, networks: int = 32, batch_size: int = 128,
    lr: float = 1e-3, lr_mean: float | None = None, ramp: float = 0.0,
    densities: tuple[float, ...] = (), gates: bool = False, diversity: float = 0.3,
    length: float | None = None, components: int = 128, flow_steps: int = 4000,
    directions: Directions = "tickets",
    conv: bool = False, data_root: Path | None = None, seed: int = 0,
) -> None:  # fmt: skip
    """Print one line for the tickets, the samples and the flow alone.

    Args:
        tickets: folder.
        learned_from: how many of them the generator sees.
        steps: of refinement.
        networks: samples a step.
        batch_size: images for each of them.
        lr: of the components.
        lr_mean: of the mean; by default three times lr.
        ramp: share of the steps in which samples become sparse.
        densities: that it is refined under; by default the tickets' own.
        gates: decide the masks.
        diversity: weight of the penalties.
        length: that codes are brought to; None leaves them as the flow makes them.
        components: of the compression.
        flow_steps: training iterations of the flow.
        directions: that refinement starts from.
        conv: the tickets are those of generator_conv.py.
        data_root: folder with MNIST/raw and FashionMNIST/raw.
        seed: of the generator.
    """
    factory = generator_conv.network if conv else None
    found = ws.Collection.load(tickets, factory=factory)[:learned_from]
    task = generator_conv.small_task(data_root) if conv else task_of(found, data_root)
    refine = ws.TaskRefinement(
        task,
        steps=steps,
        networks=networks,
        batch_size=batch_size,
        lr=lr,
        lr_mean=lr_mean or 3 * lr,
        ramp=ramp,
        patterns=[*map(ws.Unstructured, densities)] or None,
        diversity=diversity,
        length=length,
        directions=directions,
    )
    model = ws.TicketGenerator(
        align=ws.WeightMatching(example=task.train.x[:8]),
        compress=ws.PCA(components),
        generate=ws.FlowMatching(steps=flow_steps),
        refine=refine,
        masks=ws.Gates() if gates else ws.Magnitude(),
    )
    generator = model.fit(found, seed=seed)
    assert generator.align is not None
    draw = {"density": found.densities.median().item(), "data": task.train, "seed": seed + 1}
    show("tickets", generator.align.transform(found[:100]), task)
    show("samples", generator.sample(100, **draw), task)
    show("flow alone", replace(generator, refined=None).sample(100, **draw), task)


def task_of(tickets: ws.Collection, data_root: Path | None) -> ws.Task:
    """The built-in task that the tickets' records name."""
    sizes = tickets.architecture.arguments["sizes"][1:-1]
    name = tickets.records[0]["task"]
    if name == "digits":
        return ws.tasks.digits(hidden=sizes)
    known = {"mnist": ws.tasks.mnist, "fashion_mnist": ws.tasks.fashion_mnist}
    return known[name](hidden=sizes, data_root=data_root)


def show(name: str, networks: ws.Collection, task: ws.Task) -> None:
    x, y = task.train.x[:IMAGES], task.train.y[:IMAGES]
    trained = networks.ensemble().member_proba(x).double().gather(2, y.expand(len(networks), -1)[..., None])
    fit = -trained[..., 0].log().mean(1)
    x, y = task.validation.x[:IMAGES], task.validation.y[:IMAGES]
    probable = networks.ensemble().member_proba(x).double()
    right = (probable.argmax(-1) == y).double().mean(1)
    mean = probable.mean(0)
    kept = networks.masks[:, networks.layout.prunable].float()
    first, second = torch.triu_indices(len(kept), len(kept), offset=1)
    overlap = (kept @ kept.T)[first, second].mean() / kept.sum(1).mean()
    apart = torch.cdist(networks.weights, networks.weights).fill_diagonal_(torch.inf).amin(1).median()
    print(
        f"{name}: training NLL {fit.mean():.4f} ± {fit.std():.4f}, accuracy {right.mean():.4f} ± {right.std():.4f}, "
        f"nearest sample {apart:.2f}, mask overlap {overlap:.2f}, "
        f"ensemble accuracy {(mean.argmax(-1) == y).double().mean():.4f}, NLL {-mean.gather(1, y[:, None]).log().mean():.4f}",
        flush=True,
    )


if __name__ == "__main__":
    tyro.cli(main)
