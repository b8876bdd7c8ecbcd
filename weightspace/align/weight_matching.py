"""Weight matching (Git Re-Basin, Ainsworth et al. 2023, arXiv 2209.04836) for whole collections."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from weightspace.align.balance import balance_scales
from weightspace.align.costs import Cost, Weights, cost_from_json, cost_to_json, require_fields
from weightspace.align.matcher import Matched, Matcher
from weightspace.align.population import Fields, GrowingMean, Population
from weightspace.errors import InputError
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks
from weightspace.runtime.executor import Executor
from weightspace.runtime.progress import progress
from weightspace.symmetry import Symmetry, prove, trace

_BLOCK = 64  # networks in memory at once
_JOB = 4  # networks that an executor's worker matches at a time


@dataclass(frozen=True)
class WeightMatching:
    """Align a population by permuting (and rescaling) hidden units; every function stays what it was.

    Fitting finds a reference (see :mod:`weightspace.align.population`); `transform` then matches any
    network, seen or new, to it by permutations that maximise their inner product (coordinate descent
    over groups of units, an exact assignment for each). Masks, buffers and extras move with the weights.

    Args:
        symmetry: the permutation symmetry, written by hand; None traces it.
        example: a batch of inputs (or a tuple of all arguments of forward), on which the symmetry is
            traced and proven; needed for a hand-written one, and for networks whose input is not known.
        balance: first give each positively homogeneous unit equal norms of incoming and outgoing
            weights, where activations allow it.
        cost: what is compared: weights, dense parents, or posteriors.
        population: to which reference: the growing mean, one network (a star), or MergeMany.
        fix_unknown: leave units in place that meet an operator which cannot be traced.
    """

    symmetry: Symmetry | None = None
    balance: bool = True
    example: Tensor | tuple[Any, ...] | None = field(default=None, compare=False)
    cost: Cost = Weights()
    population: Population = GrowingMean()
    fix_unknown: bool = False

    def __post_init__(self) -> None:
        for name, value, kind, choices in (
            ("cost", self.cost, Cost, "Weights(), Wasserstein() or Precision()"),
            ("population", self.population, Population, "GrowingMean(), Star(), MergeMany() or Universe()"),
        ):
            if isinstance(value, type) or not isinstance(value, kind):
                raise InputError(f"{name} must be one of weightspace.align's {choices}, got {value!r}")

    def fit(self, networks: Collection, *, executor: Executor | None = None) -> "FittedMatching":
        """Find the reference from a collection, which may be larger than memory.

        Args:
            executor: matches several networks at once, for example a ProcessPoolExecutor.

        Raises:
            InputError: no symmetry can be derived for these networks, the given one is wrong for them,
                or they lack an extra that is to be compared.
            LayoutMismatch: the symmetry belongs to another layout.
        """
        if not isinstance(networks, Collection):
            raise InputError(f"alignment takes a Collection (Collection.load(folder)), got a {type(networks).__name__}")
        require_fields(self.cost, networks)
        symmetry = self.symmetry_of(networks)
        known = FittedMatching(symmetry, self.balance, {}, self.cost)
        reference = self.population.reference(_Networks(known, networks, executor))
        return FittedMatching(
            symmetry, self.balance, {name: t.to(networks.layout.dtype) for name, t in reference.items()}, self.cost
        )

    def symmetry_of(self, networks: Collection) -> Symmetry:
        """The symmetry by which these networks will be aligned, traced or given, and proven."""
        if self.symmetry is not None:
            self.symmetry.layout.require(networks.layout, "the collection to align")
            if self.example is None:
                raise InputError("a symmetry written by hand must be proven: give example=, a batch of inputs")
            prove(self.symmetry, networks.architecture.build_seeded(0), self.example)
            return self.symmetry
        symmetry = self._traced(networks)
        if not symmetry.groups:
            raise InputError(
                f"{networks.architecture.name} has no hidden units that could be permuted, so that there is nothing to "
                "align: leave the networks unaligned with align=None"
            )
        return symmetry

    def _traced(self, networks: Collection) -> Symmetry:
        example = networks.architecture.example() if self.example is None else self.example
        if example is None:
            raise InputError(
                f"the input of {networks.architecture.name} is not known: give WeightMatching(example=...), a batch of "
                "inputs (for example task.train.x[:8]), on which its symmetry is traced and proven; or leave the "
                "networks unaligned with align=None"
            )
        return trace(networks.architecture.build_seeded(0), example, fix_unknown=self.fix_unknown)


@dataclass(frozen=True, repr=False)
class FittedMatching:
    """A symmetry and the reference that networks are matched to.

    Args:
        reference: the fields of the reference network, (D,) each; "weights" is always among them.
    """

    symmetry: Symmetry
    balance: bool
    reference: Fields
    cost: Cost = Weights()

    def __repr__(self) -> str:
        groups = self.symmetry.groups
        return (
            f"FittedMatching({len(groups)} groups of units, {self.symmetry.coverage:.1%} of the parameters can move, "
            f"{self.cost}, {'balanced' if self.balance else 'not balanced'})"
        )

    def transform(self, networks: Collection, *, executor: Executor | None = None) -> Collection:
        """The same functions in the reference's basin: weights, masks, buffers and extras reordered together.

        Raises:
            LayoutMismatch: the networks are of another layout.
            InputError: they lack an extra that is to be compared.
        """
        self.symmetry.layout.require(networks.layout, "the collection to align")
        require_fields(self.cost, networks)
        parts: list[Collection] = []
        with progress(range(len(networks)), "aligning to the reference") as bar:
            for rows in blocks(len(networks), _BLOCK):
                part = networks[rows]
                scales = self._scales(part)
                fields = [self._fields(part, i, scales) for i in range(len(part))]
                found: list[Matched] = []
                for one in self._match(fields, self.reference, executor):
                    found.append(one)
                    bar.update(1)
                parts.append(self.apply(part, [one.permutations for one in found], scales))
        return parts[0] if len(parts) == 1 else Collection.concatenate(parts)

    def apply(
        self, networks: Collection, permutations: Sequence[dict[str, Tensor]], scales: dict[str, Tensor] | None = None
    ) -> Collection:
        """Networks under given permutations, one set a network, after a rescaling of their units.

        The mask, the buffers and all extras move with the weights. Extras are not rescaled, so that
        rewound weights stay the starting point they were, unless the cost names them.
        """
        move = self.symmetry.permute
        extras = networks.extras
        if scales:
            extras = {
                name: self.symmetry.scale(extra, scales) if name in self.cost.rescaled else extra
                for name, extra in extras.items()
            }
        weights = self.symmetry.scale(networks.weights, scales) if scales else networks.weights

        def each(tensor: Tensor) -> Tensor:
            return torch.stack([move(row, order) for row, order in zip(tensor, permutations, strict=True)])

        given = networks.buffers
        own = [
            self.symmetry.permute_buffers({n: b[i] for n, b in given.items()}, order)
            for i, order in enumerate(permutations)
        ]
        return networks.replace(
            weights=each(weights),
            masks=None if networks.dense else each(networks.masks),
            buffers={name: torch.stack([one[name] for one in own]) for name in given},
            extras={name: each(extra) for name, extra in extras.items()},
            records=[record | {"aligned": self.fingerprint()} for record in networks.records],
        )

    def permutations(self, networks: Collection) -> list[Matched]:
        """How each network is matched to the reference."""
        scales = self._scales(networks)
        return list(
            self._match([self._fields(networks, i, scales) for i in range(len(networks))], self.reference, None)
        )

    def _scales(self, networks: Collection) -> dict[str, Tensor]:
        return balance_scales(networks.weights, self.symmetry) if self.balance else {}

    def _fields(self, networks: Collection, i: int, scales: dict[str, Tensor]) -> Fields:
        """What is compared of network i, balanced."""
        own = {name: scale[i] for name, scale in scales.items()}
        fields: Fields = {}
        extras = networks[[i]].extras if len(self.cost.fields) > 1 or self.cost.fields != ("weights",) else {}
        for name in dict.fromkeys(("weights", *self.cost.fields)):
            vector = networks.weights[i] if name == "weights" else extras[name][0]
            follows = name == "weights" or name in self.cost.rescaled
            fields[name] = self.symmetry.scale(vector, own) if own and follows else vector
        return fields

    def _match(self, fields: Sequence[Fields], reference: Fields, executor: Executor | None) -> Iterator[Matched]:
        dtype = torch.promote_types(self.symmetry.layout.dtype, torch.float32)
        target = self.cost.of_reference({name: t.to(dtype) for name, t in reference.items()})
        features = [self.cost.of_network({name: t.to(dtype) for name, t in one.items()}) for one in fields]
        if executor is None or len(features) < 2:
            matcher = Matcher(self.symmetry, target)
            yield from (matcher.match(one) for one in features)
        else:
            jobs = [torch.stack(features[rows]) for rows in blocks(len(features), _JOB)]
            yield from chain.from_iterable(executor.map(partial(_match_job, self.symmetry, target), jobs))

    def fingerprint(self) -> str:
        """Identifies the basin: networks with the same one are aligned to each other."""
        digest = hashlib.sha256()
        for name in sorted(self.reference):
            digest.update(self.reference[name].contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def tensors(self) -> dict[str, Tensor]:
        """What `save` of a generator stores."""
        return {f"align.{name}": tensor for name, tensor in self.reference.items()}

    def to_json(self) -> dict[str, Any]:
        return {"balance": self.balance, "symmetry": self.symmetry.to_json(), "cost": cost_to_json(self.cost)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], symmetry: Symmetry, tensors: Mapping[str, Tensor]) -> "FittedMatching":
        """The inverse of `to_json` and `tensors`."""
        reference = {n.removeprefix("align."): t for n, t in tensors.items() if n.startswith("align.")}
        return cls(symmetry, data["balance"], reference, cost_from_json(data["cost"]))


def _match_job(symmetry: Symmetry, target: Tensor, features: Tensor) -> list[Matched]:
    """Match some networks in a worker."""
    torch.set_num_threads(1)
    matcher = Matcher(symmetry, target)
    return [matcher.match(one) for one in features]


class _Networks:
    """A collection as the population schemes see it; a block of networks is read at a time."""

    def __init__(self, fitted: FittedMatching, networks: Collection, executor: Executor | None) -> None:
        self.fitted, self.networks, self.executor = fitted, networks, executor

    @property
    def symmetry(self) -> Symmetry:
        return self.fitted.symmetry

    @property
    def cost(self) -> Cost:
        return self.fitted.cost

    def __len__(self) -> int:
        return len(self.networks)

    def fields(self, i: int) -> Fields:
        one = self.networks[[i]]
        return self.fitted._fields(one, 0, self.fitted._scales(one))

    def matched(self, rows: Sequence[int], reference: Fields) -> Iterator[Fields]:
        for some in blocks(len(rows), _BLOCK):
            part = self.networks[list(rows[some])]
            scales = self.fitted._scales(part)
            fields = [self.fitted._fields(part, i, scales) for i in range(len(part))]
            found = self.fitted._match(fields, reference, self.executor)
            for one, own in zip(found, fields, strict=True):
                yield {n: self.fitted.symmetry.permute(t, one.permutations) for n, t in own.items()}
