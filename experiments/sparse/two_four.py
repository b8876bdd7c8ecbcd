"""How much accuracy does 2:4 pruning lose, and what wins it back?

    python -m experiments.sparse.two_four --data-root data            (about an hour and a half on one core; resumable)

Dense networks (LeNet-300-100 on Fashion-MNIST: ten seeds, Adam 1.2e-3 with weight decay 1e-4, batches of 128, 8
epochs; VGG-16 with BatchNorm at an eighth of the width on CIFAR-10: three seeds, SGD 0.1, momentum 0.9, weight decay
5e-4, cosine, 20 epochs) are pruned once, by magnitude or by scores of 1,000 training inputs (`sparse.input_scores`),
without and with reordered hidden units, and with the inputs of the first layer of LeNet, or the patches of all
convolutions, gathered in the best order too (`sparse.gather_inputs`). Their kept weights are solved for anew on 2,000
training images ("refitted", `sparse.refit`), or trained for a few more epochs at three tenths of the learning rate
("retrained"). Beside them unstructured pruning to half of the weights, and for LeNet IMP under 2:4 in two levels (3:4,
then 2:4), whose networks are retrained in full twice. BatchNorm statistics of VGGs are estimated anew on training
data, in all rows alike. Test accuracy is read at the end.
"""

import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

import weightspace as ws
from experiments.common import accuracy, tables
from weightspace import sparse
from weightspace.sparse.gathered import as_matrix
from weightspace.training.batchnorm import recalibrated

PATTERN = ws.NM(2, 4)
SCORED_ON, REFITTED_ON = 1000, 2000


@dataclass(frozen=True)
class Study:
    """Networks to prune, how long they are retrained once pruned, and if they have linear layers alone."""

    name: str
    task: ws.Task
    seeds: int
    again: ws.Step
    linear: bool


