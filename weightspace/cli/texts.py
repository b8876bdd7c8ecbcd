"""Tasks of texts on the command line: a CSV file, and the folder of a pre-trained body."""

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from weightspace import language, models
from weightspace.errors import InputError
from weightspace.language.next_token import sized
from weightspace.networks.architecture import Architecture
from weightspace.runtime import trees
from weightspace.storage.reading import read_text
from weightspace.storage.system_errors import exists
from weightspace.tasks.task import Task

_TEXT, _LABEL, _SPLIT = "text", "label", "split"


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Data of the tasks `text`, the class of a text, `masked_words`, its hidden words, and `next_token`.

    Args:
        texts: CSV file with a header: column text, for classes column label, and where splits are given column split
            (train, validation or test). For next_token also a file of plain text, such as book.txt.
        body: Folder of a pre-trained BERT: config.json, model.safetensors and tokenizer.json.
        body_layers: Number of its layers that are used, from the first; None for all.
        tokens: Number of tokens at which texts are cut; for next_token, of a window.
        train_embeddings: Whether embeddings are trained; otherwise they stay as they are, and training is faster.
        tied: Whether the decoder of masked_words is the embedding; rows of an embedding are tuned with --no-tied.
        unit: What a token of next_token is: characters or words.
        vocabulary: Number of the most frequent tokens that next_token keeps; None for all.
    """

    texts: Path | None = None
    body: Path | None = None
    body_layers: int | None = None
    tokens: int = 64
    train_embeddings: bool = True
    tied: bool = True
    unit: Literal["characters", "words"] = "characters"
    vocabulary: int | None = None


def text(options: TextOptions) -> Task:
    """The class of a text."""
    _check_decoder(options)
    columns = _columns(options, "text")
    if _LABEL not in columns:
        raise InputError(f"{options.texts} has no column {_LABEL!r}: task text needs the class of each text")
    assert options.body is not None
    return language.classification(
        columns[_TEXT],
        columns[_LABEL],
        options.body,
        splits=columns.get(_SPLIT),
        length=options.tokens,
        layers=options.body_layers,
        train_embeddings=options.train_embeddings,
    )


def masked_words(options: TextOptions) -> Task:
    """The hidden words of texts."""
    columns = _columns(options, "masked_words")
    assert options.body is not None
    return language.masked_words(
        columns[_TEXT],
        options.body,
        splits=columns.get(_SPLIT),
        length=options.tokens,
        tied=options.tied,
        layers=options.body_layers,
        train_embeddings=options.train_embeddings,
    )


def next_token(options: TextOptions) -> Task:
    """The next token of texts, by an LSTM; --model takes another network."""
    if options.texts is None:
        raise InputError("task next_token needs texts: give --texts FILE, a CSV file with a column text, or plain text")
    if options.body is not None:
        raise InputError("--body is of the tasks text and masked_words: language models are trained from scratch")
    _check_decoder(options)
    table = options.texts.suffix.lower() == ".csv"
    columns = _table(options.texts) if table else {_TEXT: [_content(options.texts)]}
    return language.next_token(
        columns[_TEXT],
        unit=options.unit,
        vocabulary=options.vocabulary,
        window=options.tokens,
        splits=columns.get(_SPLIT),
    )


def fitting(architecture: Architecture, task: Task) -> Architecture:
    """Another network of a task; a language model gets the sizes that follow from the task's texts.

    Args:
        architecture: The network.
        task: The task.
    """
    known = task.architecture.arguments
    if not (issubclass(getattr(models, architecture.name, type(None)), MODELS) and "vocabulary" in known):
        return architecture
    return sized(architecture, known["vocabulary"], trees.first(task.train.head(1).x).shape[1])


MODELS = (models.LSTMLanguageModel, models.TransformerLanguageModel)
"""Built-in language models."""
TASKS: Mapping[str, Callable[[TextOptions], Task]] = {
    "text": text, "masked_words": masked_words, "next_token": next_token,
}  # fmt: skip
"""Built-in tasks whose data the command line names."""


def _columns(options: TextOptions, task: str) -> dict[str, list[str]]:
    """The columns of the file.

    Raises:
        InputError: An option is missing, or the file is no such table.
    """
    if options.texts is None or options.body is None:
        raise InputError(
            f"task {task} needs texts and a pre-trained body: give --texts FILE.csv (a header, column text"
            f"{', column label' if task == 'text' else ''}) and --body FOLDER"
        )
    return _table(options.texts)


def _check_decoder(options: TextOptions) -> None:
    """Refuse --no-tied where no decoder is meant."""
    if not options.tied:
        raise InputError("--no-tied is of the task masked_words, whose decoder it unties: leave it out")


def _content(path: Path) -> str:
    """What is in a file of the user's.

    Raises:
        InputError: There is no such file.
    """
    if not exists(path):
        raise InputError(f"--texts names {path}, which is not there: give the path of a file of texts")
    return read_text(path)


def _table(path: Path) -> dict[str, list[str]]:
    """The columns of a file.

    Raises:
        InputError: The file is no table with a column text.
    """
    content = _content(path)
    try:
        rows = list(csv.reader(io.StringIO(content, newline=""), strict=True))
    except csv.Error as error:
        raise InputError(f"{path} is no CSV file ({error}): quote texts that hold commas or lines") from error
    if not rows or _TEXT not in rows[0]:
        raise InputError(
            f"{path} has no column {_TEXT!r}: its first line names the columns {_TEXT}, {_LABEL} and, where "
            f"splits are given, {_SPLIT}; got {', '.join(rows[0][:5]) if rows else 'an empty file'}"
        )
    header, body = rows[0], [row for row in rows[1:] if row]
    wrong = next((i for i, row in enumerate(body, 2) if len(row) != len(header)), None)
    if wrong is not None:
        raise InputError(f"row {wrong} of {path} has another number of columns than the {len(header)} named")
    return {name: [row[i] for row in body] for i, name in enumerate(header)}
