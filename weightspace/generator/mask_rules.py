"""How a sample's mask is decided: what is coded beside the weights, and what is ranked to choose the mask.

A rule turns tickets into the vectors that are compressed, and decoded vectors into values and scores; the pattern of a
sample then keeps the positions with the highest scores.

Rules are open: any class with `MaskRule.fit` is one. Register the class of what it returns to save generators that
use it: `@MASK_RULES.register("my-rule")` above `@dataclass(frozen=True)`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, ClassVar, Protocol, get_type_hints, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import InputError, StorageError
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks
from weightspace.networks.layout import Layout
from weightspace.runtime import checks
from weightspace.storage import typed
from weightspace.storage.fitted import require_tensor
from weightspace.storage.spelling import Spelling, spelling_of
from weightspace.storage.typed import Registry

_ROWS = 16  # networks read at once


@runtime_checkable
class FittedMaskRule(Protocol):
    """A rule that knows the tickets.

    Only `vectors` and `split` are needed. A fitted rule may also have, and those here that can do have:

    - `ranks_magnitudes`, True if the scores are the absolute values of the weights. Weights that no ticket keeps then
      rank last by themselves, and the gradient of the values is the gradient of the mask.
    - `extras(vectors, masks)`: vectors (n, D) that samples get as extras, by name, from decoded vectors (n, M) and the
      masks (n, D).

    To be saved it is a registered dataclass of tensors, a `weightspace.Layout`, numbers, words and booleans. A tensor
    that is annotated as `Float[Tensor, " d"]` has a value for each parameter; a file with another is refused.
    """

    def vectors(self, tickets: Collection) -> Collection | Float[Tensor, "n m"]:
        """The vectors that are compressed, (n, M); a collection stands for its weights.

        Args:
            tickets: Tickets of the layout that the rule was fitted to.
        """
        ...

    def split(self, vectors: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Values of the weights and the scores that rank them, (n, D) each; both may be views of the vectors.

        Args:
            vectors: Decoded vectors, (n, M), whose first D columns are the values.
        """
        ...


@runtime_checkable
class MaskRule(Protocol):
    """A rule for the masks of samples.

    Only `fit` is needed. A rule may also have:

    - `check(tickets)`, which raises InputError before any work if tickets do not suit the rule.
    - `rescaled`, names of the tickets' extras that must be rescaled with the weights when tickets are aligned.

    Make it a frozen dataclass: its text identifies runs.
    """

    def fit(self, tickets: Collection) -> FittedMaskRule:
        """Learn what the rule needs to know of the tickets.

        Args:
            tickets: Aligned tickets.

        Raises:
            InputError: These tickets do not suit the rule.
        """
        ...


MASK_RULES: Registry[FittedMaskRule] = Registry("mask rule")
"""Fitted mask rules by their names on disk."""