def main(
    data_root: Path | None = None,
    cifar: bool = True,
    out: Path = Path("runs/sparse_tickets"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each network and kind of pruning to sparse/two_four.csv.

    Args:
        data_root: Folder with the data; None looks where the library looks.
        cifar: The VGG on CIFAR-10 too.
        out: Folder where networks are kept; the same command continues there.
        results: Folder of the result tables.
    """
    adam, sgd = ws.Adam(lr=1.2e-3, weight_decay=1e-4), ws.SGD(lr=0.1, momentum=0.9, weight_decay=5e-4)
    fashion = replace(
        ws.tasks.fashion_mnist(data_root=data_root), recipe=ws.Recipe(ws.Step(epochs=8), 128, adam, "cosine")
    )
    studies = [Study("LeNet-300-100, Fashion-MNIST", fashion, 10, ws.Step(epochs=2), linear=True)]
    if cifar:
        recipe = ws.Recipe(ws.Step(epochs=20), 128, sgd, "cosine")
        vgg = replace(
            ws.tasks.cifar10(data_root=data_root), architecture=ws.Architecture("VGG", {"width": 0.125}), recipe=recipe
        )
        studies.append(Study("VGG-16 x 1/8, CIFAR-10", vgg, 3, ws.Step(epochs=2), linear=False))
    rows: list[dict[str, object]] = []
    for study in studies:
        rows += kinds(study, out / study.task.name)
        tables.add(results / "sparse/two_four.csv", rows, ("network", "pruning"))


def kinds(study: Study, folder: Path) -> list[dict[str, object]]:
    """Rows of one network, one for each kind of pruning."""
    task = study.task
    dense = ws.collect(task, study.seeds, folder=folder / "dense")
    groups = {
        "dense": dense,
        "unstructured": pruned(dense, ws.Unstructured(0.5).mask(dense.weights.abs(), dense.layout)),
    }
    before = {"unstructured": dense}  # what was pruned, its units in the order of the pruned networks
    x = task.train.x[:SCORED_ON]
    for by, scores in (("", dense.weights.abs()), (", by inputs", sparse.input_scores(dense, x))):
        ordered = sparse.reorder(dense, scores=scores)
        print(ordered)
        groups[f"2:4{by}"] = pruned(dense, PATTERN.mask(scores, dense.layout))
        masks = PATTERN.mask(ordered.scores, dense.layout)
        groups[f"2:4{by}, units reordered"] = pruned(ordered.networks, masks)
        masks = gathered(ordered.scores, masks, dense.layout, study.linear)
        kind = "units and inputs reordered" if study.linear else "patches gathered"
        groups[f"2:4{by}, {kind}"] = pruned(ordered.networks, masks)
        before |= {f"2:4{by}": dense} | dict.fromkeys(
            (f"2:4{by}, units reordered", f"2:4{by}, {kind}"), ordered.networks
        )
    once = {
        f"{kind}, refitted": sparse.refit(groups[kind], whole, task.train.x[:REFITTED_ON])
        for kind, whole in before.items()
    }
    slow = replace(task.recipe, optimizer=replace(task.recipe.optimizer, lr=0.3 * task.recipe.optimizer.lr))
    for kind, start in list(groups.items()):
        name = f"{kind}, retrained"
        groups[name] = ws.train(start, replace(task, recipe=slow), study.again, folder=folder / name.replace(":", "-"))
    if study.linear:
        imp = ws.tickets.IMP(pattern=PATTERN, after_pruning="lr_rewind")
        groups["IMP to 2:4, learning rate rewound"] = imp.find(dense, task, folder=folder / "imp")
    groups = {kind: recalibrated(networks, task.train) for kind, networks in (groups | once).items()}
    base = accuracy.as_list(groups["dense"], task.test)
    plain = [b - o for b, o in zip(base, accuracy.as_list(groups["2:4"], task.test), strict=True)]
    rows: list[dict[str, object]] = []
    for kind, networks in groups.items():
        accuracies = accuracy.as_list(networks, task.test)
        lost = [100 * (b - o) for b, o in zip(base, accuracies, strict=True)]
        untrained = kind.startswith("2:4") and "retrained" not in kind
        as_they_were = kind in before  # pruned, and no value changed
        rows.append(
            {
                "network": study.name,
                "pruning": kind,
                "seeds": study.seeds,
                "accuracy": statistics.fmean(accuracies),
                "std": statistics.stdev(accuracies),
                "points lost": statistics.fmean(lost),
                "lost std": statistics.stdev(lost),
                "magnitude kept": magnitude(networks, dense) if as_they_were else float("nan"),
                "loss recovered": 1 - statistics.fmean(lost) / 100 / statistics.fmean(plain)
                if untrained
                else float("nan"),
            }
        )
        print({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    return rows


def gathered(scores: Tensor, masks: Tensor, layout: ws.Layout, linear: bool) -> Tensor:
    """Masks that are 2:4 in every layer, with columns gathered in the order that `sparse.gather_inputs` finds.

    Columns are gathered in the first layer of linear networks, or in all convolutions.
    """
    masks = masks.clone()
    weights = layout.weights
    for entry in weights[:1] if linear else [entry for entry in weights if len(entry.shape) == 4]:
        for mask, score in zip(layout.tensors(masks)[entry.name], layout.tensors(scores)[entry.name], strict=True):
            matrix = as_matrix(score)
            order = sparse.find_order(matrix, PATTERN, restarts=None if linear else 0).columns
            padded = F.pad(matrix[:, order], (0, -matrix.shape[1] % 4), value=-1.0).unflatten(1, (-1, 4))
            kept = (
                torch.zeros_like(padded, dtype=torch.bool).scatter_(2, padded.topk(2, dim=2).indices, True).flatten(1)
            )
            fitted = torch.zeros_like(matrix, dtype=torch.bool)
            fitted[:, order] = kept[:, : matrix.shape[1]]
            mask.copy_(fitted.reshape(score.movedim(1, -1).shape).movedim(-1, 1))
    return masks


def pruned(networks: ws.Collection, masks: Tensor) -> ws.Collection:
    """Networks under these masks."""
    return networks.replace(weights=networks.weights * masks, masks=masks, extras={})


def magnitude(networks: ws.Collection, dense: ws.Collection) -> float:
    """Fraction of the dense networks' magnitude that is kept."""
    prunable = dense.layout.prunable
    return float(networks.weights[:, prunable].abs().sum() / dense.weights[:, prunable].abs().sum())


if __name__ == "__main__":
    tyro.cli(main)
