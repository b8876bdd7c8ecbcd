"""Tasks of texts on the command line: a CSV file, and the folder of a pre-trained body."""

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from weightspace import language
from weightspace.errors import InputError
from weightspace.storage.reading import read_text
from weightspace.tasks.task import Task

_TEXT, _LABEL, _SPLIT = "text", "label", "split"


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Data and body of the tasks `text`, the class of a text, and `masked_words`, its hidden words.

    Args:
        texts: CSV file with a header: column text, for classes column label, and where splits are given column split
            (train, validation or test).
        body: Folder of a pre-trained BERT: config.json, model.safetensors and tokenizer.json.
        body_layers: Number of its layers that are used, from the first; None for all.
        tokens: Number of tokens at which texts are cut.
        train_embeddings: Whether embeddings are trained; otherwise they stay as they are, and training is faster.
    """

    texts: Path | None = None
    body: Path | None = None
    body_layers: int | None = None
    tokens: int = 64
    train_embeddings: bool = True


def text(options: TextOptions) -> Task:
    """The class of a text."""
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
        layers=options.body_layers,
        train_embeddings=options.train_embeddings,
    )


TASKS: Mapping[str, Callable[[TextOptions], Task]] = {"text": text, "masked_words": masked_words}
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
    content = read_text(options.texts)
    try:
        rows = list(csv.reader(io.StringIO(content, newline=""), strict=True))
    except csv.Error as error:
        raise InputError(f"{options.texts} is no CSV file ({error}): quote texts that hold commas or lines") from error
    if not rows or _TEXT not in rows[0]:
        raise InputError(
            f"{options.texts} has no column {_TEXT!r}: its first line names the columns {_TEXT}, {_LABEL} and, where "
            f"splits are given, {_SPLIT}; got {', '.join(rows[0][:5]) if rows else 'an empty file'}"
        )
    header, body = rows[0], [row for row in rows[1:] if row]
    wrong = next((i for i, row in enumerate(body, 2) if len(row) != len(header)), None)
    if wrong is not None:
        raise InputError(f"row {wrong} of {options.texts} has another number of columns than the {len(header)} named")
    return {name: [row[i] for row in body] for i, name in enumerate(header)}
