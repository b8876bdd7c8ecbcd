"""What makes a ticket: its mask, its signs, its early training, its data, its structure?

    python -m experiments.tickets.ablations --data-root data             (about a quarter of an hour on one core)

1. Deconstruction (arXiv 1905.01067) on digits, MLP 64-128-64-10, five seeds, density 0.10 in every layer: accuracy of
   each mask without training, and trained.
2. The early phase (arXiv 2002.10365) on the same network: IMP tickets of density 0.05 rewound to epoch 2 of 30, with
   rewind weights perturbed.
3. Transfer (arXiv 1906.02773): IMP tickets of LeNet-300-100, density 0.05, from MNIST to Fashion-MNIST and back,
   beside the target's own tickets and shuffled masks; the same tickets trained by SGD in place of Adam. Three seeds,
   2 epochs.
4. Refill and regroup (arXiv 2202.04736) on digits, beside unstructured tickets; channels of a residual network
   (handwritten digits) by Early-Bird (arXiv 1909.11957) beside random channels and IMP by channels.
5. Overlap of one-shot masks on digits, of networks from one initialisation, from one start after 2 epochs, and from
   starts of their own, beside chance.
"""

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import tyro
from torch import nn

import weightspace as ws
from experiments.common import accuracy, tables
from weightspace.models.resnet import ResNet
from weightspace.tickets import IMP, EarlyBird, EarlyPhase, TicketControls, refill, regroup, transfer
from weightspace.tickets.ablations import deconstruct
from weightspace.training.conversion import initial

Rows = list[dict[str, object]]


def main(data_root: Path | None = None, networks: int = 5, results: Path = tables.RESULTS) -> None:
    """Write one row for each variant to tickets/ablations.csv.

    Args:
        data_root: Folder with MNIST/raw and FashionMNIST/raw; None looks where the library looks.
        networks: Number of networks of each kind on digits; network i has seed i.
        results: Folder of the result tables.
    """
    rows: Rows = []
    recipe = ws.Recipe(ws.Step(epochs=30), batch_size=64, optimizer=ws.Adam(lr=3e-3), schedule="cosine")
    task = replace(ws.tasks.digits(), recipe=recipe)
    dense = ws.collect(task, networks)
    studies: tuple[Callable[[], Rows], ...] = (
        lambda: deconstruction(dense, task),
        lambda: early_phase(dense, task),
        lambda: structure(dense, task),
        lambda: overlap(task, networks),
        lambda: birds(task, networks),
        lambda: transfers(data_root),
    )
    for study in studies:
        rows += study()
        tables.write(results / "tickets/ablations.csv", rows)


def row(
    study: str, name: str, networks: ws.Collection, data: ws.tasks.Data, untrained: ws.Collection | None = None
) -> dict[str, object]:
    """One row of the table; accuracies are those of each network."""
    accuracies = accuracy.as_list(networks, data)
    before = statistics.fmean(accuracy.as_list(untrained, data)) if untrained is not None else float("nan")
    print(
        f"{study}: {name:<48} {statistics.fmean(accuracies):.4f} ± {statistics.stdev(accuracies):.4f}  untrained "
        f"{before:.4f}",
        flush=True,
    )
    return {
        "study": study,
        "variant": name,
        "seeds": len(accuracies),
        "density": networks.densities.mean().item(),
        "accuracy": statistics.fmean(accuracies),
        "std": statistics.stdev(accuracies),
        "untrained": before,
    }


def deconstruction(dense: ws.Collection, task: ws.Task) -> Rows:
    """What makes a mask good."""
    rows = [row("deconstruction", "dense", dense, task.test)]
    for name, variant in deconstruct.variants(0.10).items():
        rows.append(row("deconstruction", name, variant.find(dense, task), task.test, variant.start(dense)))
    return rows


def early_phase(dense: ws.Collection, task: ws.Task) -> Rows:
    """Perturbed rewind weights."""
    tickets = IMP(0.05, rewind=ws.Step(epochs=2)).find(dense, task)
    first = initial(task.architecture, tickets.records).weights
    early = EarlyPhase()
    starts = {
        "rewound": TicketControls().rewound(tickets),
        "initialisation": early.noisy(tickets, 0.0).replace(weights=first * tickets.masks),
        "signs of the initialisation": early.signs_of(tickets, first),
        "magnitudes of the initialisation": early.magnitudes_of(tickets, first),
    }
    for within in ("filter", "layer", "network"):
        starts[f"permuted within the {within}"] = early.permuted(tickets, within)
        starts[f"permuted within the {within}, same signs"] = early.permuted(tickets, within, same_sign=True)
    starts |= {f"noise of {scale} standard deviations": early.noisy(tickets, scale) for scale in (0.5, 1.0, 2.0, 3.0)}
    starts |= {
        "re-initialised": TicketControls().reinitialised(tickets),
        "shuffled mask": TicketControls().shuffled(tickets),
    }
    return [row("early phase", name, ws.train(start, task, "28ep"), task.test, start) for name, start in starts.items()]


