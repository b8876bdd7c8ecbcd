"""Principal components of N networks with D parameters each, N much smaller than D."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.compress.columns import Columns
from weightspace.errors import InputError, StorageError
from weightspace.networks.collection import Collection
from weightspace.runtime import checks, devices, room
from weightspace.storage.fitted import FittedFormat, require_tensor
from weightspace.storage.typed import from_json

_RANK = 1e-12  # eigenvalues below this share of the largest are rounding
_MANY = 1024  # networks from which on fewer parameters make the smaller matrix; below, any is quick
_PCA = ("total_variance", "networks")
_FORMAT = FittedFormat("pca", 1, (1,), _PCA)


@dataclass(frozen=True)
class PCA:
    """Exact principal components in float64: through the N x N Gram matrix, or of many small networks the covariance.

    Codes keep their natural scale: no whitening, distances between codes are distances between
    networks inside the span of the components. A collection on disk is read in blocks of columns, twice.

    Args:
        components: Number of components kept, at most N - 1; or a share of the total variance in (0, 1), for as few
            components as explain it.

    Raises:
        InputError: The components are neither.
    """

    components: int | float = 128

    def __post_init__(self) -> None:
        checks.settle(self, checks.number, "components", above=0)
        if isinstance(self.components, float) and self.components == 1:
            raise InputError(
                "components = 1.0 could be one component or all of the variance: write 1, or a share below 1"
            )
        share = isinstance(self.components, float) and not self.components.is_integer()
        if share and not 0 < self.components < 1:
            raise InputError(
                f"components must be a number, or a share of the variance in (0, 1), got {self.components}"
            )
        if not share:
            object.__setattr__(self, "components", int(self.components))
            if self.components < 1:
                raise InputError(f"components must be at least 1, got {self.components}")

    def check(self, networks: int, parameters: int) -> None:
        """Raise InputError if so many networks cannot have as many components, or memory has no room for them.

        Args:
            networks: Number of networks.
            parameters: Parameters of each.
        """
        limit = min(networks - 1, parameters)
        if self.components > limit:
            raise InputError(
                f"{networks:,} networks of {parameters:,} parameters have at most {limit} principal components, "
                f"fewer than components = {self.components}: give more networks, or "
                f"PCA({limit}) (--compress.components {limit}) or fewer components"
            )
        if self.components >= 1:
            room.check_components(int(self.components), parameters)

    def fit(self, vectors: Float[Tensor, "n d"] | Collection, *, device: str = "auto") -> "FittedPCA":
        """Find mean and components.

        Args:
            vectors: Networks as rows, (N, D), or a collection, which may be larger than memory.
            device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.
                Blocks of columns go there one by one.

        Raises:
            InputError: N networks cannot have so many components, memory has no room for them, the networks do not
                differ, or the device is not available.
        """
        device = devices.pick(device)
        columns = Columns(vectors)
        n, d = columns.shape
        self.check(n, d)
        columns.require_finite()
        if n > max(d, _MANY):
            return self._of_many(columns, device)
        mean = torch.empty(d, dtype=torch.float64)
        gram = torch.zeros(n, n, dtype=torch.float64, device=device)
        for at, block in columns.blocks(device):
            centre = block.mean(0)
            mean[at] = centre
            centred = block - centre
            gram += centred @ centred.T
        values, vectors_ = _leading(gram, self.components)
        room.check_components(len(values), d)
        components = torch.empty(len(values), d, dtype=columns.dtype)
        combine = (vectors_ / values.sqrt()).T  # (k, n)
        for at, block in columns.blocks(device):
            components[:, at] = (combine @ (block - mean[at].to(device))).to(columns.dtype)
        variances, total = values.cpu() / (n - 1), gram.trace().item() / (n - 1)
        return FittedPCA(mean.to(columns.dtype), _signed(components), variances, total, n)

    def _of_many(self, columns: Columns, device: str) -> "FittedPCA":
        """More networks than parameters: the eigenvectors of the covariance, which is the smaller matrix."""
        n, d = columns.shape
        mean = torch.zeros(d, dtype=torch.float64, device=device)
        for block in columns.rows(device):
            mean += block.sum(0) / n
        covariance = torch.zeros(d, d, dtype=torch.float64, device=device)
        for block in columns.rows(device):
            centred = block - mean
            covariance.addmm_(centred.T, centred)
        values, vectors = _leading(covariance, self.components)
        components = vectors.T.to("cpu", columns.dtype).contiguous()
        variances, total = values.cpu() / (n - 1), covariance.trace().item() / (n - 1)
        return FittedPCA(mean.to("cpu", columns.dtype), _signed(components), variances, total, n)


@dataclass(frozen=True)
class FittedPCA:
    """Mean and components.

    Args:
        mean: Mean network, (D,).
        components: Components, (K, D), orthonormal rows.
        variances: Variance of the codes along each component, (K,), in float64.
        total_variance: Trace of the covariance of the networks.
        networks: Number of networks that it was fitted to.
    """

    mean: Float[Tensor, " d"]
    components: Float[Tensor, "k d"]
    variances: Float[Tensor, " k"]
    total_variance: float
    networks: int

    @property
    def explained_variance_ratio(self) -> Float[Tensor, " k"]:
        """Fraction of the total variance (the trace, not the kept part) along each component, (K,)."""
        return self.variances / self.total_variance

    def transform(self, vectors: Float[Tensor, "n d"] | Collection, *, device: str = "auto") -> Float[Tensor, "n k"]:
        """Codes of networks, (n, K), added up over blocks of columns in float64.

        Args:
            vectors: Networks as rows, (n, D), or a collection.
            device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

        Raises:
            InputError: The networks have another number of parameters, or the device is not available.
        """
        device = devices.pick(device)
        columns = Columns(vectors)
        n, d = columns.shape
        if d != len(self.mean):
            raise InputError(f"vectors must be networks of {len(self.mean)} parameters, got {d}")
        columns.require_finite()
        codes = torch.zeros(n, len(self.components), dtype=torch.float64, device=device)
        for at, block in columns.blocks(device):
            mean, components = self.mean[at].to(device).double(), self.components[:, at].to(device).double()
            codes += (block - mean) @ components.T
        return codes.to("cpu", columns.dtype)

    def inverse_transform(self, codes: Float[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        """Networks of codes, (n, D), on the device of the codes.

        Args:
            codes: Codes, (n, K).

        Raises:
            InputError: The codes have another length, or are not finite.
        """
        checks.tensor(codes, "codes", shape=("networks", len(self.components)), floating=True, finite=True)
        return torch.addmm(self.mean.to(codes.device), codes.to(self.mean.dtype), self.components.to(codes.device))

    def updated(
        self, vectors: Float[Tensor, "m d"] | Collection, components: int | None = None, *, device: str = "auto"
    ) -> "FittedPCA":
        """The components of all networks so far and new ones, without reading the old ones again.

        Exact if the components explain all variance of the old networks, otherwise their unexplained part is
        forgotten, but counts in the total (Ross et al. 2008, section 3.1).

        Args:
            vectors: The new networks as rows, (m, D), or a collection.
            components: Number of components kept; None is as many as before.
            device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

        Raises:
            InputError: The networks have another number of parameters, or are too few for so many components, or the
                device is not available.
        """
        device = devices.pick(device)
        columns = Columns(vectors)
        m, d = columns.shape
        components = checks.given(components, "components", checks.count, at_least=1)
        if d != len(self.mean):
            raise InputError(f"vectors must be networks of {len(self.mean)} parameters, got {d}")
        columns.require_finite()
        n, k = self.networks, len(self.components)
        kept = k if components is None else components
        mean = torch.empty(d, dtype=torch.float64)
        gram = torch.zeros(k + m + 1, k + m + 1, dtype=torch.float64, device=device)
        weight = self.variances.mul(n - 1).sqrt().to(device)

        def rows(at: slice, block: Tensor) -> Tensor:
            """The old components by their spread, the new networks, and the way between the two means."""
            new, old = block.mean(0), self.mean[at].to(device).double()
            between = math.sqrt(n * m / (n + m)) * (new - old)
            mean[at] = (n * old + m * new) / (n + m)
            components = self.components[:, at].to(device).double()
            return torch.cat([weight[:, None] * components, block - new, between[None]])

        for at, block in columns.blocks(device):
            stacked = rows(at, block)
            gram += stacked @ stacked.T
        if kept > min(n + m - 1, d):
            raise InputError(f"{n + m} networks have at most {min(n + m - 1, d)} components, got {kept}")
        values, vectors_ = _leading(gram, kept)
        combine = (vectors_ / values.sqrt()).T
        updated = torch.empty(len(values), d, dtype=columns.dtype)
        for at, block in columns.blocks(device):
            updated[:, at] = (combine @ rows(at, block)).to(columns.dtype)
        forgotten = (self.total_variance - self.variances.sum().item()) * (n - 1)
        total = (gram.trace().item() + forgotten) / (n + m - 1)
        return FittedPCA(mean.to(columns.dtype), _signed(updated), values.cpu() / (n + m - 1), total, n + m)

    def tensors(self) -> dict[str, Tensor]:
        """Mean, components and variances by their names in a file."""
        return {"pca.mean": self.mean, "pca.components": self.components, "pca.variances": self.variances}

    def to_json(self) -> dict[str, Any]:
        """The numbers beside the tensors."""
        return {"total_variance": self.total_variance, "networks": self.networks}

    @classmethod
    def from_json(cls, data: Any, tensors: Mapping[str, Tensor]) -> "FittedPCA":
        """The inverse of `to_json` and `tensors`.

        Args:
            data: What `to_json` returned.
            tensors: Named tensors, those of `tensors` among them.

        Raises:
            StorageError: A number or a tensor is missing or of another type.
        """
        if not isinstance(data, Mapping) or set(data) != set(_PCA):
            raise StorageError(f"the PCA is damaged ({data!r:.200} should have {' and '.join(_PCA)}): restore it")
        parts = [require_tensor(tensors, f"pca.{name}", "the PCA") for name in ("mean", "components", "variances")]
        mean, components, variances = parts
        shapes = [tuple(part.shape) for part in parts]
        if mean.ndim != 1 or components.ndim != 2 or shapes[1] != (len(variances), len(mean)) or variances.ndim != 1:
            raise StorageError(
                f"the PCA is damaged (mean, components and variances have the shapes {shapes}): restore it from a copy"
            )
        return cls(
            mean,
            components,
            variances,
            float(from_json(float, data["total_variance"], "the PCA's total_variance")),
            from_json(int, data["networks"], "the PCA's networks"),
        )

    def save(self, folder: str | Path) -> Path:
        """Write to a new or empty folder, as safetensors and JSON.

        Args:
            folder: Folder to write.

        Raises:
            StorageError: The folder is not empty or cannot be written.
        """
        checks.path(folder, "folder")
        return _FORMAT.save(folder, self.to_json(), self.tensors())

    @classmethod
    def load(cls, folder: str | Path) -> "FittedPCA":
        """Open a saved compression.

        Args:
            folder: Folder that `save` wrote.

        Raises:
            StorageError: The folder holds no compression, or a damaged one.
        """
        checks.path(folder, "folder")
        manifest, tensors = _FORMAT.load(folder)
        return cls.from_json({name: manifest[name] for name in _PCA}, tensors)


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
            f"the networks differ in {rank} directions only, fewer than {count} components: "
            "are some networks copies of each other?"
        )
    return eigenvalues[:count], eigenvectors[:, :count]


def _signed(components: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """Signs are arbitrary; fix them so that the largest entry of each component is positive."""
    for row in components:
        if row[row.abs().argmax()] < 0:
            row.neg_()
    return components
