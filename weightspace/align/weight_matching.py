"""Weight matching (Git Re-Basin, Ainsworth et al. 2023, arXiv 2209.04836) for whole collections."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from weightspace.align.canonical import require_mixable, to_mix
from weightspace.align.costs import Cost, WeightCost, require_fields, signed_features
from weightspace.align.fitted_matching import BLOCK, FittedMatching
from weightspace.align.population import Fields, GrowingMean, PopulationScheme
from weightspace.align.rotated_form import require_rotating
from weightspace.align.signs import without_signs
from weightspace.errors import InputError
from weightspace.networks.arguments import check_inputs, check_networks
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks
from weightspace.runtime import checks
from weightspace.runtime.executor import Executor, device_for
from weightspace.runtime.trees import Tree
from weightspace.symmetry import Symmetry, prove, trace
from weightspace.symmetry.fold import rms_gains


@dataclass(frozen=True)
class WeightMatching:
    """Align a population by permuting (and rescaling, and flipping) hidden units; every function stays what it was.

    Fitting finds a reference (see `weightspace.align.population`). `transform` then matches any network, seen or
    new, to it by permutations that maximise their inner product: coordinate descent over groups of units, an exact
    assignment for each. Units behind odd activations (tanh, sine) get the better of their two signs. Masks, buffers and
    extras move with the weights.

    Units between two linear maps (inside heads, between the factors of an adapter) have no basis of their own. They are
    permuted like others, or, with `rotate`, brought into canonical form (`weightspace.align.canonical`) and rotated
    to the reference, by orthogonal Procrustes.

    Args:
        symmetry: Permutation symmetry written by hand; None traces it.
        balance: Whether each positively homogeneous unit first gets equal norms of incoming and outgoing weights, where
            activations allow it.
        cost: What is compared: weights, dense parents, posteriors, or a cost of your own
            (`weightspace.align.Cost`).
        population: The reference of all networks: the growing mean, one network (a star), MergeMany, or Universe.
        fix_unknown: Whether units that meet an operator which cannot be traced stay in place instead of an error.
        rotate: Whether units of linear groups are mixed instead of permuted; for dense networks, as masks cannot be
            mixed.

    Raises:
        InputError: The cost or the population scheme is none, or one that knows of no rotations with `rotate`.
    """

    symmetry: Symmetry | None = None
    balance: bool = True
    cost: Cost = WeightCost()
    population: PopulationScheme = GrowingMean()
    fix_unknown: bool = False
    rotate: bool = False

    def __post_init__(self) -> None:
        for name, value, kind, choices in (
            ("cost", self.cost, Cost, "WeightCost(), WassersteinCost() or PrecisionCost()"),
            ("population", self.population, PopulationScheme, "GrowingMean(), Star(), MergeMany() or Universe()"),
        ):
            if isinstance(value, type) or not isinstance(value, kind):
                raise InputError(
                    f"{name} must be one of weightspace.align's {choices}, or one of your own with the members of "
                    f"{kind.__name__}; got {checks.shown(value)}"
                )
        wanted = "a Symmetry, or None to trace it"
        checks.settle_given(self, checks.instance, "symmetry", kinds=Symmetry, wanted=wanted)
        checks.settle(self, checks.flag, "balance", "fix_unknown", "rotate")
        if self.rotate:
            require_rotating(self.cost, self.population)

    def fit(
        self,
        networks: Collection,
        *,
        example: Tree | None = None,
        executor: Executor | None = None,
        device: str = "auto",
    ) -> FittedMatching:
        """Find the reference of a collection, which may be larger than memory.

        Args:
            networks: The networks to align, dense or sparse.
            example: A batch of inputs, on which the symmetry is traced and proven: a tensor, a tuple of all inputs, or
                a mapping of them by name. Needed for a symmetry written by hand, and for networks whose input is not
                known.
            executor: Pool that matches several networks at once, on the CPU, for example a ProcessPoolExecutor.
            device: Device to match on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

        Raises:
            InputError: No symmetry can be derived for these networks, the one written by hand is wrong for them, they
                lack an extra that is to be compared, are sparse or hold what cannot be mixed and are to be rotated, the
                device is not available, or a pool is to match on a card.
            LayoutMismatch: The symmetry belongs to another layout.
        """
        check_networks(networks)
        checks.given(example, "example", check_inputs)
        require_fields(self.cost, networks)
        device = device_for(device, executor)
        symmetry = self.symmetry_of(networks, example)
        if self.rotate:
            require_mixable(networks, symmetry, self.cost.fields)
        return self.fit_proven(networks, symmetry, executor=executor, device=device)

    def fit_proven(
        self, networks: Collection, symmetry: Symmetry, *, executor: Executor | None = None, device: str = "auto"
    ) -> FittedMatching:
        """Find the reference of a collection whose symmetry is known and proven.

        Args:
            networks: The networks to align.
            symmetry: Their symmetry, as by `symmetry_of`.
            executor: As in `fit`.
            device: As in `fit`.
        """
        check_networks(networks)
        checks.instance(symmetry, "symmetry", Symmetry, "a Symmetry, as symmetry_of(networks) returns")
        device = device_for(device, executor)
        if self.rotate:
            symmetry = to_mix(symmetry)
            gains = rms_gains(networks.architecture.build_seeded(0))
            if gains:
                warnings.warn(
                    f"the gains of {len(gains)} RMS norms ({gains[0]}) single out the units in front of them, so that "
                    "these are reordered and not rotated: symmetry.fold_gains(networks, example) folds gains away",
                    stacklevel=3,
                )
            if not symmetry.linear:
                warnings.warn(
                    f"no units of {networks.architecture.name} can be mixed (symmetry.linear is empty): rotate=True "
                    "has no effect",
                    stacklevel=3,
                )
        if symmetry.odd and signed_features(self.cost) is None:
            warnings.warn(
                f"{type(self.cost).__name__} does not say which of its features change sign with the weights: the "
                "signs of units stay as they are. Give it a member `signed` (weightspace.align.Cost)",
                stacklevel=2,
            )
            symmetry = without_signs(symmetry)
        unreferenced = FittedMatching(symmetry, self.balance, {}, self.cost, self.rotate)
        reference = self.population.reference(_CollectionToMatch(unreferenced, networks, executor, device))
        stored = {name: t.to(networks.layout.dtype) for name, t in reference.items()}
        return FittedMatching(symmetry, self.balance, stored, self.cost, self.rotate)

    def symmetry_of(self, networks: Collection, example: Tree | None = None) -> Symmetry:
        """The symmetry by which these networks are aligned, traced or written by hand, and proven.

        Args:
            networks: The networks to align.
            example: Inputs as in `fit`.

        Raises:
            InputError: As in `fit`.
            LayoutMismatch: The symmetry belongs to another layout.
        """
        check_networks(networks)
        if self.symmetry is not None:
            self.symmetry.layout.require_tensors(networks.layout, "the collection to align")
            if example is None:
                raise InputError("a symmetry written by hand must be proven: give example=, a batch of inputs")
            prove(self.symmetry, networks.architecture.build_seeded(0), example)
            return self.symmetry
        symmetry = self._traced(networks, example)
        if not symmetry.groups:
            raise InputError(
                f"{networks.architecture.name} has no hidden units that could be permuted, so that there is nothing to "
                "align: leave the networks unaligned with align=None"
            )
        return symmetry

    def _traced(self, networks: Collection, example: Tree | None) -> Symmetry:
        example = networks.architecture.example() if example is None else example
        if example is None:
            raise InputError(
                f"the input of {networks.architecture.name} is not known: give fit(..., example=...), a batch of "
                "inputs (for example task.train.head(8).x), on which its symmetry is traced and proven; or leave the "
                "networks unaligned with align=None"
            )
        return trace(networks.architecture.build_seeded(0), example, fix_unknown=self.fix_unknown)


class _CollectionToMatch:
    """A collection as the population schemes see it; a block of networks is read at a time."""

    def __init__(self, matching: FittedMatching, networks: Collection, executor: Executor | None, device: str) -> None:
        self.matching, self.networks, self.executor, self.device = matching, networks, executor, device

    @property
    def symmetry(self) -> Symmetry:
        return self.matching.symmetry

    @property
    def cost(self) -> Cost:
        return self.matching.cost

    def __len__(self) -> int:
        return len(self.networks)

    def fields(self, i: int) -> Fields:
        return self.matching.fields(self.networks[[i]])[0]

    def matched(self, rows: Sequence[int], reference: Fields) -> Iterator[Fields]:
        for block in blocks(len(rows), BLOCK):
            fields = self.matching.fields(self.networks[list(rows[block])])
            matches = self.matching.match(fields, reference, self.executor, self.device)
            for match, vectors in zip(matches, fields, strict=True):
                yield self.matching.moved(vectors, match)