def structure(dense: ws.Collection, task: ws.Task) -> Rows:
    """Refill and regroup."""
    tickets = IMP(0.20).find(dense, task)
    starts = {
        "refill, most weights": refill(tickets),
        "refill, largest weights": refill(tickets, by="magnitude"),
        "refill+, a tenth more": refill(tickets, extra=0.1),
        "regroup": regroup(tickets),
        "shuffled mask": TicketControls().shuffled(tickets),
    }
    rows = [row("structure", "IMP, unstructured", tickets, task.test)]
    for name, start in starts.items():
        trained = ws.train(start, task, task.recipe.length)
        small = ws.compact(trained.module(0), task.train.x[:4])
        rows.append(
            row("structure", name, trained, task.test) | {"parameters": sum(p.numel() for p in small.parameters())}
        )
    return rows


def network() -> nn.Module:
    """A residual network for digits."""
    return ResNet((1, 1), (16, 32), inputs=1)


def birds(digits: ws.Task, seeds: int) -> Rows:
    """Half of the channels."""
    splits = {
        name: ws.Split(split.x.reshape(-1, 1, 8, 8), split.y)
        for name, split in (("train", digits.train), ("validation", digits.validation), ("test", digits.test))
    }
    recipe = ws.Recipe(ws.Step(epochs=20), batch_size=64, optimizer=ws.Adam(lr=3e-3), schedule="cosine")
    task = replace(digits, architecture=ws.Architecture.of(network), recipe=recipe, **splits)
    dense = ws.collect(task, seeds)
    rows = [row("channels", "dense", dense, task.test)]
    finders = {
        "early-bird": EarlyBird(0.5, history=3),
        "early-bird, no penalty": EarlyBird(0.5, history=3, penalty=0.0),
        "at the last moment": EarlyBird(0.5, max_mask_distance=1e-9),
    }
    for name, finder in finders.items():
        pruned = finder.find(dense, task)
        drawn = statistics.fmean(float(record["drawn_in_epoch"]) for record in pruned.records)
        small = ws.compact(pruned.module(0), task.train.x[:4])
        parameters = sum(p.numel() for p in small.parameters())
        rows.append(
            row("channels", f"{name} (drawn in epoch {drawn:.1f})", pruned, task.test) | {"parameters": parameters}
        )
    halved = IMP(pattern=ws.Channels(0.5), rate=0.5).find(dense, task)
    rows.append(row("channels", "IMP by channels, one shot, two trainings", halved, task.test))
    return rows


def overlap(task: ws.Task, seeds: int) -> Rows:
    """One-shot masks of networks that share a start and differ in data order: what two of them have in common."""
    rows: Rows = []
    plans = {
        "own starts": ws.Independent(),
        "one initialisation": ws.SharedStart(ws.Step()),
        "one start after 2 epochs": ws.SharedStart(ws.Step(epochs=2)),
    }
    for name, plan in plans.items():
        networks = ws.collect(task, seeds, plan=plan)
        for density in (0.5, 0.2, 0.1, 0.05, 0.02):
            masks = ws.Unstructured(density).mask(networks.weights.abs(), networks.layout)
            tickets = networks.replace(weights=networks.weights * masks, masks=masks)
            neighbours = [*range(1, seeds), 0]
            shared, chance = ws.tickets.mask_overlap(tickets, tickets[neighbours])
            print(
                f"overlap: {name}, density {density}: {shared.mean():.3f} ± {shared.std():.3f}, "
                f"chance {chance.mean():.3f}"
            )
            rows.append(
                {
                    "study": "overlap",
                    "variant": name,
                    "seeds": seeds,
                    "density": density,
                    "shared": shared.mean().item(),
                    "shared std": shared.std().item(),
                    "chance": chance.mean().item(),
                }
            )
    return rows


def transfers(data_root: Path | None) -> Rows:
    """Tickets of another task."""
    recipe = ws.Recipe(ws.Step(epochs=2), batch_size=128, optimizer=ws.Adam(lr=1.2e-3), schedule="cosine")
    tasks = {
        "MNIST": replace(ws.tasks.mnist(data_root=data_root), recipe=recipe),
        "Fashion-MNIST": replace(ws.tasks.fashion_mnist(data_root=data_root), recipe=recipe),
    }
    tickets = {name: IMP(0.05).find(ws.collect(task, 3), task) for name, task in tasks.items()}
    rows: Rows = []
    for name, task in tasks.items():
        (source,) = (other for other in tasks if other != name)
        starts = {
            "own tickets": TicketControls().rewound(tickets[name]),
            f"tickets of {source}": transfer(tickets[source], task),
            "own masks, shuffled": TicketControls().shuffled(tickets[name]),
            "own masks, re-initialised": TicketControls().reinitialised(tickets[name]),
        }
        sgd = replace(task, recipe=replace(recipe, optimizer=ws.SGD(lr=0.1, momentum=0.9)))
        for optimizer, used in (("Adam", task), ("SGD", sgd)):
            rows += [
                row(f"transfer to {name}, {optimizer}", variant, ws.train(start, used, "2ep"), task.test)
                for variant, start in starts.items()
            ]
    return rows


if __name__ == "__main__":
    tyro.cli(main)
