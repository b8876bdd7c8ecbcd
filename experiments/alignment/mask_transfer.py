"""Can a ticket's mask be carried to another initialisation?

    python -m experiments.alignment.mask_transfer --data-root data          (about 15 minutes on two cores)

After Adnan et al. (ICML 2025, arXiv 2505.05143), with LeNet-300-100 on Fashion-MNIST. Networks A give tickets by
iterative magnitude pruning; networks B start elsewhere. From B's weights after one epoch (the rewind point) networks
are trained under: A's mask as it is (naive), A's mask permuted by activation matching of the dense A to the dense B,
the same by weight matching, A's mask shuffled inside each layer, and B's own ticket. A's own ticket is trained from
A's rewind point. All networks get the same training.
"""

import statistics
from pathlib import Path

import torch
import tyro

import weightspace as ws
from experiments.common import tables
from weightspace.align import Star, WeightMatching, transfer_masks
from weightspace.evaluation import connectivity


def main(
    data_root: Path | None = None,
    pairs: int = 4,
    sparsities: tuple[float, ...] = (0.97,),
    epochs: int = 5,
    out: Path = Path("runs/mask_transfer"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each sparsity and kind of network to alignment/mask_transfer.csv.

    Args:
        data_root: Folder with FashionMNIST/raw; None looks where the library looks.
        pairs: Number of pairs of networks A, B.
        sparsities: Sparsities of the tickets.
        epochs: Epochs of each training.
        out: Folder where tickets are kept; the same command continues there.
        results: Folder of the result tables.
    """
    recipe = ws.Recipe(ws.Step(epochs=epochs), batch_size=128, optimizer=ws.Adam(lr=1e-3), schedule="cosine")
    task = ws.tasks.fashion_mnist(data_root=data_root, recipe=recipe)
    parents = ws.collect(task, pairs, seed=0)
    others = ws.collect(task, pairs, seed=1)
    path = ws.collect(task, pairs, seed=1, plan=ws.Trajectory(every=ws.Step(epochs=1)))
    starts = path.filter(lambda record: record["step"] == recipe.per_epoch(len(task.train)))
    rows: list[dict[str, object]] = []
    for sparsity in sparsities:
        finder = ws.tickets.IMP(density=1 - sparsity, rewind=ws.Step(epochs=1))
        tickets, others_tickets = (
            finder.find(dense, task, folder=out / f"{name}-tickets-{sparsity}")
            for name, dense in (("a", parents), ("b", others))
        )
        groups = {
            "A's own ticket": under(rewound(tickets), tickets.masks),
            "B's own ticket": under(rewound(others_tickets), others_tickets.masks),
            "A's mask on B, permuted (activations)": transfer_masks(
                tickets, parents, others, starts, task.train.x[:2000]
            ),
            "A's mask on B, permuted (weights)": under(starts, by_weights(tickets, parents, others)),
            "A's mask on B, naive": under(starts, tickets.masks),
            "A's mask on B, shuffled in layers": under(starts, shuffled(tickets)),
        }
        for name, networks in groups.items():
            trained = ws.train(networks, task, ws.Step(epochs=epochs - 1))
            accuracies = connectivity.measure(trained, task).accuracies.tolist()
            row = {
                "sparsity": sparsity,
                "networks": name,
                "n": pairs,
                "test accuracy": f"{statistics.mean(accuracies):.4f}",
                "std": f"{statistics.stdev(accuracies) if pairs > 1 else 0:.4f}",
            }
            rows.append(row)
            print(row, flush=True)
    tables.add(results / "alignment/mask_transfer.csv", rows, ("sparsity", "networks"))


def rewound(tickets: ws.Collection) -> ws.Collection:
    """Tickets as they were at the rewind point."""
    return tickets.replace(weights=tickets.extras["rewind"] * tickets.masks)


def under(networks: ws.Collection, masks: torch.Tensor) -> ws.Collection:
    """Networks under these masks, without the records of another ticket."""
    records = [{k: v for k, v in record.items() if k != "ticket"} for record in networks.records]
    return networks.replace(weights=networks.weights * masks, masks=masks, records=records, extras={})


def by_weights(tickets: ws.Collection, parents: ws.Collection, targets: ws.Collection) -> torch.Tensor:
    """Masks under the permutation that matches the parents' weights to the targets'."""
    masks: list[torch.Tensor] = []
    for i in range(len(tickets)):
        fitted = WeightMatching(balance=False, population=Star()).fit(targets[[i]])
        (match,) = fitted.permutations(parents[[i]])
        masks.append(fitted.symmetry.permute(tickets.masks[i], match.permutations))
    return torch.stack(masks)


def shuffled(tickets: ws.Collection) -> torch.Tensor:
    """Masks with the same density in each layer, at random places."""
    masks = tickets.masks.clone()
    random = torch.Generator().manual_seed(0)
    for entry in tickets.layout.weights:
        at = tickets.layout.slices[entry.name]
        for row in masks:
            row[at] = row[at][torch.randperm(entry.size, generator=random)]
    return masks


if __name__ == "__main__":
    tyro.cli(main)
