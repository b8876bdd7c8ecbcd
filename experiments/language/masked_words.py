"""Do masks found by masked words transfer better than masks found by a task?

    python -m experiments.language.masked_words --data-root ROOT     (20 minutes; the same command continues)

After Chen et al. 2020 (arXiv 2007.12223), on the first three layers of MiniLM. Masks keep 30 % of the encoder's
weights: those that are largest after tuning on masked words, on the task itself, on another task, or in the pre-
trained body; or any. Each is put on the body, with a new head, and trained on the task. All arms of a task begin at
the same heads and go through the texts in the same orders. Density and learning rate were fixed before the test split
was read.
"""

from pathlib import Path

import tyro

import weightspace as ws
from experiments.common import tables
from experiments.language import common, data


def main(
    data_root: Path | None = None,
    density: float = 0.3,
    layers: int = 3,
    steps: int = 40,
    word_steps: int = 120,
    networks: int = 3,
    length: int = 32,
    validation: int = 120,
    test: int = 400,
    out: Path = Path("runs/masked-words"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each task and source of the mask to language/masked_words.csv.

    Args:
        data_root: Folder of the unpacked packages; None looks where the library looks.
        density: Fraction of the encoder's weights that masks keep.
        layers: Number of layers.
        steps: Number of steps of each training on a task.
        word_steps: Number of steps of the tuning on masked words.
        networks: Number of networks of each kind, each with a head and an order of the texts of its own.
        length: Number of tokens at which texts are cut.
        validation: Number of texts to choose with, for each task.
        test: Number of texts for the end, for each task.
        out: Folder of the networks; the same command continues there.
        results: Folder of the result tables.
    """
    common.quiet()
    root = data.folder(data_root)
    body = data.minilm(root)
    pattern = common.encoder(density)
    texts, _ = data.handbook(root)
    words = ws.language.masked_words(
        texts,
        body,
        validation=0.05,
        test=0.05,
        length=length,
        layers=layers,
        train_embeddings=False,
        recipe=common.recipe(word_steps),
    )
    words = common.by_length(words)
    by_words = common.pruned(ws.collect(words, 1, seed=0, folder=out / "words"), pattern)
    print("masked words:", by_words.records[0]["metrics"], flush=True)
    texts_of = {
        "sentiment": data.reviews(root, "rotten_tomatoes", 3000, validation, test),
        "genre": data.brown(root, 3000, validation, test),
        "spam": data.spam(root, 1200, validation, test),
    }
    tasks = {
        name: ws.language.classification(
            found.texts,
            found.labels,
            body,
            name=name,
            splits=found.splits,
            layers=layers,
            length=length,
            train_embeddings=False,
            recipe=common.recipe(steps),
        )
        for name, found in texts_of.items()
    }
    tasks = {name: common.by_length(task) for name, task in tasks.items()}
    begun = {name: ws.language.pretrained(task, networks, seed=0) for name, task in tasks.items()}
    dense = {
        name: ws.train(begun[name], task, f"{steps}it", folder=out / name / "dense") for name, task in tasks.items()
    }
    names = list(tasks)
    rows: list[dict[str, object]] = []
    for i, (name, task) in enumerate(tasks.items()):
        start, other = begun[name], names[(i + 1) % len(names)]
        sources = {
            "masked words": by_words[[0] * networks],
            "the task itself": common.pruned(dense[name], pattern),
            f"another task ({other})": common.pruned(dense[other], pattern),
            "the body": common.pruned(start, pattern),
            "random": ws.tickets.TicketControls(seed=0, pattern=pattern).globally_shuffled(
                common.pruned(start, pattern)
            ),
        }
        arms = {"dense": dense[name]}
        for source, masks in sources.items():
            under = ws.tickets.transfer_masks(masks, start, pattern)
            arms[source] = ws.train(under, task, f"{steps}it", folder=out / name / source.split(" (")[0])
        scores = {
            arm: common.scores_on_test(trained, task, kept=out / name / f"{arm.split(' (')[0]}-scores.json")
            for arm, trained in arms.items()
        }
        for arm, trained in arms.items():
            held = [record["metrics"]["validation_accuracy"] for record in trained.records]
            row = {"task": name, "mask": arm, "density": 1.0 if arm == "dense" else density}
            row |= {"validation accuracy": sum(held) / len(held)} | common.summary(scores[arm])
            row |= common.differences(scores["masked words"], scores[arm], "masked words above")
            if arm != "dense":
                row |= common.shared(trained, arms["the body"], density)
            rows.append(row)
            print(row, flush=True)
        tables.write(results / "language/masked_words.csv", rows)


if __name__ == "__main__":
    tyro.cli(main)
