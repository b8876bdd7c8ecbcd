"""Texts as numbers: characters, or words."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from weightspace.errors import InputError
from weightspace.runtime import checks

UNKNOWN = "<unknown>"
"""Token 0: whatever the vocabulary lacks."""
END = "<end>"
"""Token 1: the end of a document."""
Unit = Literal["characters", "words"]
_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and their numbers.

    Args:
        tokens: The tokens by their numbers, `UNKNOWN` and `END` first.
        unit: What a token is: one of the "characters", or one of the "words", which are runs of letters and digits with
            apostrophes and hyphens inside, and single other characters; spaces are dropped.
    """

    tokens: tuple[str, ...]
    unit: Unit = "characters"

    def __post_init__(self) -> None:
        checks.settle(self, checks.one_of, "unit", choices=("characters", "words"))
        if tuple(self.tokens[:2]) != (UNKNOWN, END) or len(set(self.tokens)) < len(self.tokens):
            raise InputError(f"tokens must be different ones and begin with {UNKNOWN!r} and {END!r}: use Vocabulary.of")

    @classmethod
    def of(cls, texts: Sequence[str], unit: Unit = "characters", size: int | None = None) -> "Vocabulary":
        """The tokens of texts, the most frequent first; of equally frequent ones, by their characters.

        Args:
            texts: Texts.
            unit: What a token is.
            size: Number of tokens, with the two special ones; None takes all.

        Raises:
            InputError: The texts have no token, or the size is too small.
        """
        checks.one_of(unit, "unit", ("characters", "words"))
        checks.given(size, "size", checks.count, at_least=3)
        counts = Counter(token for text in texts for token in split(text, unit))
        ordered = sorted(counts, key=lambda token: (-counts[token], token))
        if not ordered:
            raise InputError("the texts have no tokens: give texts that are not empty")
        return cls((UNKNOWN, END, *ordered[: None if size is None else size - 2]), unit)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def encode(self, text: str) -> Int[Tensor, " tokens"]:
        """The numbers of a text's tokens.

        Args:
            text: The text.
        """
        return torch.tensor([self._numbers.get(token, 0) for token in split(text, self.unit)], dtype=torch.long)

    def decode(self, ids: Int[Tensor, " tokens"]) -> str:
        """The text of token numbers; words have a space between them.

        Args:
            ids: Token numbers.
        """
        return ("" if self.unit == "characters" else " ").join(self.tokens[number] for number in ids.tolist())


def split(text: str, unit: Unit) -> Sequence[str]:
    """The tokens of a text.

    Args:
        text: The text.
        unit: What a token is.
    """
    return text if unit == "characters" else _WORD.findall(text)
