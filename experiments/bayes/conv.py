"""Which score finds the best Bayesian tickets of a small convolutional network?

    python -m experiments.bayes.conv --data-root data            (about half an hour on one core; resumable)

A stand-in for the ResNet-18 and VGG11 on CIFAR-10 of arXiv 2602.18825: two convolutions and two linear layers
(16 thousand weights) on Fashion-MNIST at half resolution, 10,000 training and 2,000 test images, five seeds; levels
of 50 % down to 1.6 %. The paper finds |mu| and |mu| / sigma like deterministic tickets, and sqrt(mu^2 + sigma^2)
worse at high sparsity.
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
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(144, 96),
        nn.ReLU(),
        nn.Linear(96, 10),
    )


def main(
    data_root: Path | None = None,
    networks: int = 5,
    epochs: int = 10,
    out: Path = Path("runs/bayes_tickets_conv"),
    results: Path = tables.RESULTS,
) -> None:
    """Run the study, write its report, and one row for each method, density and seed to bayes/conv.csv.

    Args:
        data_root: Folder with FashionMNIST/raw; None looks where the library looks.
        networks: Number of networks of each kind; network i has seed i.
        epochs: Epochs of every level.
        out: Folder of the levels and the report; the same command continues there.
        results: Folder of the result tables.
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
    tables.write(results / "bayes/conv.csv", [row.cells() for row in result.rows])
    for table in bayes.pages.tables(result):
        print(f"\n{table.heading}\n{table.text()}")


if __name__ == "__main__":
    tyro.cli(main)
