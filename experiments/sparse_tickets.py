"""2:4 tickets with and without the permutation search: LeNet-300-100 on Fashion-MNIST and a small VGG on CIFAR-10.

    python experiments/sparse_tickets.py --data-root data            (about half an hour on one core; resumable)

Dense networks (three seeds; LeNet: Adam 1.2e-3 with weight decay 1e-4, batches of 128, 8 epochs; VGG-16 with BatchNorm at an
eighth of the width: SGD 0.1, momentum 0.9, weight decay 5e-4, cosine, 6 epochs of 10,000 images) are pruned once, without and
with reordered hidden units, and with the inputs of the first layer of LeNet reordered too (its columns gathered); then
trained on for a quarter of their epochs ("retrained"). Beside them unstructured pruning to half of the weights, and IMP under
2:4 in two levels (3:4, then 2:4), whose networks are retrained in full twice. BatchNorm statistics of VGGs are
estimated anew on training data, in all rows alike. Test accuracy is read at the end.
"""

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import tables
import torch
import tyro
from torch import Tensor

import weightspace as ws
from weightspace import sparse
from weightspace.batchnorm import recalibrated

PATTERN = ws.NM(2, 4)


def main(
    data_root: Path | None = None, seeds: int = 3, cifar: bool = True, out: Path = Path("runs/sparse_tickets"),
    results: Path = Path("docs/results"),
) -> None:  # fmt: skip
    """Print and write a row for each kind of pruning.

    Args:
        data_root: folder with the data.
        seeds: networks of each kind.
        cifar: the VGG too.
        out: where networks are kept.
        results: where the CSV file goes.
    """
    adam = ws.Adam(lr=1.2e-3, weight_decay=1e-4)
    fashion = replace(
        ws.tasks.fashion_mnist(data_root=data_root), recipe=ws.Recipe(ws.Step(epochs=8), 128, adam, "cosine")
    )
    tasks = {"LeNet-300-100, Fashion-MNIST": (fashion, ws.Step(epochs=2), True)}
    if cifar:
        whole = ws.tasks.cifar10(data_root=data_root)
        sgd = ws.SGD(lr=0.1, momentum=0.9, weight_decay=5e-4)
        few = ws.Split(whole.train.x[:10_000], whole.train.y[:10_000])
        recipe = ws.Recipe(ws.Step(epochs=6), 128, sgd, "cosine")
        vgg = replace(whole, architecture=ws.Architecture("VGG", {"width": 0.125}), recipe=recipe, train=few)
        tasks["VGG-16 x 1/8, CIFAR-10"] = (vgg, ws.Step(iterations=118), False)
    rows: list[dict[str, object]] = []
    for name, (task, again, inputs) in tasks.items():
        rows += study(name, task, seeds, again, out / task.name, inputs=inputs)
        tables.write(results / "sparse_tickets.csv", rows)


def study(
    name: str, task: ws.Task, seeds: int, again: ws.Step, folder: Path, *, inputs: bool
) -> list[dict[str, object]]:  # fmt: skip
    dense = ws.collect(task, seeds, folder=folder / "dense")
    ordered = sparse.reorder(dense)
    print(ordered)
    half = pruned(dense, ws.Unstructured(0.5).mask(dense.weights.abs(), dense.layout))
    plain = pruned(dense, PATTERN.mask(dense.weights.abs(), dense.layout))
    better = pruned(ordered.networks, PATTERN.mask(ordered.networks.weights.abs(), dense.layout))
    found = {"dense": dense, "unstructured": half, "2:4": plain, "2:4, units reordered": better}
    if inputs:
        found["2:4, units and inputs reordered"] = pruned(ordered.networks, with_inputs(ordered.networks))
    for pruned_once in [kind for kind in found if kind != "dense"]:
        start = found[pruned_once]
        slow = replace(
            task,
            recipe=replace(task.recipe, optimizer=replace(task.recipe.optimizer, lr=0.3 * task.recipe.optimizer.lr)),
        )
        found[f"{pruned_once}, retrained"] = ws.train(start, slow, again, folder=folder / f"{pruned_once}, retrained")
    imp = ws.tickets.IMP(pattern=PATTERN, survivors="keep")
    found["IMP to 2:4, learning rate rewound"] = imp.find(dense, task, folder=folder / "imp")
    kept = replace(
        task, recipe=replace(task.recipe, optimizer=replace(task.recipe.optimizer, lr=0.3 * task.recipe.optimizer.lr))
    )
    found["dense, retrained"] = ws.train(dense, kept, again, folder=folder / "dense, retrained")
    found = {kind: recalibrated(networks, task.train) for kind, networks in found.items()}
    base, loss = accuracies(found["dense"], task), None
    rows: list[dict[str, object]] = []
    for kind, networks in found.items():
        own = accuracies(networks, task)
        lost = [100 * (b - o) for b, o in zip(base, own, strict=True)]
        if kind == "2:4":
            loss = statistics.fmean(lost)
        once = loss is not None and kind.startswith("2:4") and "retrained" not in kind
        rows.append({
            "network": name, "pruning": kind, "seeds": seeds, "accuracy": statistics.fmean(own), "std": statistics.stdev(own),
            "points lost": statistics.fmean(lost), "lost std": statistics.stdev(lost),
            "magnitude kept": magnitude(networks, dense) if "retrained" not in kind and "IMP" not in kind else float("nan"),
            "loss recovered": 1 - statistics.fmean(lost) / loss if once and loss else float("nan"),
        })  # fmt: skip
        print({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    return rows


def with_inputs(networks: ws.Collection) -> Tensor:
    """Masks that are 2:4 in every layer, in the first one after its inputs are gathered in the best order."""
    layout = networks.layout
    masks = PATTERN.mask(networks.weights.abs(), layout)
    first = next(entry for entry in layout.parameters if entry.role == "weight")
    at = layout.slices[first.name]
    for mask, weights in zip(masks, networks.weights, strict=True):
        matrix = weights[at].reshape(first.shape).abs()
        order = sparse.find_order(matrix, PATTERN).columns
        groups = matrix[:, order].unflatten(1, (-1, 4))
        kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, groups.topk(2, dim=2).indices, True).flatten(1)
        own = torch.zeros_like(kept)
        own[:, order] = kept
        mask[at] = own.flatten()
    return masks


def pruned(networks: ws.Collection, masks: Tensor) -> ws.Collection:
    return networks.replace(weights=networks.weights * masks, masks=masks, extras={})


def magnitude(networks: ws.Collection, dense: ws.Collection) -> float:
    prunable = dense.layout.prunable
    return float(networks.weights[:, prunable].abs().sum() / dense.weights[:, prunable].abs().sum())


def accuracies(networks: ws.Collection, task: ws.Task) -> list[float]:
    right: Callable[[Tensor], Tensor] = lambda outputs: (outputs.argmax(-1) == task.test.y).double().mean(1)  # noqa: E731
    return right(networks.ensemble().logits(task.test.x)).tolist()


if __name__ == "__main__":
    tyro.cli(main)
