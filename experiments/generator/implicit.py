"""Does a generator of implicit networks draw new digits, and does it need its flow?

    python -m experiments.generator.implicit --data-root data          (about an hour on one core; resumable)

Each network of the collection draws one MNIST image of 14 x 14 pixels: two layers of 32 sines, 80 steps from a start
that all share. Sparse networks begin at the mean of the dense ones, pruned by magnitude, and take 120 steps under one
mask (the outer step of Reptile, arXiv 1803.02999). The generator learns their codes with the digit as a
condition. Samples are compared with held-out images in the features of a classifier that was trained on training
images: precision and recall, how sure the classifier is, whether a conditional sample is the digit that was asked for,
and how far the nearest training image is. A Gaussian in the same codes, and one for each digit, stand beside the flow.
Frequency of the sines, length of codes and strength of guidance were chosen on validation images; the table is of test
images.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional

import weightspace as ws
from experiments.common import tables
from weightspace.evaluation.metrics.samples import coverage
from weightspace.report import plots
from weightspace.report.plots import style
from weightspace.tasks import draw

SIDE = 14
JUDGED = 1000  # images of a set
CLASSES = 10


@dataclass(frozen=True)
class Images:
    """Small images with their digits.

    Args:
        x: Images (N, 14, 14) with brightness from 0 to 1.
        y: Digits (N,).
    """

    x: Tensor
    y: Tensor


def main(
    networks: int = 10_000,
    densities: tuple[float, ...] = (1.0, 0.5),
    components: int = 128,
    steps: int = 8000,
    guidance: float = 1.3,
    seeds: tuple[int, ...] = (0, 1, 2),
    omega: float = 10.0,
    held_out: str = "test",
    data_root: Path | None = None,
    out: Path = Path("runs/implicit"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each density, kind of sample and seed to generator/implicit.csv, and a figure.

    Args:
        networks: Number of networks, one an image.
        densities: Densities of the networks; 1 is dense.
        components: Length of a code.
        steps: Training steps of a flow.
        guidance: Strength of the condition.
        seeds: Seeds of the flows.
        omega: Frequency of the sines.
        held_out: Split whose images are compared with: "test", or "validation" to choose settings with.
        data_root: Folder with MNIST/raw; None looks where the library looks.
        out: Folder of the collections and generators; the same command continues there.
        results: Folder of the result tables.
    """
    task = ws.tasks.mnist(data_root=data_root)
    train = small(task.train)
    unseen = small(task.test if held_out == "test" else task.validation)
    judge = Judge(classifier(train, out / "classifier.pt"), train.x[:networks], unseen)
    settings: dict[str, object] = {"networks": networks, "omega": omega, "components": components, "steps": steps}
    for density in densities:
        collection = trained(train, networks, density, omega, out)
        for seed in seeds:
            model = ws.TicketGenerator(
                align=None,
                compress=ws.PCA(components),
                generate=ws.FlowMatching(width=512, steps=steps, validation_fraction=0.02),
                masks=ws.MagnitudeMask() if density == 1 else ws.SharedMask(),
                conditions=("digit",),
            )
            folder = out / f"generator-{networks}-{omega:g}-{density:g}-{components}-{steps}-{seed}"
            generator = model.fit(collection, seed=seed, folder=folder)
            drawn = dict(drawings(generator, collection, density, guidance, seed))
            rows = [settings | {"density": density, "seed": seed} | judge.row(*item) for item in drawn.items()]
            for row in rows:
                print(row, flush=True)
            tables.add(results / "generator/implicit.csv", rows, [*settings, "density", "seed", "pictures"])
            if seed == seeds[0] and results == tables.RESULTS:
                shown = {"training images": train.x[:networks]} | {name: x for name, (x, _) in drawn.items()}
                figure(shown, tables.FIGURES / f"implicit_{density:g}.png")


def small(split: ws.tasks.Data) -> Images:
    """The images of a split with half as many pixels a side, brightness from 0 to 1."""
    whole = split.head(len(split))
    x = functional.avg_pool2d(whole.x.reshape(-1, 1, 28, 28), 2)[:, 0]
    return Images((x - x.min()) / (x.max() - x.min()), whole.y)


def trained(train: Images, count: int, density: float, omega: float, out: Path) -> ws.Collection:
    """Networks that draw the first training images; their records say which digit.

    Dense ones begin at one random start, sparse ones at the mean of the dense ones, whose largest weights are kept.
    """
    network = ws.Architecture("Siren", {"sizes": (2, 32, 32, 1), "omega": omega})
    recipe = ws.Recipe("80it" if density == 1 else "120it", batch_size=SIDE**2, optimizer=ws.Adam(lr=1e-3))
    task = ws.tasks.pictures("mnist pictures", train.x[:count], network, recipe)
    folder = out / f"networks-{count}-{omega:g}-{density:g}"
    if density == 1:
        drawn = ws.collect(task, count, plan=ws.SharedStart(at=ws.Step()), folder=folder)
    else:
        dense = trained(train, count, 1.0, omega, out)
        mean = dense.weights.mean(0, keepdim=True)
        start = ws.starts(dense.replace(weights=mean.repeat(count, 1)), seed=0)
        finder = ws.tickets.PruneAtInit(ws.tickets.MagnitudeScore(), pattern=ws.Unstructured(density))
        drawn = finder.find(start, task, folder=folder)
    records = [record | {"digit": str(int(train.y[record.data]))} for record in drawn.records]
    return drawn.replace(records=records)


