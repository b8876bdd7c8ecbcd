"""Tasks of texts: their classes, and their hidden words, on a pre-trained body."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.language.body import ClassHead, WordHead, bert
from weightspace.language.masking import joined, masked, masked_loss, words
from weightspace.language.tokens import Tokenizer
from weightspace.models.bert import PADDING
from weightspace.networks.collection import Collection
from weightspace.networks.starts import starts
from weightspace.recipes.by_length import ByLength
from weightspace.recipes.optimizers import Adam
from weightspace.recipes.recipe import Recipe
from weightspace.recipes.step import Step
from weightspace.runtime import checks
from weightspace.tasks.data import Split
from weightspace.tasks.task import Task, split_rows
from weightspace.training.conversion import initial
from weightspace.training.plans import Independent

RECIPE = Recipe(Step(epochs=3), 16, Adam(lr=1e-4), "triangular", max_gradient_norm=1.0, batches=ByLength())
"""How a pre-trained body is tuned where nothing else is said; texts of one length are gathered at random."""
PARTS = ("train", "validation", "test")
"""Names of the splits."""


def classification(
    texts: Sequence[str],
    labels: Sequence[int | str],
    body: str | Path,
    *,
    name: str = "text",
    splits: Sequence[str] | None = None,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    length: int = 64,
    layers: int | None = None,
    pooling: str = "mean",
    train_embeddings: bool = True,
    dropout: float = 0.0,
    recipe: Recipe | None = None,
) -> Task:
    """The class of a text, by a pre-trained BERT with a new head.

    Inputs are token numbers (texts, length), 0 for padding. Training begins at the body's weights and a head that is
    drawn from each network's seed; so does rewinding to "0it".

    Args:
        texts: Texts.
        labels: Class of each: a number from 0, or a name; names are numbered in their order.
        body: Folder of the body: config.json, model.safetensors and tokenizer.json.
        name: Name in records and reports.
        splits: "train", "validation" or "test" for each text; None cuts them by the seed.
        validation: Fraction of the texts to choose with, where they are cut.
        test: Fraction of the texts for evaluation alone.
        seed: Seed of the cut.
        length: Number of tokens at which texts are cut.
        layers: Number of layers that are used, from the first; None for all.
        pooling: What the head reads: the "mean" of all tokens, or the "first", [CLS].
        train_embeddings: Whether the embeddings are trained; otherwise they stay as they are, and training is faster.
        dropout: Fraction of units and attention weights that training leaves out.
        recipe: Recipe of one network's training; None is `RECIPE`.

    Raises:
        InputError: Texts and labels differ in number, a split is empty, a class is missing from the training data, or
            `tokenizers` is not installed.
        StorageError: A file of the folder is missing or cannot be read.
        LayoutMismatch: The folder's tensors do not fit its configuration.
    """
    texts = _texts(texts)
    y = _classes(labels, len(texts))
    rows = _rows(len(texts), splits, validation, test, seed)
    known = set(y[rows[0]].tolist())
    if known != set(range(len(known))) or set(y.tolist()) - known:
        raise InputError(f"every class must be in the training split, from 0 on: it has {sorted(known)}")
    numbers = Tokenizer.of(body).numbers(texts, length)
    train, held, tested = (Split(numbers[part], y[part]) for part in rows)
    head = ClassHead(max(2, len(known)), pooling)
    architecture = bert(body, head, layers=layers, train_embeddings=train_embeddings, dropout=dropout)
    return Task(name, architecture, train, held, tested, recipe or _usual(train.x))


def masked_words(
    texts: Sequence[str],
    body: str | Path,
    *,
    name: str = "masked_words",
    splits: Sequence[str] | None = None,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    length: int = 64,
    rate: float = 0.15,
    copies: int = 4,
    tied: bool = True,
    layers: int | None = None,
    train_embeddings: bool = True,
    dropout: float = 0.0,
    recipe: Recipe | None = None,
) -> Task:
    """The hidden words of texts, by a pre-trained BERT.

    Of each text 15 % of the tokens are chosen: 80 % of them become [MASK], 10 % any token, 10 % stay. What is hidden is
    fixed in all splits; training has several copies of each text with other words hidden, as BERT's own data have. Only
    hidden words are decoded.

    Args:
        texts: Texts.
        body: Folder of the body: config.json, model.safetensors and tokenizer.json.
        name: Name in records and reports.
        splits: "train", "validation" or "test" for each text; None cuts them by the seed.
        validation: Fraction of the texts to choose with, where they are cut.
        test: Fraction of the texts for evaluation alone.
        seed: Seed of the cut and of what is hidden.
        length: Number of tokens at which texts are cut.
        rate: Share of the tokens that is chosen.
        copies: Number of copies of each text in the training data.
        tied: Whether the decoder is the input embedding; otherwise it is a copy of its own.
        layers: Number of layers that are used, from the first; None for all.
        train_embeddings: Whether the embeddings are trained.
        dropout: Fraction of units and attention weights that training leaves out.
        recipe: Recipe of one network's training; None is `RECIPE`.

    Raises:
        InputError: A split or a text is empty, the tokenizer has no [MASK], or `tokenizers` is not installed.
        StorageError: A file of the folder is missing or cannot be read.
        LayoutMismatch: The folder's tensors do not fit its configuration.
    """
    texts = _texts(texts)
    rate, copies = checks.number(rate, "rate", above=0, at_most=1), checks.count(copies, "copies", at_least=1)
    rows = _rows(len(texts), splits, validation, test, seed)
    tokenizer = Tokenizer.of(body)
    if tokenizer.mask is None:
        raise InputError(f"the tokenizer of {body} has no [MASK]: give one that was trained with masked words")
    numbers = tokenizer.numbers(texts, length)
    many = [masked(numbers[rows[0]], tokenizer, rate, seed, f"train {copy}") for copy in range(copies)]
    held, tested = (masked(numbers[rows[i]], tokenizer, rate, seed, PARTS[i]) for i in (1, 2))
    architecture = bert(body, WordHead(tied), layers=layers, train_embeddings=train_embeddings, dropout=dropout)
    recipe = recipe or _usual(numbers[rows[0]])
    return Task(name, architecture, joined(many), held, tested, recipe, masked_loss, outputs=words())


def pretrained(task: Task, n: int, *, seed: int = 0) -> Collection:
    """Networks of a task as training begins: the body's weights, and a head drawn from each seed.

    They are starts, for whatever adapts or prunes given networks; `collect(task, n, seed=seed)` begins at the same.

    Args:
        task: A task whose networks begin at pre-trained weights.
        n: Number of networks.
        seed: Seed of heads and data orders.

    Raises:
        InputError: The task's networks do not begin at pre-trained weights.
    """
    if task.architecture.pretrained is None:
        raise InputError(f"networks of task {task.name!r} are drawn from their seeds: collect them, or import others")
    runs = Independent().runs(checks.count(n, "n", at_least=1), checks.seed(seed))
    return starts(initial(task.architecture, runs))


def _usual(numbers: Tensor) -> Recipe:
    """The usual recipe; where no text is shorter than another, there is nothing to gather by length."""
    return RECIPE if bool((numbers[:, -1] == PADDING).any()) else replace(RECIPE, batches=None)


def _texts(texts: Any) -> list[str]:
    return list(checks.several(texts, "texts", checks.instance, least=3, kinds=str, wanted="a text"))


def _classes(labels: Any, count: int) -> Tensor:
    """Class numbers."""
    labels = list(labels)
    if len(labels) != count:
        raise InputError(f"got {count} texts and {len(labels)} labels: give one label a text")
    if all(isinstance(label, str) for label in labels):
        numbers = {label: i for i, label in enumerate(sorted(set(labels)))}
        return torch.tensor([numbers[label] for label in labels])
    return torch.tensor([checks.count(label, f"labels[{i}]") for i, label in enumerate(labels)])


def _rows(count: int, splits: Any, validation: float, test: float, seed: int) -> list[Tensor]:
    """Numbers of the texts in each split."""
    if splits is None:
        shares = [checks.number(validation, "validation", above=0, below=1), checks.number(test, "test", above=0)]
        sizes = [max(1, round(count * share)) for share in shares]
        return list(split_rows(count, validation=sizes[0], test=sizes[1], seed=checks.seed(seed)))
    splits = list(splits)
    unknown = sorted({str(one) for one in splits} - set(PARTS))
    if len(splits) != count or unknown:
        got = f"{unknown[0]!r}" if unknown else f"{len(splits)} of them for {count} texts"
        raise InputError(f"splits are 'train', 'validation' or 'test', one a text, got {got}")
    rows = [torch.tensor([i for i, one in enumerate(splits) if one == part], dtype=torch.long) for part in PARTS]
    empty = [part for part, own in zip(PARTS, rows, strict=True) if not len(own)]
    if empty:
        raise InputError(f"the {empty[0]} split has no texts: give each split some")
    return rows
