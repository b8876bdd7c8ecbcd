"""Language models: the next token of a stream of text, as a task."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.language.vocabulary import Unit, Vocabulary
from weightspace.networks.architecture import Architecture
from weightspace.networks.outputs import Classes, nll
from weightspace.recipes.optimizers import Adam
from weightspace.recipes.recipe import Recipe
from weightspace.recipes.step import Step
from weightspace.runtime import checks
from weightspace.tasks.data import ArrayDataset, Data, DatasetSplit, Split
from weightspace.tasks.metrics import Metric
from weightspace.tasks.task import Task, split_rows

RECIPE = Recipe(Step(epochs=2), batch_size=32, optimizer=Adam(lr=5e-3), schedule="cosine", max_gradient_norm=1.0)
"""How a language model is trained where nothing else is said."""
_PARTS = ("train", "validation", "test")
_IN_MEMORY = 64 * 2**20  # logits of a split that are computed at once


def next_token(
    texts: Sequence[str] | str,
    network: str | Architecture | Callable[[], nn.Module] = "LSTMLanguageModel",
    *,
    unit: Unit = "characters",
    vocabulary: Vocabulary | int | None = None,
    window: int = 64,
    name: str = "next_token",
    splits: Sequence[str] | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    recipe: Recipe = RECIPE,
) -> Task:
    """Predict each token of texts from those before it in its window.

    The documents of a split are one stream, with a token at the end of each. The stream is cut into windows without
    overlap; every token but the first is predicted once, and those at the very end that fill no window are left out. A
    network knows nothing of what came before its window. The loss is in nats a token; the metrics are perplexity, its
    exponential, and bits a token. Tokens that the vocabulary lacks are one token, whose prediction counts: compare
    perplexities of one vocabulary only.

    Args:
        texts: Documents. A single text is cut in order: its beginning to train on, its end to test.
        network: "LSTMLanguageModel" or "TransformerLanguageModel" with their defaults; an architecture of one of them,
            such as Architecture("LSTMLanguageModel", {"hidden": 128}), which gets the vocabulary's size where it has
            none; or a function that returns a module from tokens (batch, positions) to logits (batch, positions,
            vocabulary).
        unit: What a token is: one of the "characters", or one of the "words".
        vocabulary: Tokens and their numbers; a number takes as many of the most frequent tokens of the training texts;
            None takes all.
        window: Number of tokens in a window.
        name: Name in records and reports.
        splits: "train", "validation" or "test" for each document; None cuts them by the seed.
        validation: Fraction of the documents (of the tokens of a single text) to choose with, where they are cut.
        test: Fraction for evaluation alone.
        seed: Seed of the cut.
        recipe: Recipe of one network's training.

    Raises:
        InputError: There is no text, a split is too short for a window, or a setting is impossible.
    """
    checks.text(name, "name")
    parts = _cut(texts, splits, validation, test, seed)
    if not isinstance(vocabulary, Vocabulary):
        vocabulary = Vocabulary.of(parts[0], unit, vocabulary)
    streams = [torch.cat([_document(vocabulary, text) for text in part]) for part in parts]
    noun = "character" if vocabulary.unit == "characters" else "word"
    return next_token_of_ids(streams, len(vocabulary), network, window=window, name=name, noun=noun, recipe=recipe)


def next_token_of_ids(
    streams: Sequence[Tensor],
    vocabulary: int,
    network: str | Architecture | Callable[[], nn.Module] = "LSTMLanguageModel",
    *,
    window: int = 64,
    name: str = "next_token",
    noun: str = "token",
    recipe: Recipe = RECIPE,
) -> Task:
    """As `next_token`, for texts that are token numbers already, by a tokenizer of your own.

    Args:
        streams: Token numbers of the training, validation and test texts.
        vocabulary: Number of different tokens.
        network: As for `next_token`.
        window: Number of tokens in a window.
        name: Name in records and reports.
        noun: What a token is, in the name of the metric "bits_per_token".
        recipe: Recipe of one network's training.

    Raises:
        InputError: A stream is too short for a window, or has a number outside the vocabulary.
    """
    checks.count(vocabulary, "vocabulary", at_least=2)
    checks.count(window, "window", at_least=1)
    checks.several(streams, "streams", checks.tensor, least=3, most=3, shape=("tokens",), dtype=torch.long)
    for part, stream in zip(_PARTS, streams, strict=True):
        if len(stream) <= window:
            raise InputError(
                f"the {part} texts have {len(stream)} tokens, and a window of {window} needs {window + 1}: give more "
                "text, or a smaller window="
            )
        if not 0 <= int(stream.min()) <= int(stream.max()) < vocabulary:
            raise InputError(
                f"the {part} texts have token numbers from {int(stream.min())} to {int(stream.max())}, outside a "
                f"vocabulary of {vocabulary}"
            )
    train, held, tested = (_windows(stream, window) for stream in streams)
    architecture = sized(network, vocabulary, window)
    metrics = ("perplexity", Metric(f"bits_per_{noun}", _bits, False, per_sample=True))
    # Read in parts, so that logits of a large vocabulary do not fill the memory.
    held, tested = (_in_parts(split, vocabulary) for split in (held, tested))
    task = Task(name, architecture, train, held, tested, recipe, outputs=Classes(), metrics=metrics)
    return replace(task, architecture=architecture.recognise(train.head(2).x))


def windows(stream: Int[Tensor, " tokens"], length: int) -> tuple[Int[Tensor, "n length"], Int[Tensor, "n length"]]:
    """A stream as windows without overlap: tokens, and the token after each of them.

    Args:
        stream: Token numbers.
        length: Number of tokens in a window.
    """
    count = (len(stream) - 1) // length
    return stream[: count * length].view(count, length), stream[1 : count * length + 1].view(count, length)


def _windows(stream: Tensor, length: int) -> Split:
    return Split(*windows(stream, length))


def _in_parts(split: Split, vocabulary: int) -> Data:
    """A split whose outputs are computed a part at a time, where all of them would be large."""
    logits = 4 * split.x.numel() * vocabulary
    return split if logits <= _IN_MEMORY else DatasetSplit(ArrayDataset(split.x, split.y))


def _document(vocabulary: Vocabulary, text: str) -> Tensor:
    return torch.cat([vocabulary.encode(text), torch.tensor([1])])


def _bits(logits: Tensor, y: Tensor) -> Tensor:
    return nll(Classes(), logits, y) / math.log(2)


def sized(network: str | Architecture | Callable[[], nn.Module], vocabulary: int, window: int) -> Architecture:
    """The architecture of a language model, with the sizes that follow from the texts where it has none.

    Args:
        network: As for `next_token`.
        vocabulary: Number of tokens.
        window: Number of tokens in a window.
    """
    if isinstance(network, str):
        network = Architecture(network, {})
    if not isinstance(network, Architecture):
        return Architecture.of(network)
    if network.factory is not None:
        return network
    sizes = {"vocabulary": vocabulary} | ({"positions": window} if network.name == "TransformerLanguageModel" else {})
    return replace(network, arguments=sizes | dict(network.arguments))


def _cut(
    texts: Sequence[str] | str, splits: Sequence[str] | None, validation: float, test: float, seed: int
) -> list[list[str]]:
    """The texts of each split."""
    texts = [texts] if isinstance(texts, str) else list(checks.several(texts, "texts", _text, least=1))
    for share, what in ((validation, "validation"), (test, "test")):
        checks.number(share, what, above=0, below=1)
    if splits is not None:
        checks.several(splits, "splits", checks.one_of, least=len(texts), most=len(texts), choices=_PARTS)
        parts = [[text for text, at in zip(texts, splits, strict=True) if at == part] for part in _PARTS]
        if empty := [part for part, found in zip(_PARTS, parts, strict=True) if not found]:
            raise InputError(f"splits must give every split a text, got none for {', '.join(empty)}")
        return parts
    if len(texts) == 1:
        (text,) = texts
        ends = [round(len(text) * share) for share in (1 - validation - test, 1 - test)]
        if ends[0] < 1:
            raise InputError(f"validation ({validation}) and test ({test}) leave nothing to train on")
        return [[text[: ends[0]]], [text[ends[0] : ends[1]]], [text[ends[1] :]]]
    counts = [max(1, round(len(texts) * share)) for share in (validation, test)]
    rows = split_rows(len(texts), validation=counts[0], test=counts[1], seed=seed)
    return [[texts[row] for row in sorted(part.tolist())] for part in rows]


def _text(value: object, name: str) -> str:
    return checks.text(value, name, "Call me Ishmael.")