def drawings(
    generator: ws.FittedGenerator, collection: ws.Collection, density: float, guidance: float, seed: int
) -> Iterator[tuple[str, tuple[Tensor, Tensor | None]]]:
    """Pictures of each kind, (1000, 14, 14), and the digits that were asked for."""
    codes = generator.encode(collection)
    digits = torch.tensor([int(record["digit"]) for record in collection.records])
    each = JUDGED // CLASSES
    asked = torch.arange(CLASSES).repeat_interleave(each)
    random = torch.Generator().manual_seed(seed)

    def decoded(values: Tensor) -> Tensor:
        return draw(generator.decode(values, density=density), SIDE, SIDE)[:, 0]

    def conditional(strength: float) -> Tensor:
        parts = [
            generator.sample(
                each, density=density, seed=1000 * seed + digit, condition={"digit": str(digit)}, guidance=strength
            )
            for digit in range(CLASSES)
        ]
        return torch.cat([draw(part, SIDE, SIDE)[:, 0] for part in parts])

    rows = torch.randperm(len(codes), generator=random)[:JUDGED]
    yield "trained", (draw(collection[rows], SIDE, SIDE)[:, 0], digits[rows])
    yield "trained, from their codes", (decoded(codes[rows]), digits[rows])
    yield "flow", (draw(generator.sample(JUDGED, density=density, seed=seed), SIDE, SIDE)[:, 0], None)
    yield "Gaussian", (decoded(gaussian(codes, JUDGED, random)), None)
    yield "flow, digit given", (conditional(1.0), asked)
    yield f"flow, digit given, guidance {guidance:g}", (conditional(guidance), asked)
    one_each = [gaussian(codes[digits == digit], each, random) for digit in range(CLASSES)]
    yield "a Gaussian for each digit", (decoded(torch.cat(one_each)), asked)


def gaussian(codes: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Samples of the Gaussian with the mean and covariance of codes."""
    centred = codes.double() - codes.double().mean(0)
    left = torch.randn(count, len(codes), generator=random, dtype=torch.float64) / (len(codes) - 1) ** 0.5
    return (codes.double().mean(0) + left @ centred).to(codes.dtype)


@dataclass(frozen=True)
class Judge:
    """Compares pictures with images that no network was trained on.

    Args:
        network: Classifier of digits; the inputs of its last layer are the features.
        training: Training images of the collection.
        unseen: Other images.
    """

    network: nn.Sequential
    training: Tensor
    unseen: Images

    def row(self, name: str, pictures: tuple[Tensor, Tensor | None]) -> dict[str, object]:
        """One row of the table.

        Args:
            name: What the pictures are.
            pictures: Pictures, and the digits that they should show.
        """
        x, asked = pictures[0].clamp(0, 1), pictures[1]
        probabilities, got = self.seen(x)
        nearest = torch.cdist(x.flatten(1), self.training.flatten(1)).amin(1)
        found = coverage(self.real, got)
        return {
            "pictures": name,
            "n": len(x),
            "precision": found.precision,
            "recall": found.recall,
            "confidence": probabilities.amax(1).mean().item(),
            "as asked": None if asked is None else (probabilities.argmax(1) == asked).double().mean().item(),
            "nearest": nearest.median().item(),
            "nearest of held-out": self.typical.median().item(),
            "closer than 99 % of held-out": (nearest < self.typical.quantile(0.01)).double().mean().item(),
        }

    @torch.no_grad()
    def seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of the digits, and features."""
        features = self.network[:-1](x[:, None])
        return self.network[-1](features).softmax(1), features

    @functools.cached_property
    def real(self) -> Tensor:
        """Features of images that are compared with."""
        return self.seen(self.unseen.x[:JUDGED])[1]

    @functools.cached_property
    def typical(self) -> Tensor:
        """Distance of other held-out images to their nearest training image."""
        return torch.cdist(self.unseen.x[JUDGED : 2 * JUDGED].flatten(1), self.training.flatten(1)).amin(1)


def classifier(train: Images, file: Path) -> nn.Sequential:
    """A small convolutional network, trained for three epochs on training images."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, CLASSES)),
    )
    if file.exists():
        network.load_state_dict(torch.load(file, weights_only=True))
        return network.eval()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(3):
        for rows in torch.randperm(len(train.x)).split(256):
            optimizer.zero_grad()
            functional.cross_entropy(network(train.x[rows, None]), train.y[rows]).backward()
            optimizer.step()
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), file)
    return network.eval()


def figure(pictures: dict[str, Tensor], file: Path) -> None:
    """Rows of pictures, one kind a row."""
    shown = {name: x[:: max(1, len(x) // 20)][:20] for name, x in pictures.items()}
    rows = {name: x.clamp(0, 1).mul(255).round().int()[..., None].tolist() for name, x in shown.items()}
    style.save(plots.rows_of_pictures(rows), file)


if __name__ == "__main__":
    tyro.cli(main)
