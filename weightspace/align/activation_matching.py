"""Activation matching: units that respond alike to the same inputs are the same unit."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from weightspace.align.assign import assign
from weightspace.align.family import outer_and_inner
from weightspace.align.weight_matching import FittedMatching, WeightMatching
from weightspace.collection import Collection
from weightspace.errors import InputError
from weightspace.functional import blocks
from weightspace.network import Network
from weightspace.progress import progress
from weightspace.symmetry import Symmetry

_BATCH = 512


@dataclass(frozen=True)
class ActivationMatching:
    """Align networks to one of them by the responses of their units.

    For each group of units the correlations (Pearson, over inputs and positions) between the outputs of
    the layers that produce them are maximised by one assignment (Git Re-Basin, arXiv 2209.04836, section
    3.1, with the correlations of REPAIR, arXiv 2211.08403). Outputs are taken before the activation
    function, behind a norm where there is one.

    Args:
        x: inputs of the training split; a thousand are enough for small networks.
        reference: number of the network that the others are matched to.
        symmetry: written by hand; None traces it on x.
        correlation: normalise responses; else raw products.
    """

    x: Tensor = field(compare=False)
    reference: int = 0
    symmetry: Symmetry | None = None
    correlation: bool = True

    def fit(self, networks: Collection) -> "FittedActivations":
        """Record the reference's responses.

        Raises:
            InputError: the reference is not in the collection, the symmetry cannot be derived, or a
                group's units are the output of no layer.
        """
        if not 0 <= self.reference < len(networks):
            raise InputError(f"the reference network {self.reference} is not among the {len(networks)} networks")
        symmetry = WeightMatching(self.symmetry, example=self.x[:8]).symmetry_of(networks)
        network = networks[self.reference]
        base = FittedMatching(symmetry, False, {"weights": network.weights})
        return FittedActivations(base, self.x, _responses(symmetry, network, self.x), self.correlation)


@dataclass(frozen=True)
class FittedActivations:
    """The reference's responses, to which networks are matched."""

    base: FittedMatching
    x: Tensor
    responses: dict[str, list[Tensor]]
    correlation: bool

    @property
    def symmetry(self) -> Symmetry:
        return self.base.symmetry

    def match(self, network: Network) -> dict[str, Tensor]:
        """Permutations of one network."""
        own = _responses(self.symmetry, network, self.x)
        grams = {
            name: sum(
                (self._gram(a, b) for a, b in zip(theirs, own[name], strict=True)),
                torch.zeros(theirs[0].shape[1], theirs[0].shape[1], dtype=torch.float64),
            )
            for name, theirs in self.responses.items()
        }
        found = self.symmetry.identity()
        for root in (g for g in self.symmetry.groups if g.parent is None):
            if self.symmetry.children(root.name):
                found |= outer_and_inner(self.symmetry, root, grams)
            else:
                found[root.name] = assign(grams[root.name])
        return found

    def _gram(
        self, a: Float[Tensor, "samples units"], b: Float[Tensor, "samples units"]
    ) -> Float[Tensor, "units units"]:
        if self.correlation:
            a, b = (t - t.mean(0) for t in (a, b))
            # A unit that never changes correlates with none.
            a, b = (t / t.norm(dim=0).clamp(min=1e-12) for t in (a, b))
        return a.T @ b

    def transform(self, networks: Collection) -> Collection:
        """The same functions, units reordered to respond as the reference's do.

        Raises:
            LayoutMismatch: the networks are of another layout.
        """
        self.symmetry.layout.require(networks.layout, "the collection to align")
        orders = [self.match(networks[i]) for i in progress(range(len(networks)), "matching activations")]
        return self.base.apply(networks, orders)


def _responses(symmetry: Symmetry, network: Network, x: Tensor) -> dict[str, list[Float[Tensor, "samples units"]]]:
    """For each group the outputs of the layers that produce its units, in float64."""
    module = network.architecture.build_seeded(0).eval()
    layers = dict(module.named_modules())
    wanted: dict[str, list[tuple[str, Tensor]]] = {}
    for group in symmetry.groups:
        sources = [
            (layer, symmetry.places[group.name, a])
            for a in group.incoming
            if (layer := _producer(a.tensor, a.axis, layers))
        ]
        # A weight and its bias name the same layer.
        wanted[group.name] = list({layer: (layer, place) for layer, place in sources}.values())
        if not sources and not symmetry.children(group.name):
            raise InputError(
                f"the units of group {group.name!r} are the output of no layer, so that their activations cannot be "
                "seen: align by weights instead (WeightMatching)"
            )
    recorded: dict[str, list[Tensor]] = {}

    def record(name: str):
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            recorded.setdefault(name, []).append(_samples_first(layers[name], output))

        return hook

    names = {layer for sources in wanted.values() for layer, _ in sources}
    handles = [layers[name].register_forward_hook(record(name)) for name in names]
    state = network.layout.unpack(network.weights) | dict(network.buffers)
    try:
        with torch.no_grad():
            for rows in blocks(len(x), _BATCH):
                functional_call(module, state, (x[rows],))
    finally:
        for handle in handles:
            handle.remove()
    outputs = {name: torch.cat(parts).double() for name, parts in recorded.items()}
    return {
        name: [outputs[layer][:, place.flatten()].reshape(-1, *place.shape).mean(2) for layer, place in sources]
        for name, sources in wanted.items()
        if sources
    }


def _producer(tensor: str, axis: int, layers: dict[str, nn.Module]) -> str | None:
    """The layer whose output's channels are this axis of its weight."""
    name = tensor.rpartition(".")[0]
    layer = layers.get(name)
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return name if axis == 1 else None
    known = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
    return name if axis == 0 and isinstance(layer, known) else None


def _samples_first(layer: nn.Module, output: Tensor) -> Float[Tensor, "samples units"]:
    """A layer's output as (samples and positions, channels)."""
    last = isinstance(layer, nn.Linear | nn.LayerNorm) or output.ndim == 2
    return output.movedim(-1 if last else 1, -1).reshape(-1, output.shape[-1 if last else 1])