@MASK_RULES.register("magnitude")
@dataclass(frozen=True)
class MagnitudeMask:
    """Decode the weights, then keep the largest: the mask is read off the values."""

    spelling: ClassVar[Spelling] = Spelling("Magnitude")
    ranks_magnitudes: ClassVar[bool] = True

    def fit(self, tickets: Collection) -> "MagnitudeMask":
        return self

    def vectors(self, tickets: Collection) -> Collection:
        return tickets

    def split(self, vectors: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        return vectors, vectors.abs()


@dataclass(frozen=True)
class SharedMask:
    """One mask for all samples: the weights that most tickets keep, the larger ones first among equals."""

    spelling: ClassVar[Spelling] = Spelling("SharedSupport")

    def fit(self, tickets: Collection) -> "FittedSharedMask":
        often = _mean(tickets, lambda part: part.masks)
        size = _mean(tickets, lambda part: part.weights.abs())
        # Frequencies differ by at least 1 / n, so that size decides between equal ones alone.
        return FittedSharedMask(often + 0.5 / len(tickets) * size / size.max().clamp(min=torch.finfo(size.dtype).tiny))


@MASK_RULES.register("shared")
@dataclass(frozen=True)
class FittedSharedMask:
    """`SharedMask` of a collection.

    Args:
        scores: Scores of all positions, (D,).
    """

    spelling: ClassVar[Spelling] = Spelling("FittedShared", {"scores": "support.scores"})

    scores: Float[Tensor, " d"]

    def vectors(self, tickets: Collection) -> Collection:
        return tickets

    def split(self, vectors: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        return vectors, self.scores.to(vectors.device).expand(vectors.shape)


@dataclass(frozen=True)
class GateMask:
    """Code gates beside the weights: +1 where a ticket keeps a weight, -1 where not; decoded gates rank the weights.

    Analog bits (arXiv 2208.04202) with the pattern's projection in place of a threshold, so that counts are exact.

    Args:
        share: Share of the total variance that the gates have, in (0, 1).

    Raises:
        InputError: The share is none.
    """

    share: float = 0.5

    spelling: ClassVar[Spelling] = Spelling("Gates")

    def __post_init__(self) -> None:
        checks.settle(self, checks.number, "share", above=0, below=1)

    def check(self, tickets: Collection) -> None:
        """Raise InputError if the tickets are dense.

        Args:
            tickets: Tickets of the fit.
        """
        if tickets.dense:
            raise InputError(
                "gates code which weights a ticket keeps, and these networks are dense: use MagnitudeMask()"
            )

    def fit(self, tickets: Collection) -> "FittedGateMask":
        self.check(tickets)
        weights = tickets.weights.var(0).sum().item()
        often = _mean(tickets, lambda part: part.masks)[tickets.layout.prunable]
        n = len(tickets)
        gates = 4 * (often * (1 - often)).sum().item() * n / max(1, n - 1)
        if not gates > 0:
            raise InputError("all tickets have the same mask: gates have nothing to code, use SharedMask()")
        scale = (self.share / (1 - self.share) * weights / gates) ** 0.5
        return FittedGateMask(tickets.layout, scale)


@MASK_RULES.register("gates")
@dataclass(frozen=True)
class FittedGateMask:
    """`GateMask` of a collection.

    Args:
        layout: Layout of the networks.
        scale: Size of a gate in the vectors.
    """

    layout: Layout
    scale: float

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise InputError(f"the size of a gate must be positive, got {self.scale}")

    def vectors(self, tickets: Collection) -> Float[Tensor, "n m"]:
        gates = (2.0 * tickets.masks[:, self.layout.prunable] - 1.0) * self.scale
        return torch.cat([tickets.weights, gates.to(tickets.weights.dtype)], dim=1)

    def split(self, vectors: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        values, gates = vectors[:, : self.layout.size], vectors[:, self.layout.size :] / self.scale
        # Positions that are not prunable are always kept; their scores are never read.
        scores = torch.zeros_like(values).index_copy(1, self.layout.prunable.nonzero()[:, 0].to(gates.device), gates)
        return values, scores


def _mean(tickets: Collection, what: Callable[[Collection], Tensor]) -> Float[Tensor, " d"]:
    """Mean over networks, a few of them in memory at a time."""
    total = torch.zeros(tickets.layout.size, dtype=torch.float64)
    for rows in blocks(len(tickets), _ROWS):
        total += what(tickets[rows]).sum(0, dtype=torch.float64)
    return (total / len(tickets)).float()


def check_rule(rule: MaskRule, tickets: Collection) -> None:
    """Raise InputError if the rule says that it cannot be fitted to these tickets.

    Args:
        rule: Rule of the generator.
        tickets: Tickets of the fit, before they are aligned.
    """
    check = getattr(rule, "check", None)
    if check is not None:
        check(tickets)


def rescaled_by(rule: MaskRule) -> tuple[str, ...]:
    """Names of the extras that must be rescaled with the weights when tickets are aligned for this rule."""
    return tuple(getattr(rule, "rescaled", ()))


def ranks_magnitudes(rule: FittedMaskRule) -> bool:
    """Are the scores of a rule the absolute values of the weights?"""
    return bool(getattr(rule, "ranks_magnitudes", False))


def extras_of(rule: FittedMaskRule, vectors: Float[Tensor, "n m"], masks: Tensor) -> dict[str, Tensor]:
    """The extras of samples, by name; none for most rules.

    Args:
        rule: Fitted rule of the generator.
        vectors: Decoded vectors, (n, M).
        masks: Masks of the samples, (n, D).
    """
    extras = getattr(rule, "extras", None)
    return {} if extras is None else extras(vectors, masks)


def rule_to_json(rule: FittedMaskRule) -> dict[str, Any]:
    """The name of a fitted rule and its fields that are neither tensors nor the layout.

    Raises:
        InputError: The class of the rule is not registered.
    """
    values = {one.name: getattr(rule, one.name) for one in fields(rule)}  # pyright: ignore[reportArgumentType]
    plain = {name: value for name, value in values.items() if not isinstance(value, Tensor | Layout)}
    return {"rule": MASK_RULES.name_of(rule)} | {name: typed.to_json(value) for name, value in plain.items()}


def rule_tensors(rule: FittedMaskRule) -> dict[str, Tensor]:
    """The tensors of a fitted rule by their names in a file.

    Raises:
        InputError: The class of the rule is not registered.
    """
    name, kind = MASK_RULES.name_of(rule), type(rule)
    values = {one.name: getattr(rule, one.name) for one in fields(rule)}  # pyright: ignore[reportArgumentType]
    return {_on_disk(kind, name, key): value for key, value in values.items() if isinstance(value, Tensor)}


def load_mask_rule(saved: Any, tensors: Mapping[str, Tensor], layout: Layout) -> FittedMaskRule:
    """The fitted rule of a saved generator.

    Args:
        saved: What `rule_to_json` returned.
        tensors: Named tensors, those of `rule_tensors` among them.
        layout: Layout of the networks.

    Raises:
        StorageError: The rule is not registered, or one of its fields is missing, unknown or of another type.
    """
    if not isinstance(saved, Mapping):
        raise StorageError(f"the generator is damaged (masks is {saved!r}): restore it from a copy")
    what = f"the mask rule {saved.get('rule')!r}"
    kind = MASK_RULES.kind_of(saved.get("rule"), "the generator")
    hints, values, plain = get_type_hints(kind), {}, []
    for one in fields(kind):  # pyright: ignore[reportArgumentType]
        hint = hints[one.name]
        if hint is Layout:
            values[one.name] = layout
        elif getattr(hint, "array_type", hint) is Tensor:  # such as Float[Tensor, " d"]
            tensor = require_tensor(tensors, _on_disk(kind, saved["rule"], one.name), what)
            values[one.name] = _require_shape(tensor, hint, layout, f"{what}, {one.name}")
        else:
            plain.append((one.name, hint, field(default=one.default, default_factory=one.default_factory)))  # pyright: ignore
    written = {name: value for name, value in saved.items() if name != "rule"}
    settings = typed.from_json(make_dataclass(kind.__name__, plain), written, what)
    try:
        return kind(**values, **vars(settings))
    except InputError as error:
        raise StorageError(f"{what} is damaged ({error}): restore it from a copy") from error


def _require_shape(tensor: Tensor, hint: Any, layout: Layout, what: str) -> Tensor:
    """The tensor, if it is of the field's type; a field of shape " d" has a value for each parameter."""
    each = getattr(hint, "dim_str", None) == "d"
    if (each and tuple(tensor.shape) != (layout.size,)) or not isinstance(tensor, hint):
        expected = f"({layout.size},)" if each else getattr(hint, "__name__", "another")
        raise StorageError(
            f"{what}, is damaged ({tensor.dtype} of shape {tuple(tensor.shape)}, expected {expected}): restore it from "
            "a copy"
        )
    return tensor


def _on_disk(kind: type, name: str, tensor: str) -> str:
    return spelling_of(kind).fields.get(tensor, f"{name}.{tensor}")
