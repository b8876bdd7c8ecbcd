"""What the experiments with BERT share: the selection that is pruned, accuracies on test data, and rows of results."""

import json
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import weightspace as ws
from experiments.language import data
from weightspace.models.bert import PADDING
from weightspace.report.intervals import half_width
from weightspace.runtime import trees
from weightspace.storage.files import write_text
from weightspace.tasks.measuring import measure


def encoder(density: float) -> ws.Only:
    """All matrices of the encoder: never embeddings, biases, norms or heads.

    Args:
        density: Fraction of their weights that is kept.
    """
    return ws.Only(ws.Unstructured(density), "encoder.*")


def recipe(steps: int, lr: float = 2e-4) -> ws.Recipe:
    """A rate that falls to zero along a line, as BERT is tuned.

    Args:
        steps: Number of steps.
        lr: Learning rate at the beginning.
    """
    return ws.Recipe(ws.Step(iterations=steps), 16, ws.Adam(lr=lr), "triangular")


def rotten_tomatoes(
    data_root: Path | None, steps: int, layers: int, length: int, validation: int, test: int
) -> ws.Task:
    """Sentiment of Rotten Tomatoes on the first layers of MiniLM, whose embeddings are frozen.

    Args:
        data_root: Folder of the unpacked packages; see experiments/README.md.
        steps: Number of steps of each training.
        layers: Number of layers.
        length: Number of tokens at which reviews are cut.
        validation: Number of reviews to choose with.
        test: Number of reviews for the end.
    """
    root = data.folder(data_root)
    texts = data.reviews(root, "rotten_tomatoes", 6000, validation, test)
    return ws.language.classification(
        texts.texts,
        texts.labels,
        data.minilm(root),
        name="rotten_tomatoes",
        splits=texts.splits,
        layers=layers,
        length=length,
        train_embeddings=False,
        recipe=recipe(steps),
    )


def by_length(task: ws.Task) -> ws.Task:
    """The task with batches of texts of similar length, where they differ in length.

    Args:
        task: Task of texts.
    """
    ids = trees.first(task.train.x)
    differ = bool((ids[:, -1] == PADDING).any())
    return replace(task, recipe=replace(task.recipe, batches=ws.ByLength())) if differ else task


def quiet() -> None:
    """Leave out what every run would say of the body: that its pooler is not used."""
    warnings.filterwarnings("ignore", "left out of model.safetensors")


def scores_on_test(networks: ws.Collection, task: ws.Task, *, kept: Path) -> list[float]:
    """Accuracy of each network on the test split, which chose nothing; measured once.

    Args:
        networks: Trained networks.
        task: Their task.
        kept: File that keeps the accuracies.
    """
    if kept.exists():
        return json.loads(kept.read_text())
    module = networks.architecture.build_seeded(0)
    figures = measure(task, module, networks.layout, networks.weights, networks.buffers, task.test)
    write_text(kept, json.dumps(figures["accuracy"]))
    return figures["accuracy"]


def summary(values: Sequence[float], name: str = "accuracy") -> dict[str, Any]:
    """Mean of a figure over seeds, and half of its 95 % interval (Student's t).

    Args:
        values: One value a seed.
        name: Name of the figure.
    """
    return {"n": len(values), name: statistics.fmean(values), f"{name} ±": half_width(values)}


def differences(values: Sequence[float], others: Sequence[float], name: str) -> dict[str, Any]:
    """Mean difference of two arms, seed by seed, and half of its 95 % interval.

    Args:
        values: One value a seed.
        others: The other arm's, with the same seeds.
        name: Name of the difference.
    """
    found = [a - b for a, b in zip(values, others, strict=True)]
    return {name: statistics.fmean(found), f"{name} ±": half_width(found)}


def shared(tickets: ws.Collection, others: ws.Collection, density: float) -> dict[str, float]:
    """Overlap of masks in the encoder, and what chance would give.

    Args:
        tickets: Tickets.
        others: Networks with the other masks.
        density: Density of both.
    """
    found, chance = ws.tickets.mask_overlap(tickets, others, pattern=encoder(density))
    return {"mask shared": found.mean().item(), "by chance": chance.mean().item()}


def pruned(networks: ws.Collection, pattern: ws.Only) -> ws.Collection:
    """Networks with only their largest weights.

    Args:
        networks: Dense networks.
        pattern: Pattern of the masks.
    """
    masks = pattern.mask(networks.weights.abs(), networks.layout)
    return networks.replace(weights=networks.weights * masks, masks=masks, extras={"rewind": networks.weights})
