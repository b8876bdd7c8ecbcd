"""Do tickets of pre-trained BERT beat their controls, the magnitude of the pre-trained weights among them?

    python -m experiments.language.bert_tickets --data-root ROOT     (20 minutes; the same command continues)

After Chen et al. 2020 (arXiv 2007.12223), on the first three layers of MiniLM and the sentences of Rotten Tomatoes. The
encoder's matrices are pruned by magnitude over the whole encoder, to 50 % and then to 30 %; body and head go back to
where they began. Embeddings stay as they are. Densities and the learning rate were fixed before the test split was
read.
"""

from collections.abc import Iterator
from pathlib import Path

import tyro

import weightspace as ws
from experiments.common import tables
from experiments.language import common
from weightspace.tasks.measuring import measure

DENSITIES = (0.5, 0.3)


def main(
    data_root: Path | None = None,
    layers: int = 3,
    steps: int = 80,
    networks: int = 3,
    length: int = 32,
    validation: int = 400,
    test: int = 1000,
    out: Path = Path("runs/bert-tickets"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each density and arm to language/bert_tickets.csv.

    Args:
        data_root: Folder of the unpacked packages; None looks where the library looks.
        layers: Number of layers.
        steps: Number of steps of each training.
        networks: Number of networks of each kind, each with a head and an order of the texts of its own.
        length: Number of tokens at which reviews are cut.
        validation: Number of reviews to choose with.
        test: Number of reviews for the end.
        out: Folder of the networks; the same command continues there.
        results: Folder of the result tables.
    """
    common.quiet()
    task = common.rotten_tomatoes(data_root, steps, layers, length, validation, test)
    dense = ws.collect(task, networks, seed=0, folder=out / "dense")
    baseline = common.scores_on_test(dense, task, kept=out / "dense-scores.json")
    rows = [row(1.0, "dense", dense, baseline, baseline)]
    finder = ws.tickets.IMP(pattern=common.encoder(DENSITIES[-1]), rate=0.5)
    levels = finder.find_levels(dense, task, folder=out / "imp")
    for density, tickets in zip(DENSITIES, levels[1:], strict=True):
        largest = common.pruned(ws.language.pretrained(task, networks, seed=0), common.encoder(density))
        scores: dict[str, list[float]] = {}
        for arm, trained in arms(density, tickets, dense, task, steps, out / f"controls-{density}"):
            scores[arm] = common.scores_on_test(trained, task, kept=out / f"{density}-{arm}-scores.json")
            compared = common.differences(scores["ticket"], scores[arm], "ticket above")
            overlap = common.shared(trained, largest, density) | before_training(trained, task)
            rows.append(row(density, arm, trained, scores[arm], baseline) | compared | overlap)
            told = common.summary(scores[arm])
            print(f"{density:.2f} {arm:<26} {told['accuracy']:.1%} ± {told['accuracy ±']:.1%}", flush=True)
            tables.write(results / "language/bert_tickets.csv", rows)


def arms(
    density: float, tickets: ws.Collection, dense: ws.Collection, task: ws.Task, steps: int, out: Path
) -> Iterator[tuple[str, ws.Collection]]:
    """The ticket and what it is compared with, each trained when it is asked for.

    Args:
        density: Density of the encoder's matrices.
        tickets: Tickets of this density.
        dense: The dense networks.
        task: Task of all.
        steps: Number of steps of each training.
        out: Folder of the controls.
    """
    pattern = common.encoder(density)
    controls = ws.tickets.TicketControls(seed=0, pattern=pattern)
    one_shot, random = (
        ws.tickets.PruneAtInit(score, pattern=pattern)
        for score in (ws.tickets.MagnitudeScore(), ws.tickets.RandomScore())
    )
    yield "ticket", tickets
    yield "one shot, magnitude of w_0", one_shot.find(dense, task, folder=out / "one-shot")
    yield "shuffled in layers", ws.train(controls.shuffled(tickets), task, f"{steps}it", folder=out / "shuffled")
    redrawn = controls.reinitialised(tickets)
    yield "mask, encoder re-drawn", ws.train(redrawn, task, f"{steps}it", folder=out / "redrawn")
    yield "random", random.find(dense, task, folder=out / "random")


def before_training(networks: ws.Collection, task: ws.Task) -> dict[str, object]:
    """Validation loss under the masks before the last training, where the weights then are known.

    Args:
        networks: Trained networks.
        task: Their task.
    """
    if "rewind" not in networks.extras:
        return {}
    started = networks.replace(weights=networks.extras["rewind"] * networks.masks, extras={})
    module = networks.architecture.build_seeded(0)
    figures = measure(task, module, started.layout, started.weights, started.buffers, task.validation)
    return {f"{name} before training": value for name, value in common.summary(figures["loss"], "loss").items()}


def row(
    density: float, arm: str, networks: ws.Collection, scores: list[float], dense: list[float]
) -> dict[str, object]:
    """One row of the table.

    Args:
        density: Density of the encoder's matrices.
        arm: What was trained.
        networks: The networks.
        scores: Test accuracy of each.
        dense: Test accuracy of the dense network of each seed.
    """
    held = [record["metrics"]["validation_accuracy"] for record in networks.records]
    start = {"density": density, "networks": arm, "validation accuracy": sum(held) / len(held)}
    return start | common.summary(scores) | common.differences(scores, dense, "above dense")


if __name__ == "__main__":
    tyro.cli(main)
