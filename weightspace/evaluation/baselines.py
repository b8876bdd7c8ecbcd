"""What a generator has to beat: cheap ways to make networks out of the training networks.

Every baseline is a collection of networks at one density, made from the aligned training networks. Levels of noise,
bandwidths and shares of interpolation make curves: the same baseline from close to far.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightspace.align.bases import mixable
from weightspace.compress import PCA, FittedPCA
from weightspace.errors import InputError
from weightspace.evaluation.planned import BaselineGroup, CurvePoint
from weightspace.masks.patterns import Unstructured
from weightspace.networks.collection import Collection
from weightspace.runtime import seeds
from weightspace.symmetry import Symmetry
from weightspace.symmetry.gains import Gains

EQUAL_ERRORS = "noise, equal errors"
_SOUP = 16
NOISE = tuple(10 ** (k / 3) for k in range(-12, 1))  # 1e-4 to 1, three to a decade
RELATIVE_NOISE = (0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 2.0)
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
BANDWIDTHS = (0.1, 0.2, 0.4, 0.7, 1.0)
# fmt: off
NAMES = (
    "noise", EQUAL_ERRORS, "interpolation", "soup of", "mean network", "Gaussian per weight", "Gaussian", "KDE",
    "dense sample, pruned", "retrieval", "swapped mask", "typical mask", "random mask", "unaligned average", "random",
    "permuted copy",
)
# fmt: on
"""Names of the baselines; "soup of" is followed by a number."""


@dataclass(frozen=True)
class Baselines:
    """Makes baseline networks from training networks.

    Args:
        aligned: Training networks in one basin, in memory.
        unaligned: The same networks before alignment.
        n: Number of networks in each baseline.
        density: Density that every baseline is pruned to.
        components: Principal components of the Gaussian and KDE baselines.
        symmetry: Symmetry of the networks, for permuted copies; None leaves that baseline out.
        seed: Seed of all draws; a baseline's draws do not depend on which others are made.
        device: Device to find principal components on.
        gains: What norms leave free, for permuted copies.
    """

    aligned: Collection
    unaligned: Collection
    n: int
    density: float
    components: int
    symmetry: Symmetry | None
    seed: int
    device: str = "cpu"
    gains: Gains | None = None

    @cached_property
    def pca(self) -> FittedPCA:
        """Principal components of the aligned training networks."""
        return PCA(self.components).fit(self.aligned.weights, device=self.device)

    @cached_property
    def bandwidth(self) -> float:
        """Bandwidth of the KDE in codes, in standard deviations: that of the largest leave-one-out likelihood."""
        return best_bandwidth(self.pca.transform(self.aligned.weights, device=self.device), self.pca.variances)

    def fewer(self, n: int) -> "Baselines":
        """The same baselines with at most so many networks each; what was computed for all stays.

        Args:
            n: Number of networks.
        """
        few = replace(self, n=min(n, self.n))
        few.__dict__.update(pca=self.pca, bandwidth=self.bandwidth)
        return few

    def groups(self, *, distance: float, sigma: float) -> list[BaselineGroup]:
        """The baselines of the table, not yet made.

        Args:
            distance: Length of the noise of the baseline that is as far from the training networks as the samples are.
            sigma: Standard deviation of the noise of the baseline whose errors overlap with the training networks' as
                the samples' do.
        """
        noise = self._noise(distance, sigma)
        return [*noise, *self._averages(), *self._distributions(), *self._masks(), *self._controls()]

    def _noise(self, distance: float, sigma: float) -> list[BaselineGroup]:
        return [
            BaselineGroup(
                "noise",
                "a training network plus noise on its kept weights, as long as the samples' median nearest distance",
                lambda: self.noisy(distance, "arm", of_length=True),
            ),
            BaselineGroup(
                EQUAL_ERRORS,
                f"a training network plus noise of standard deviation {sigma:.2g} on its kept weights, at which errors "
                "overlap with training networks' as the samples' do",
                lambda: self.noisy(sigma, "equal errors"),
            ),
        ]

    def _averages(self) -> list[BaselineGroup]:
        soup = min(_SOUP, len(self.aligned))
        return [
            BaselineGroup("interpolation", "between two aligned training networks", lambda: self.between(None)),
            BaselineGroup(f"soup of {soup}", "mean of aligned training networks", lambda: self.soup(soup)),
            BaselineGroup(
                "mean network",
                "mean of all aligned training networks; one network",
                lambda: self.pruned(self.aligned.weights.mean(0, keepdim=True)),
            ),
        ]

    def _distributions(self) -> list[BaselineGroup]:
        return [
            BaselineGroup("Gaussian per weight", "each weight from its own normal distribution", self.per_weight),
            BaselineGroup(
                "Gaussian",
                f"normal distribution fitted to {self.components} PCA codes",
                lambda: self.pruned(self.gaussian()),
            ),
            BaselineGroup(
                "KDE",
                f"PCA codes of a training network plus noise of {self.bandwidth:.2g} standard deviations, chosen by "
                "leave-one-out likelihood",
                lambda: self.kernel(self.bandwidth, "arm"),
            ),
            BaselineGroup(
                "dense sample, pruned",
                "a dense network from the Gaussian, the largest weights of each layer kept",
                lambda: self.pruned(self.gaussian(), by_layer=True),
            ),
        ]

    def _masks(self) -> list[BaselineGroup]:
        return [
            BaselineGroup(
                "retrieval",
                "a training network as it is",
                lambda: self.aligned[self._choose(1, "retrieval")[:, 0]],
            ),
            BaselineGroup("swapped mask", "weights of one training network under another's mask", self.swapped),
            BaselineGroup(
                "typical mask",
                "masks drawn by how often training networks keep each weight, values their mean where kept",
                lambda: self.mean_values(by_frequency=True),
            ),
            BaselineGroup(
                "random mask",
                "masks drawn at random at the training networks' layer densities, values their mean where kept",
                lambda: self.mean_values(by_frequency=False),
            ),
        ]

    def _controls(self) -> list[BaselineGroup]:
        groups = [
            BaselineGroup("unaligned average", "mean of two training networks, not aligned", self.unaligned_average),
            BaselineGroup("random", "fresh initialisation, largest weights kept, no training", self.random),
        ]
        if self.symmetry is None:
            return groups
        note = "a training network with its units reordered and rescaled: the same function"
        return [*groups, BaselineGroup("permuted copy", note, self.permuted)]

    def curve_points(self) -> list[CurvePoint]:
        """The points of the curves, from close to far, not yet made."""
        soups = sorted({k for k in (2, 4, 8, 16, 32, 64) if k < len(self.aligned)} | {len(self.aligned)})
        relative = "noise relative to each layer"
        return [
            *(CurvePoint("noise", s, lambda s=s: self.noisy(s, "level")) for s in NOISE),
            *(CurvePoint(relative, s, lambda s=s: self.noisy(s, "relative", relative=True)) for s in RELATIVE_NOISE),
            *(CurvePoint("interpolation", s, lambda s=s: self.between(s)) for s in SHARES),
            *(CurvePoint("soup", float(k), lambda k=k: self.soup(k)) for k in soups),
            *(CurvePoint("KDE", b, lambda b=b: self.kernel(b, "level")) for b in BANDWIDTHS),
        ]

    def noisy(self, strength: float, purpose: str, *, of_length: bool = False, relative: bool = False) -> Collection:
        """A training network plus noise on its kept weights.

        Args:
            strength: Standard deviation of the noise.
            purpose: Name of the random draws.
            of_length: Whether the strength is the length of the noise of each network instead.
            relative: Whether the strength is relative to the standard deviation of each tensor's kept weights.
        """
        chosen = self.aligned[self._choose(1, f"noise {purpose}")[:, 0]]
        xi = torch.randn(chosen.weights.shape, generator=self._random(f"noise {purpose} values")) * chosen.masks
        if relative:
            for at in self.aligned.layout.slices.values():
                xi[:, at] *= _std_of_kept(chosen.weights[:, at], chosen.masks[:, at])
        if of_length:
            xi = xi / xi.norm(dim=1, keepdim=True)
        return self.pruned(chosen.weights + strength * xi)

    def between(self, share: float | None) -> Collection:
        """Between two aligned training networks.

        Args:
            share: Share of the way; None draws it for each network.
        """
        pair = self._choose(2, "pairs")
        t = torch.rand(self.n, 1, generator=self._random("shares")) if share is None else share
        weights = self.aligned.weights
        return self.pruned((1 - t) * weights[pair[:, 0]] + t * weights[pair[:, 1]])

    def soup(self, k: int) -> Collection:
        """The mean of k aligned training networks."""
        chosen = self._choose(k, f"soup {k}")
        if k == len(self.aligned):  # all soups are the same
            chosen = chosen[:1]
        return self.pruned(torch.stack([self.aligned.weights[rows].mean(0) for rows in chosen]))

    def per_weight(self) -> Collection:
        """Each weight from a normal distribution of its own."""
        weights = self.aligned.weights
        xi = torch.randn(self.n, weights.shape[1], generator=self._random("per weight"))
        return self.pruned(weights.mean(0) + weights.std(0) * xi)

    def pruned(self, vectors: Float[Tensor, "n d"], *, by_layer: bool = False) -> Collection:
        """Networks of these weights at the baselines' density: the largest weights are kept.

        Args:
            vectors: Weights, a network a row.
            by_layer: Whether each layer keeps as many as the training networks do.
        """
        layout = self.aligned.layout
        if by_layer:
            masks = self._by_layer(vectors.abs())
        else:
            rule = Unstructured(self.density)
            try:
                masks = rule.mask(vectors.abs(), layout, within=(vectors != 0) | ~layout.prunable)
            except InputError:  # fewer non-zeros than the mask keeps: zeros fill it up
                masks = rule.mask(vectors.abs(), layout)
        return self._collection(vectors * masks, masks)

    def gaussian(self) -> Float[Tensor, "n d"]:
        """Dense networks from a normal distribution of the codes."""
        return self._decoded(
            torch.randn(self.n, self.components, generator=self._random("gaussian"), dtype=torch.float64)
        )

    def kernel(self, bandwidth: float, purpose: str) -> Collection:
        """Training networks plus noise on their codes, as a kernel density estimate draws them.

        Args:
            bandwidth: Standard deviation of the noise, in standard deviations of the codes.
            purpose: Name of the random draws.
        """
        chosen = self.aligned[self._choose(1, f"kde {purpose}")[:, 0]]
        units = self.pca.transform(chosen.weights, device=self.device).double() / self.pca.variances.sqrt()
        xi = torch.randn(units.shape, generator=self._random(f"kde {purpose} values"), dtype=torch.float64)
        return self.pruned(self._decoded(units + bandwidth * xi))

    def swapped(self) -> Collection:
        """Weights of one training network under the mask of another."""
        pair = self._choose(2, "swap")
        weights, masks = self.aligned.weights[pair[:, 0]], self.aligned.masks[pair[:, 1]]
        return self.pruned(weights * masks)

    def mean_values(self, *, by_frequency: bool) -> Collection:
        """Mean of the weights where they are kept, under drawn masks of the exact density.

        Args:
            by_frequency: Whether masks are drawn by how often training networks keep each weight; otherwise each weight
                of a layer is as likely.
        """
        layout, masks = self.aligned.layout, self.aligned.masks
        kept = masks.sum(0)
        values = self.aligned.weights.sum(0) / kept.clamp(min=1)
        frequency = masks.double().mean(0)
        if not by_frequency:
            for entry in layout.parameters:
                at = layout.slices[entry.name]
                frequency[at] = frequency[at].mean()
        uniform = torch.rand(self.n, layout.size, generator=self._random(f"masks {by_frequency}"), dtype=torch.float64)
        # Exponential races: the k smallest of -log(u) / f are k weights drawn in proportion to f.
        score = frequency.clamp(min=1e-12) / -uniform.clamp(min=1e-300).log()
        drawn = Unstructured(self.density).mask(score, layout)
        return self._collection(values * drawn, drawn)

    def unaligned_average(self) -> Collection:
        """The mean of two training networks that are not aligned."""
        return self.pruned(self.unaligned.weights[self._choose(2, "pairs")].mean(1))

    def random(self) -> Collection:
        """Fresh initialisations, pruned by magnitude and not trained."""
        layout, architecture = self.aligned.layout, self.aligned.architecture
        seeded = (seeds.derive(self.seed, "random network", i) for i in range(self.n))
        return self.pruned(torch.stack([layout.pack(architecture.build_seeded(s).state_dict()) for s in seeded]))

    def permuted(self) -> Collection:
        """Training networks with units reordered, rescaled, flipped, mixed: copies that compute the same function."""
        assert self.symmetry is not None
        random, mixed = self._random("permuted"), mixable(self.symmetry)
        weights: list[Tensor] = []
        masks: list[Tensor] = []
        for i in self._choose(1, "permuted copies")[:, 0].tolist():
            order = self.symmetry.random(random)
            weight = self._with_gains(i, random)
            scales = {g.name: torch.rand(g.size, generator=random) + 0.5 for g in self.symmetry.groups if g.homogeneous}
            scaled = self.symmetry.scale(weight, scales)
            if mixed and self.unaligned.dense:  # masks cannot be mixed
                drawn = self.symmetry.random_matrices(random)
                matrices = {group.name: drawn[group.name] for group in mixed}
                scaled = self.symmetry.mix(scaled.double(), matrices).to(scaled.dtype)
            flipped = self.symmetry.flip(scaled, self.symmetry.random_signs(random))
            weights.append(self.symmetry.permute(flipped, order))
            masks.append(self.symmetry.permute(self.unaligned.masks[i], order))
        return self._collection(torch.stack(weights), torch.stack(masks))

    def _with_gains(self, i: int, random: torch.Generator) -> Float[Tensor, " d"]:
        """Weights of a training network, with other gains in front of its norms."""
        one = self.unaligned[[i]]
        if not self.gains:
            return one.weights[0]
        return self.gains.randomised(one.weights, one.buffers, random, dense=one.dense)[0][0]

    def _decoded(self, units: Float[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        codes = units * self.pca.variances.sqrt()
        return self.pca.inverse_transform(codes.to(self.aligned.layout.dtype))

    def _choose(self, k: int, purpose: str) -> Int[Tensor, "n k"]:
        """N sets of k different training networks."""
        random = self._random(f"choice {purpose}")
        return torch.stack([torch.randperm(len(self.aligned), generator=random)[:k] for _ in range(self.n)])

    def _random(self, purpose: str) -> torch.Generator:
        return seeds.generator(self.seed, f"baseline {purpose}")

    def _by_layer(self, scores: Float[Tensor, "n d"]) -> Bool[Tensor, "n d"]:
        """The largest of each layer, as many as training tickets keep there, and the exact count in all."""
        layout, masks = self.aligned.layout, self.aligned.masks
        share = masks.double().mean(0)
        ranked = torch.full_like(scores, math.inf, dtype=torch.float64)
        for entry in layout.weights:
            at = layout.slices[entry.name]
            kept = share[at].mean()
            order = scores[:, at].argsort(1, descending=True)
            place = torch.arange(1, entry.size + 1, dtype=torch.float64).expand(len(scores), -1)  # 1 is the largest
            ranked[:, at] = torch.empty_like(place.contiguous()).scatter_(1, order, place) / -(
                kept.clamp(min=1e-12) * entry.size
            )
        return Unstructured(self.density).mask(ranked, layout)

    def _collection(self, weights: Float[Tensor, "n d"], masks: Bool[Tensor, "n d"]) -> Collection:
        # Statistics of normalisation are estimated anew before anything is measured; these are placeholders.
        buffers = {name: b[:1].expand(len(weights), *b.shape[1:]).clone() for name, b in self.aligned.buffers.items()}
        return Collection(
            self.aligned.layout, weights, architecture=self.aligned.architecture, masks=masks, buffers=buffers
        )


def _std_of_kept(weights: Float[Tensor, "n p"], masks: Bool[Tensor, "n p"]) -> Float[Tensor, "n 1"]:
    """Standard deviation of each network's kept weights of one tensor; 0 where none is kept."""
    count = masks.sum(1, keepdim=True).clamp(min=1)
    mean = weights.sum(1, keepdim=True) / count
    return (((weights - mean) * masks).square().sum(1, keepdim=True) / count).sqrt()


def best_bandwidth(codes: Float[Tensor, "n k"], variances: Float[Tensor, " k"]) -> float:
    """Bandwidth of a Gaussian kernel density in standardised codes with the largest leave-one-out likelihood.

    The same as a grid search over scikit-learn's `KernelDensity` with `LeaveOneOut`, in closed form: one matrix of
    distances serves all bandwidths and all networks.

    Args:
        codes: Codes of the networks.
        variances: Variance of each component.
    """
    units = codes.double() / variances.double().sqrt()
    squares = torch.cdist(units, units).square().fill_diagonal_(torch.inf)
    grid = torch.logspace(-1.5, 0.5, 61, dtype=torch.float64)
    values = [
        torch.logsumexp(-squares / (2 * b * b), 1).mean().item() - units.shape[1] * math.log(b) for b in grid.tolist()
    ]
    return grid[int(torch.tensor(values).argmax())].item()
