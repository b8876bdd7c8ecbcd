"""Principal components of N networks with D parameters each, N much smaller than D."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import InputError


@dataclass(frozen=True)
class PCA:
    """Exact principal components through the N x N Gram matrix, in float64.

    Codes keep their natural scale: no whitening, distances between codes are distances between
    networks inside the span of the components.

    Args:
        components: number kept, at most N - 1.
    """

    components: int = 128

    def __post_init__(self) -> None:
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

    def fit(self, vectors: Float[Tensor, "n d"]) -> "FittedPCA":
        """Find mean and components.

        Raises:
            InputError: more components than N networks can have, or the networks do not differ.
        """
        self.check(*vectors.shape)
        n = len(vectors)
        mean = vectors.double().mean(0)
        centred = vectors.double() - mean
        eigenvalues, eigenvectors = torch.linalg.eigh(centred @ centred.T)  # ascending
        values = eigenvalues.flip(0)[: self.components]
        if not values[-1] > 1e-12 * eigenvalues[-1]:
            rank = int((eigenvalues > 1e-12 * eigenvalues[-1]).sum())
            raise InputError(
                f"the networks differ in {rank} directions only, {self.components} components were asked: "
                "are some networks copies of each other?"
            )
        leading = eigenvectors.flip(1)[:, : self.components]
        components = (leading / values.sqrt()).T @ centred  # (k, d), orthonormal rows
        # Signs are arbitrary; fix them so that the largest entry of each component is positive.
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        components = components * largest.sign()
        return FittedPCA(
            mean.to(vectors.dtype),
            components.to(vectors.dtype),
            values / (n - 1),
            (centred.square().sum() / (n - 1)).item(),
        )


@dataclass(frozen=True)
class FittedPCA:
    """Mean and components.

    Args:
        mean: (D,).
        components: (K, D), orthonormal rows.
        variances: (K,), variance of the codes along each component, in float64.
        total_variance: trace of the covariance of the networks.
    """

    mean: Float[Tensor, " d"]
    components: Float[Tensor, "k d"]
    variances: Float[Tensor, " k"]
    total_variance: float

    @property
    def explained_variance_ratio(self) -> Float[Tensor, " k"]:
        """Fraction of the total variance (the trace, not the kept part) along each component."""
        return self.variances / self.total_variance

    def transform(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Codes of networks."""
        return (vectors - self.mean) @ self.components.T

    def inverse_transform(self, codes: Float[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        """Networks of codes."""
        return torch.addmm(self.mean, codes, self.components)

    def tensors(self) -> dict[str, Tensor]:
        return {"pca.mean": self.mean, "pca.components": self.components, "pca.variances": self.variances}

    def to_json(self) -> dict[str, Any]:
        return {"total_variance": self.total_variance}
