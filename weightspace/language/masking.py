"""Masked words: which tokens of a text are hidden, and what is put in their places (Devlin et al. 2019)."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from weightspace.errors import InputError
from weightspace.language.tokens import Tokenizer
from weightspace.models.bert import PADDING
from weightspace.networks.outputs import Classes
from weightspace.runtime import seeds
from weightspace.tasks.data import Split

IGNORED = -100
"""Target of places that only fill a row up."""
_HIDDEN, _CHANGED = 0.8, 0.1  # shares of the chosen tokens that become [MASK], and any token; the rest stays


def masked_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of the hidden words.

    Args:
        outputs: Logits (batch, places, vocabulary).
        y: Numbers of the hidden tokens (batch, places), -100 where there is none.
    """
    counted = y != IGNORED
    chosen = outputs.gather(-1, y.clamp(min=0)[..., None]).squeeze(-1)
    losses = torch.where(counted, outputs.logsumexp(-1) - chosen, 0)
    return losses.sum() / counted.sum()


def masked(numbers: Int[Tensor, "texts length"], tokenizer: Tokenizer, rate: float, seed: int, what: str) -> Split:
    """Texts with hidden tokens, and these tokens as targets.

    Args:
        numbers: Token numbers.
        tokenizer: Tokenizer that made them.
        rate: Share of each text's tokens that is chosen; at least one is.
        seed: Seed of what is drawn.
        what: Use of what is drawn, such as the name of the split.

    Raises:
        InputError: A text has no tokens.
    """
    draw = seeds.generator(seed, f"masked words of {what}")
    own = (numbers != PADDING) & (numbers != tokenizer.start) & (numbers != tokenizer.end)
    if not bool(own.any(1).all()):
        raise InputError(f"a text of the {what} split has no words, so that none can be hidden: leave empty texts out")
    counts = (own.sum(1) * rate).round().clamp(min=1).long()  # (texts,)
    order = torch.rand(numbers.shape, generator=draw).masked_fill(~own, 2.0).argsort(1)
    places = order[:, : int(counts.max())]
    used = torch.arange(places.shape[1]) < counts[:, None]
    places = torch.where(used, places, 0)
    y = torch.where(used, numbers.gather(1, places), IGNORED)
    chance = torch.rand(places.shape, generator=draw)
    any_token = torch.randint(1, tokenizer.size, places.shape, generator=draw)
    shown = torch.where(chance < _HIDDEN + _CHANGED, any_token, numbers.gather(1, places))
    shown = torch.where(chance < _HIDDEN, torch.tensor(tokenizer.mask), shown)
    shown = torch.where(used, shown, numbers.gather(1, places))  # unused places stand for [CLS], which stays
    return Split((numbers.scatter(1, places, shown), places), y)


def words() -> Classes:
    """What the outputs mean: a class number for each hidden token."""
    return Classes(ignored=IGNORED)


def joined(parts: list[Split]) -> Split:
    """Splits of the same texts, one below the other; rows of places are filled up to the longest.

    Args:
        parts: Splits that `masked` made.
    """
    width = max(part.y.shape[1] for part in parts)

    def wide(tensor: Tensor, fill: int) -> Tensor:
        return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=fill)

    inputs: list[Any] = [part.x for part in parts]
    ids, places = torch.cat([x[0] for x in inputs]), torch.cat([wide(x[1], 0) for x in inputs])
    return Split((ids, places), torch.cat([wide(part.y, IGNORED) for part in parts]))
