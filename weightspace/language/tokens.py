"""Texts as token numbers, by the tokenizer of a local folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from weightspace.errors import InputError, StorageError
from weightspace.models.bert import PADDING
from weightspace.runtime import checks
from weightspace.storage.system_errors import exists

TOKENIZER = "tokenizer.json"
"""File of a folder that is read."""


@dataclass(frozen=True)
class Tokenizer:
    """BERT's tokenizer of a folder.

    Args:
        rules: What Hugging Face's `tokenizers` read.
        start: Number of [CLS], which begins each text.
        end: Number of [SEP], which ends it.
        mask: Number of [MASK]; None where there is none.
        size: Number of tokens.
    """

    rules: Any
    start: int
    end: int
    mask: int | None
    size: int

    @classmethod
    def of(cls, folder: str | Path) -> "Tokenizer":
        """The tokenizer of a folder with tokenizer.json.

        Args:
            folder: Local folder.

        Raises:
            InputError: `tokenizers` is not installed, or the file is of another kind of model.
            StorageError: There is no such file, or it cannot be read.
        """
        try:
            import tokenizers
        except ImportError as error:
            raise InputError("texts need `tokenizers`: pip install 'weightspace[language]'") from error
        path = Path(checks.path(folder, "folder")) / TOKENIZER
        if not exists(path):
            raise StorageError(f"{path} is missing: give the folder of a BERT model with its {TOKENIZER}")
        try:
            rules = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises plain exceptions
            raise StorageError(f"{path} cannot be read as a tokenizer ({error}): restore it from a copy") from error
        rules.no_padding()  # texts are cut and filled up below, whatever the file says
        rules.no_truncation()
        start, end, mask, padding = (rules.token_to_id(name) for name in ("[CLS]", "[SEP]", "[MASK]", "[PAD]"))
        if start is None or end is None or padding != PADDING:
            raise InputError(
                f"{path} is not that of a BERT model: it needs [CLS], [SEP] and a [PAD] with number {PADDING}, got "
                f"{start}, {end} and {padding}"
            )
        return cls(rules, start, end, mask, rules.get_vocab_size())

    def numbers(self, texts: Sequence[str], length: int) -> Int[Tensor, "texts length"]:
        """Token numbers of texts: cut to a length, with [SEP] at the end, and filled up with padding.

        Args:
            texts: Texts.
            length: Number of tokens of the longest, [CLS] and [SEP] among them.
        """
        length = checks.count(length, "length", at_least=3)
        found = self.rules.encode_batch(list(texts), add_special_tokens=False)  # which the file may leave out
        rows = [[self.start, *one.ids[: length - 2], self.end] for one in found]
        numbers = torch.full((len(rows), max(map(len, rows))), PADDING)
        for i, row in enumerate(rows):
            numbers[i, : len(row)] = torch.tensor(row)
        return numbers
