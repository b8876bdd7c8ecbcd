"""How much accuracy do networks that others trained lose by 2:4 pruning, and what wins it back without training?

    python -m experiments.sparse.real_networks --data-root DATA --packages ROOT        (15 min on one core; resumable)

ResNet-56 and VGG-16 with BatchNorm, trained by others on CIFAR-10 (PyPI's torch-optim 0.0.4 in `ROOT/torch_optim`),
are pruned once to 2:4 in all layers by magnitude. `sparse.recover` refits them, estimates BatchNorm statistics anew,
or both, on the same few training images, and chooses by other training images. Statistics are of shifted and mirrored
images, as in training, or of images as they are. The dense network with statistics anew shows what the estimate alone
does. Seeds draw the images. Test images, the first ones of the test split, are read once all is
chosen.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

import weightspace as ws
from experiments.common import tables
from experiments.sparse.cifar_networks import RESNET, VGG, Published, trained
from weightspace import sparse
from weightspace.networks.forward import predict
from weightspace.runtime import seeds as streams
from weightspace.storage.files import make_folder, write_text
from weightspace.training.augment import augment
from weightspace.training.batchnorm import recalibrated

PATTERN = ws.NM(2, 4)
NETWORKS = {"resnet": RESNET, "vgg": VGG}
PLAIN = ", of images as they are"
NAMES = {
    "dense": "dense",
    "dense, statistics anew": "dense, statistics anew",
    "dense, statistics anew" + PLAIN: "dense, statistics anew" + PLAIN,
    "as pruned": "2:4",
    "as pruned, statistics anew": "2:4, statistics anew",
    "as pruned, statistics anew" + PLAIN: "2:4, statistics anew" + PLAIN,
    "refitted": "2:4, refitted",
    "refitted, statistics anew": "2:4, refitted, statistics anew",
    "refitted, statistics anew" + PLAIN: "2:4, refitted, statistics anew" + PLAIN,
}


@dataclass(frozen=True)
class Sizes:
    """How many images there are for what.

    Args:
        images: For refitting and for statistics.
        validation: For choosing.
        test: Read at the end.
    """

    images: int
    validation: int
    test: int


def main(
    data_root: Path | None = None,
    packages: Path = Path("data"),
    networks: tuple[str, ...] = ("resnet", "vgg"),
    images: tuple[int, ...] = (200,),
    validation: int = 500,
    test: int = 1000,
    seeds: tuple[int, ...] = (0, 1, 2),
    out: Path = Path("runs/real_networks"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each network, number of images and way to sparse/real_networks.csv.

    Args:
        data_root: Folder with CIFAR-10; None looks where the library looks.
        packages: Folder with the unpacked package in `torch_optim`.
        networks: Which networks: resnet, vgg.
        images: Numbers of training images for refitting and for statistics.
        validation: Training images that choose.
        test: Test images that are read at the end.
        seeds: Seeds of the images; each is a repetition.
        out: Folder where predictions are kept; the same command continues there.
        results: Folder of the result tables.
    """
    task = raw(ws.tasks.cifar10(data_root=data_root))
    for name in networks:
        which = NETWORKS[name]
        own = replace(task, architecture=ws.Architecture.of(which.build))
        for count in images:
            sizes = Sizes(count, validation, test)
            runs: list[dict[str, Any]] = []
            for seed in seeds:
                runs.append(repetition(which, own, sizes, seed, packages, out))
                tables.add(results / "sparse/real_networks.csv", rows(which, sizes, runs), ("network", "images", "way"))


def raw(task: ws.Task) -> ws.Task:
    """The task with pixels in [0, 1], as these networks read them."""
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))

    def pixels(split: ws.tasks.Data) -> ws.Split:
        return ws.Split((split.x * std + mean).clamp(0, 1), split.y)

    return replace(
        task, train=pixels(task.train.head(10_000)), validation=pixels(task.validation), test=pixels(task.test)
    )


