"""Bayesian tickets on a small convolutional network: the orderings of arXiv 2602.18825, on a budget.

    python -m experiments.bayes.conv --data-root data            (about half an hour on one core; resumable)

A stand-in for the paper's ResNet-18 and VGG11 on CIFAR-10: two convolutions and two linear layers (16 thousand weights)
on Fashion-MNIST at half resolution, 10,000 training and 2,000 test images, five seeds; levels of 50 % down to 1.6 %. The question
is the paper's: |mu| and |mu| / sigma like deterministic tickets, and sqrt(mu^2 + sigma^2) worse at high sparsity.
"""

from dataclasses import replace
from pathlib import Path

import tyro
from torch import nn

import weightspace as ws
from experiments.common import tables
from experiments.generator import conv
from weightspace import bayes

IMAGES = 2000  # of the validation and of the test split: predicting with many draws of convolutions takes long


def network() -> nn.Module:
    """Convolutions of 8 and 16 channels, a hidden layer of 96."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 96), nn.ReLU(), nn.Linear(96, 10),
    )  # fmt: skip


def main(
    data_root: Path | None = None, networks: int = 5, epochs: int = 10, out: Path = Path("runs/bayes_tickets_conv"),
    results: Path = Path("docs/results"),
) -> None:  # fmt: skip
    """Run the study, write its report and a CSV.

    Args:
        data_root: folder with FashionMNIST/raw.
        networks: seeds.
        epochs: of every level.
        out: where levels and the report go.
        results: where the CSV file goes.
    """
    recipe = ws.Recipe(ws.Step(epochs=epochs), batch_size=128, optimizer=ws.Adam(lr=3e-3), schedule="cosine")
    small = conv.small_task(data_root)
    few = {
        name: ws.Split(part.x[:IMAGES], part.y[:IMAGES])
        for name, part in (("validation", small.validation), ("test", small.test))
    }
    task = replace(small, architecture=ws.Architecture.of(network), recipe=recipe, **few)
    scores = {name: bayes.STUDY_SCORES[name] for name in ("|mu|", "|mu| / sigma", "sqrt(mu^2 + sigma^2)")}
    finder = bayes.BayesianIMP(density=0.5**6, rate=0.5)
    result = bayes.Study(task, finder, scores, networks=networks, draws=10).run(out)
    bayes.write_report(result, out)
    tables.write(results / "bayes_tickets_conv.csv", [{"layers": ""} | {"seconds": ""} | row for row in result.rows])
    for table in bayes.pages.tables(result):
        print(f"\n{table.heading}\n{table.text()}")


if __name__ == "__main__":
    tyro.cli(main)
