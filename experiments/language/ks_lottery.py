"""Do eighteen rows of the embedding carry what tuning it on French learns?

    python -m experiments.language.ks_lottery --data-root ROOT     (15 minutes; the same command continues)

After Yuan et al. 2025 (arXiv 2402.02801), with hidden words in the place of translation: a loss per word cannot be
faked by learning to stop. MiniLM's first three layers get a decoder of their own, which is tuned with the encoder on
the English handbook. Then the embedding alone is tuned on the French one. Rows are chosen by the Kolmogorov-Smirnov
statistic of the paper, by the norm of their change, by frequency, and at random among the tokens that occur; they are
copied into the base (partial transfer) or trained alone (partial tuning). No certificate is claimed: agreement is
measured.
"""

from pathlib import Path
from typing import Literal

import tyro

import weightspace as ws
from experiments.common import tables
from experiments.language import common, data
from weightspace.models.bert import PADDING
from weightspace.tasks.measuring import measure

EMBEDDING = "embeddings.word_embeddings.weight"
WAYS: tuple[Literal["ks", "norm", "count", "random"], ...] = ("ks", "norm", "count", "random")


def main(
    data_root: Path | None = None,
    counts: tuple[int, ...] = (18, 100, 1000),
    tuned_counts: tuple[int, ...] = (18,),
    layers: int = 3,
    base_steps: int = 80,
    steps: int = 40,
    lr: float = 2e-3,
    networks: int = 3,
    length: int = 32,
    test: int = 100,
    out: Path = Path("runs/ks-lottery"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each choice of rows to language/ks_lottery.csv.

    Args:
        data_root: Folder of the unpacked packages; None looks where the library looks.
        counts: Numbers of rows that are copied.
        tuned_counts: Numbers of rows that are trained alone.
        layers: Number of layers.
        base_steps: Number of steps of the tuning on English.
        steps: Number of steps of each tuning on French.
        lr: Learning rate of the embedding.
        networks: Number of networks of each kind, each with an order of the French texts of its own.
        length: Number of tokens at which paragraphs are cut.
        test: Number of paragraphs of each language for the end.
        out: Folder of the networks; the same command continues there.
        results: Folder of the result tables.
    """
    common.quiet()
    root = data.folder(data_root)
    body = data.minilm(root)
    tasks = {
        language: words(root, body, language, layers, length, test, common.recipe(count, rate))
        for language, count, rate in (("en-US", base_steps, 2e-4), ("fr-FR", steps, lr))
    }
    english, french = tasks.values()
    one = ws.collect(english, 1, seed=0, folder=out / "base")
    base = ws.starts(one[[0] * networks], seed=0)
    ids = french.train.x[0]  # pyright: ignore[reportIndexIssue]
    tokens = ids[ids != PADDING]
    tuned = ws.adapt.Rows(EMBEDDING, count=1).tune(base, french, folder=out / "tuned")
    rows: list[dict[str, object]] = []

    figures: dict[str, list[list[float]]] = {}

    def add(networks: ws.Collection, how: str, by: str, count: int) -> None:
        """Measure networks, and write the table so far."""
        own = measured(networks, french, english)
        figures.setdefault(by, own)
        row: dict[str, object] = {"rows": count, "by": by, "how": how}
        for name, values in zip(("French loss", "French accuracy", "English loss"), own, strict=True):
            row |= common.summary(values, name)
        if "all" in figures:
            ends = zip(own[0], figures["none"][0], figures["all"][0], strict=True)
            row |= common.summary([(before - now) / (before - after) for now, before, after in ends], "share of gain")
            row |= common.summary(ws.adapt.agreement(networks, tuned, french), "agrees")
        rows.append(row)
        print(row, flush=True)
        tables.write(results / "language/ks_lottery.csv", rows)

    add(base, "before", "none", 0)
    add(tuned, "whole embedding tuned", "all", len(tokens.unique()))
    for count in counts:
        for by in WAYS:
            add(ws.adapt.Rows(EMBEDDING, by, count).transfer(base, tuned, tokens).on(base), "copied", by, count)
    for count in tuned_counts:
        for by in WAYS:
            found = ws.adapt.Rows(EMBEDDING, by, count).find(base, french, tuned, tokens, folder=out / f"{by}-{count}")
            add(found.on(base), "trained alone", by, count)


def measured(networks: ws.Collection, french: ws.Task, english: ws.Task) -> list[list[float]]:
    """Loss and accuracy on French, and loss on English, of each network on the test splits.

    Args:
        networks: Networks.
        french: Hidden words of French texts.
        english: Hidden words of English texts.
    """
    module = networks.architecture.build_seeded(0)
    found = [
        measure(task, module, networks.layout, networks.weights, networks.buffers, task.test)
        for task in (french, english)
    ]
    return [found[0]["loss"], found[0]["accuracy"], found[1]["loss"]]


def words(root: Path, body: Path, language: str, layers: int, length: int, test: int, recipe: ws.Recipe) -> ws.Task:
    """Hidden words of one language's handbook, with a decoder of its own; no page is in two splits.

    Args:
        root: Folder of the packages.
        body: Folder of the body.
        language: Language of the handbook.
        layers: Number of layers.
        length: Number of tokens at which paragraphs are cut.
        test: Number of paragraphs for the end.
        recipe: Recipe of the tuning.
    """
    paragraphs, pages = data.handbook(root, language)
    items = [(text, 0, page) for text, page in zip(paragraphs, pages, strict=True)]
    found = data.cut(items, 900, test // 4, test, 0)
    task = ws.language.masked_words(
        found.texts,
        body,
        name=f"words of {language}",
        splits=found.splits,
        length=length,
        layers=layers,
        tied=False,
        copies=2,
        recipe=recipe,
    )
    return common.by_length(task)


if __name__ == "__main__":
    tyro.cli(main)
