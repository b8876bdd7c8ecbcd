"""Which ticket finder is best for LeNet-300-100 on Fashion-MNIST, and for a small VGG on CIFAR-10?

    python -m experiments.tickets.fashion --data-root data                 (about an hour on one core; resumable)
    python -m experiments.tickets.fashion --data-root data --cifar         (another hour)

Fashion-MNIST: three seeds, Adam 1.2e-3 with cosine decay, batches of 128, 4 epochs of all 55,000 images; untrained
weights get their scores by SGD 0.1 with momentum. CIFAR-10: VGG-16 with BatchNorm at an eighth of the width (230,680
weights), two seeds, 10,000 images, 6 epochs, SGD 0.1 with momentum, weight decay 5e-4 and cosine decay; iterative
pruning removes half of the weights at each level and rewinds to the end of the first epoch ("LTR" in the literature).
These budgets are short: the orderings matter, not the accuracies.
"""

from dataclasses import replace
from pathlib import Path

import tyro

import weightspace as ws
from experiments.common import tables
from experiments.tickets import study

CIFAR = ("magnitude at the start", "SNIP", "SynFlow", "concrete ticket search", "IMP, rewinding")


def main(
    data_root: Path | None = None,
    cifar: bool = False,
    networks: int | None = None,
    out: Path = Path("runs/tickets"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each method and density to tickets/fashion.csv or tickets/cifar.csv.

    Args:
        data_root: Folder with the data; None looks where the library looks.
        cifar: VGG and CIFAR-10 instead of LeNet-300-100 and Fashion-MNIST.
        networks: Number of networks of each kind; None is three, and two on CIFAR-10. Network i has seed i.
        out: Folder where networks are kept; the same command continues there.
        results: Folder of the result tables.
    """
    if not cifar:
        recipe = ws.Recipe(ws.Step(epochs=4), batch_size=128, optimizer=ws.Adam(lr=1.2e-3), schedule="cosine")
        task = replace(ws.tasks.fashion_mnist(data_root=data_root), recipe=recipe)
        searching = replace(task, recipe=replace(recipe, optimizer=ws.SGD(lr=0.1, momentum=0.9)))
        study.study(
            task,
            networks or 3,
            (0.1, 0.05, 0.02, 0.01),
            results / "tickets/fashion.csv",
            out / "fashion",
            searching=searching,
            updates=100,
            search=ws.Step(epochs=2),
        )
        return
    whole = ws.tasks.cifar10(data_root=data_root)
    sgd = ws.SGD(lr=0.1, momentum=0.9, weight_decay=5e-4)
    recipe = ws.Recipe(ws.Step(epochs=6), batch_size=128, optimizer=sgd, schedule="cosine")
    few = ws.Split(whole.train.x[:10_000], whole.train.y[:10_000])
    task = replace(whole, architecture=ws.Architecture("VGG", {"width": 0.125}), recipe=recipe, train=few)
    study.study(
        task,
        networks or 2,
        (0.1, 0.01, 0.001),
        results / "tickets/cifar.csv",
        out / "cifar",
        CIFAR,
        rate=0.5,
        rewind=ws.Step(epochs=1),
        search=ws.Step(epochs=2),
    )


if __name__ == "__main__":
    tyro.cli(main)