def repetition(which: Published, task: ws.Task, sizes: Sizes, seed: int, packages: Path, out: Path) -> dict[str, Any]:
    """Which way was chosen, and for each way its validation accuracy and which test images it gets right."""
    path = out / f"{which.name}-{sizes.images}-{sizes.validation}-{sizes.test}-{seed}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    draw = torch.randperm(len(task.validation), generator=streams.generator(seed, "validation images"))
    own = replace(task, validation=task.validation.batch(draw[: sizes.validation]))
    dense = whole(trained(which, packages), own.architecture)
    masks = PATTERN.mask(dense.weights.abs(), dense.layout)
    few = dense.replace(weights=dense.weights * masks, masks=masks)
    found = sparse.recover(few, dense, own, samples=sizes.images, seed=seed)
    print(found, flush=True)
    ways = {"dense": dense, **found.ways}
    order = torch.randperm(len(own.train), generator=streams.generator(seed, "images of statistics"))
    plain = own.train.batch(order[: sizes.images])
    shifted = ws.Split(augment(plain.x[None], own.recipe.augmentation, [seed], 0)[0], plain.y)
    ways["dense, statistics anew"] = recalibrated(dense, shifted)
    ways["dense, statistics anew" + PLAIN] = recalibrated(dense, plain)
    test = own.test.head(sizes.test)
    result: dict[str, Any] = {"chosen": found.chosen[0]}
    for way, networks in ways.items():
        score = found.scores[way][0] if way in found.scores else right(networks, own.validation).mean().item()
        result[way] = {"validation": score, "test": right(networks, test).int().tolist()}
        result[way]["variance"] = variance(networks, dense) if "anew" in way else math.nan
    make_folder(out)
    write_text(path, json.dumps(result))
    return result


def whole(module: nn.Module, architecture: ws.Architecture) -> ws.Collection:
    """One network as a collection."""
    layout, state = architecture.layout(), module.state_dict()
    buffers = {entry.name: state[entry.name][None] for entry in layout.buffers}
    return ws.Collection(layout, layout.pack(state)[None], architecture=architecture, buffers=buffers)


def right(networks: ws.Collection, data: ws.tasks.Data) -> Tensor:
    """Which samples the only network gets right, as float64."""
    module = networks.architecture.build_seeded(0)
    logits = predict(module, networks.layout, networks.weights, networks.buffers, data.x)
    return (logits[0].argmax(-1) == data.y).double()


def variance(networks: ws.Collection, reference: ws.Collection) -> float:
    """Median over all channels of the BatchNorm variance against that of the reference."""
    ratios = [
        (buffer / reference.buffers[name]).flatten() for name, buffer in networks.buffers.items() if "_var" in name
    ]
    return torch.cat(ratios).median().item()


def rows(which: Published, sizes: Sizes, runs: Sequence[dict[str, Any]]) -> list[dict[str, object]]:
    """A row for each way, and one for what validation chose."""
    picked: list[tuple[str, list[dict[str, Any]], int | None]] = []
    for way, name in NAMES.items():
        picked.append((name, [run[way] for run in runs], sum(run["chosen"] == way for run in runs)))
    picked.append(("2:4, chosen by validation", [run[run["chosen"]] for run in runs], None))
    dense = torch.tensor(runs[0]["dense"]["test"], dtype=torch.float64)
    table: list[dict[str, object]] = []
    for way, found, chosen in picked:
        each = torch.tensor([one["test"] for one in found], dtype=torch.float64)
        lost = 100 * (dense - each).mean(0)  # of each image
        accuracies = each.mean(1).tolist()
        table.append(
            {
                "network": which.name,
                "images": sizes.images,
                "way": way,
                "seeds": len(runs),
                "validation images": sizes.validation,
                "test images": sizes.test,
                "validation accuracy": statistics.fmean(one["validation"] for one in found),
                "accuracy": statistics.fmean(accuracies),
                "std": statistics.stdev(accuracies) if len(runs) > 1 else None,
                "points lost": lost.mean().item(),
                "half interval": 1.96 * lost.std().item() / math.sqrt(sizes.test),
                "variance": statistics.fmean(one["variance"] for one in found),
                "times chosen": chosen,
            }
        )
    return table


if __name__ == "__main__":
    tyro.cli(main)
