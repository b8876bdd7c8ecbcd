"""Principal components of N networks with D parameters each, N much smaller than D."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.compress.columns import Columns
from weightspace.errors import InputError
from weightspace.networks.collection import Collection

_RANK = 1e-12  # eigenvalues below this share of the largest are rounding


@dataclass(frozen=True)
class PCA:
    """Exact principal components through the N x N Gram matrix, in float64.

    Codes keep their natural scale: no whitening, distances between codes are distances between
    networks inside the span of the components. A collection on disk is read in blocks of columns, twice.

    Args:
        components: number kept, at most N - 1; or a share of the total variance in (0, 1), for as few
            components as explain it.
    """

    components: int | float = 128

    def __post_init__(self) -> None:
        if isinstance(self.components, float) and self.components == 1:
            raise InputError(
                "components = 1.0 could be one component or all of the variance: write 1, or a share below 1"
            )
        share = isinstance(self.components, float) and not self.components.is_integer()
        if share and not 0 < self.components < 1:
            raise InputError(f"components are a number, or a share of the variance in (0, 1); got {self.components}")
        if not share:
            object.__setattr__(self, "components", int(self.components))
            if self.components < 1:
                raise InputError(f"components must be at least 1, got {self.components}")

    def check(self, networks: int, parameters: int) -> None:
        """Raise InputError if so many networks cannot have as many components."""
        limit = min(networks - 1, parameters)
        if self.components > limit:
            raise InputError(
                f"{networks} networks of {parameters} parameters have at most {limit} principal components, "
                f"{self.components} were asked: lower `components` or use more networks"
            )

    def fit(self, vectors: Float[Tensor, "n d"] | Collection) -> "FittedPCA":
        """Find mean and components.

        Args:
            vectors: networks as rows, or a collection, which may be larger than memory.

        Raises:
            InputError: more components than N networks can have, or the networks do not differ.
        """
        columns = Columns(vectors)
        n, d = columns.shape
        self.check(n, d)
        mean = torch.empty(d, dtype=torch.float64)
        gram = torch.zeros(n, n, dtype=torch.float64)
        for at, block in columns.blocks():
            mean[at] = block.mean(0)
            centred = block - mean[at]
            gram += centred @ centred.T
        values, vectors_ = _leading(gram, self.components)
        components = torch.empty(len(values), d, dtype=columns.dtype)
        combine = (vectors_ / values.sqrt()).T  # (k, n)
        for at, block in columns.blocks():
            components[:, at] = (combine @ (block - mean[at])).to(columns.dtype)
        return FittedPCA(
            mean.to(columns.dtype), _signed(components), values / (n - 1), gram.trace().item() / (n - 1), n
        )


@dataclass(frozen=True)
class FittedPCA:
    """Mean and components.

    Args:
        mean: (D,).
        components: (K, D), orthonormal rows.
        variances: (K,), variance of the codes along each component, in float64.
        total_variance: trace of the covariance of the networks.
        networks: how many it was fitted to.
    """

    mean: Float[Tensor, " d"]
    components: Float[Tensor, "k d"]
    variances: Float[Tensor, " k"]
    total_variance: float
    networks: int

    @property
    def explained_variance_ratio(self) -> Float[Tensor, " k"]:
        """Fraction of the total variance (the trace, not the kept part) along each component."""
        return self.variances / self.total_variance

    def transform(self, vectors: Float[Tensor, "n d"] | Collection) -> Float[Tensor, "n k"]:
        """Codes of networks, added up over blocks of columns in float64."""
        columns = Columns(vectors)
        n, d = columns.shape
        if d != len(self.mean):
            raise InputError(f"expected networks of {len(self.mean)} parameters, got {d}")
        codes = torch.zeros(n, len(self.components), dtype=torch.float64)
        for at, block in columns.blocks():
            codes += (block - self.mean[at].double()) @ self.components[:, at].double().T
        return codes.to(columns.dtype)

    def inverse_transform(self, codes: Float[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        """Networks of codes."""
        return torch.addmm(self.mean, codes.to(self.mean.dtype), self.components)

    def updated(self, vectors: Float[Tensor, "m d"] | Collection, components: int | None = None) -> "FittedPCA":
        """The components of all networks so far and new ones, without reading the old ones again.

        Exact if the components explain all variance of the old networks, otherwise their unexplained part is
        forgotten, but counts in the total (Ross et al. 2008, section 3.1).

        Args:
            vectors: the new networks.
            components: number kept; by default as many as before.
        """
        columns = Columns(vectors)
        m, d = columns.shape
        if d != len(self.mean):
            raise InputError(f"expected networks of {len(self.mean)} parameters, got {d}")
        n, k = self.networks, len(self.components)
        kept = k if components is None else components
        mean = torch.empty(d, dtype=torch.float64)
        gram = torch.zeros(k + m + 1, k + m + 1, dtype=torch.float64)
        weight = self.variances.mul(n - 1).sqrt()

        def rows(at: slice, block: Tensor) -> Tensor:
            """The old components by their spread, the new networks, and the way between the two means."""
            own, old = block.mean(0), self.mean[at].double()
            between = math.sqrt(n * m / (n + m)) * (own - old)
            mean[at] = (n * old + m * own) / (n + m)
            return torch.cat([weight[:, None] * self.components[:, at].double(), block - own, between[None]])

        for at, block in columns.blocks():
            stacked = rows(at, block)
            gram += stacked @ stacked.T
        if kept > min(n + m - 1, d):
            raise InputError(f"{n + m} networks have at most {min(n + m - 1, d)} components, {kept} were asked")
        values, vectors_ = _leading(gram, kept)
        combine = (vectors_ / values.sqrt()).T
        found = torch.empty(len(values), d, dtype=columns.dtype)
        for at, block in columns.blocks():
            found[:, at] = (combine @ rows(at, block)).to(columns.dtype)
        forgotten = (self.total_variance - self.variances.sum().item()) * (n - 1)
        total = (gram.trace().item() + forgotten) / (n + m - 1)
        return FittedPCA(mean.to(columns.dtype), _signed(found), values / (n + m - 1), total, n + m)

    def tensors(self) -> dict[str, Tensor]:
        return {"pca.mean": self.mean, "pca.components": self.components, "pca.variances": self.variances}

    def to_json(self) -> dict[str, Any]:
        return {"total_variance": self.total_variance, "networks": self.networks}


def _leading(gram: Float[Tensor, "n n"], components: int | float) -> tuple[Float[Tensor, " k"], Float[Tensor, "n k"]]:
    """The largest eigenvalues, descending, and their eigenvectors: a number of them, or a share of the trace."""
    eigenvalues, eigenvectors = torch.linalg.eigh(gram)  # ascending
    eigenvalues, eigenvectors = eigenvalues.flip(0), eigenvectors.flip(1)
    rank = int((eigenvalues > _RANK * eigenvalues[0]).sum()) if eigenvalues[0] > 0 else 0
    if components < 1:
        share = eigenvalues.clamp(min=0).cumsum(0) / eigenvalues.clamp(min=0).sum()
        count = int((share < components).sum()) + 1
    else:
        count = int(components)
    if rank < min(count, len(gram)) or not rank:
        raise InputError(
            f"the networks differ in {rank} directions only, {count} components were asked: "
            "are some networks copies of each other?"
        )
    return eigenvalues[:count], eigenvectors[:, :count]


def _signed(components: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """Signs are arbitrary; fix them so that the largest entry of each component is positive."""
    for row in components:
        if row[row.abs().argmax()] < 0:
            row.neg_()
    return components
