"""Activation matching: units that respond alike to the same inputs are the same unit."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.align.assign import assign
from weightspace.align.costs import WEIGHTS
from weightspace.align.fitted_matching import FittedMatching
from weightspace.align.nested_groups import outer_and_inner
from weightspace.align.population import require_member
from weightspace.align.signs import compose_signs, signed_assignment
from weightspace.align.weight_matching import WeightMatching
from weightspace.errors import InputError
from weightspace.networks.arguments import check_inputs, check_networks
from weightspace.networks.calling import call_with
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks
from weightspace.networks.network import Network
from weightspace.runtime import checks, devices, trees
from weightspace.runtime.progress import progress
from weightspace.runtime.trees import Tree
from weightspace.symmetry import Symmetry
from weightspace.symmetry.gated import is_gated

_BATCH = 128
_FEWEST = 16  # correlations over fewer inputs say nothing


@dataclass(frozen=True)
class ActivationMatching:
    """Align networks to one of them by the responses of their units.

    For each group of units the correlations (Pearson, over inputs and positions) between the outputs of the layers that
    produce them are maximised by one assignment (Git Re-Basin, Ainsworth et al. 2023, arXiv 2209.04836, section 3.1,
    with the correlations of REPAIR, Jordan et al. 2023, arXiv 2211.08403). Outputs are taken before the activation
    function, behind a norm where there is one.

    Args:
        reference: Number of the network that the others are matched to.
        symmetry: Permutation symmetry written by hand; None traces it on the inputs.
        correlation: Whether responses are normalised; else raw products are compared.
        fix_unknown: Whether units that meet an operator which cannot be traced stay in place instead of an error.
    """

    reference: int = 0
    symmetry: Symmetry | None = None
    correlation: bool = True
    fix_unknown: bool = False

    def __post_init__(self) -> None:
        checks.settle(self, checks.count, "reference")
        wanted = "a Symmetry, or None to trace it"
        checks.settle_given(self, checks.instance, "symmetry", kinds=Symmetry, wanted=wanted)
        checks.settle(self, checks.flag, "correlation", "fix_unknown")

    def fit(self, networks: Collection, x: Tree) -> "FittedActivations":
        """Choose the reference, and the inputs on which responses are compared.

        Args:
            networks: The networks, the reference among them.
            x: Inputs of the training split, a tensor, a tuple of all inputs, or a mapping of them by name; a thousand
                are enough for small networks.

        Raises:
            InputError: There are fewer than 16 inputs, the reference is not in the collection, the symmetry cannot be
                derived, or a group's units are the output of no layer.
        """
        check_networks(networks)
        check_inputs(x)
        if (count := trees.samples(x)) < _FEWEST:
            raise InputError(f"activation matching needs at least {_FEWEST} inputs, got {count}")
        require_member(self.reference, len(networks))
        matching = WeightMatching(self.symmetry, fix_unknown=self.fix_unknown)
        symmetry = matching.symmetry_of(networks, trees.take(x, slice(8)))
        network = networks[self.reference]
        _Observer(symmetry, network)  # refuses units that cannot be seen before work starts
        return FittedActivations(FittedMatching(symmetry, False, {WEIGHTS: network.weights}), self, network, x)


@dataclass(frozen=True)
class FittedActivations:
    """The network whose responses others are matched to.

    Args:
        base: The symmetry, and the reference's weights.
        config: Settings of the matching.
        network: The reference.
        x: Inputs on which responses are compared.
    """

    base: FittedMatching
    config: ActivationMatching
    network: Network
    x: Tree = field(repr=False)

    @property
    def symmetry(self) -> Symmetry:
        """The permutation symmetry of the networks."""
        return self.base.symmetry

    def match(self, network: Network, *, device: str = "auto") -> dict[str, Tensor]:
        """Permutations of one network, for each group, as in `Symmetry.permute`.

        Args:
            network: A network of the reference's layout.
            device: Device to compute responses on: "cpu", "cuda", or "auto", which is CUDA where there is a card.
        """
        return self._match(network, device)[0]

    def _match(self, network: Network, device: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Permutations of all groups, and signs of odd ones: a unit that responds as another's negative is flipped."""
        device = devices.pick(device)
        totals: dict[tuple[str, int], _Moments] = defaultdict(_Moments)
        reference, other = (_Observer(self.symmetry, one, device) for one in (self.network, network))
        for rows in blocks(trees.samples(self.x), _BATCH):
            x = trees.to(trees.take(self.x, rows), device)
            responses, others = reference.responses(x), other.responses(x)
            for name, layers in responses.items():
                for k, (a, b) in enumerate(zip(layers, others[name], strict=True)):
                    totals[name, k].add(a, b)
        grams: dict[str, Tensor] = {}
        still: dict[str, Tensor] = {}  # of gates, on which the signs of odd units do not show
        for (name, k), moments in totals.items():
            gram = moments.gram(self.config.correlation)
            hidden = self.symmetry.by_name[name].odd and not reference.sources[name][k][2]
            kind = still if hidden else grams
            kind[name] = kind[name] + gram if name in kind else gram
        permutations, signs = self.symmetry.identity(), {}
        for root in (g for g in self.symmetry.groups if g.parent is None):
            if self.symmetry.children(root.name):
                permutations |= outer_and_inner(self.symmetry, root, grams)
            elif root.odd:
                gram = grams[root.name].cpu()
                gates = still[root.name].cpu() if root.name in still else torch.zeros_like(gram)
                best, sign, _ = signed_assignment(gates, gram)
                permutations[root.name] = best
                compose_signs(signs, permutations, {root.name: sign})
            else:
                permutations[root.name] = assign(grams[root.name])
        return permutations, signs

    def transform(self, networks: Collection, *, device: str = "auto") -> Collection:
        """The same functions, units reordered (and odd ones flipped) to respond as the reference's do.

        Args:
            networks: Networks of the reference's layout, those of the fit or others.
            device: Device to compute responses on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

        Raises:
            LayoutMismatch: The networks are of another layout.
            InputError: The device is not available.
        """
        self.symmetry.layout.require_tensors(networks.layout, "the collection to align")
        device = devices.pick(device)
        matches = [self._match(networks[i], device) for i in progress(range(len(networks)), "matching activations")]
        return self.base.apply(networks, [order for order, _ in matches], signs=[signs for _, signs in matches])


class _Moments:
    """Sums over samples of two networks' responses, from which their correlations follow."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: list[Tensor | float] = [0.0] * 5

    def add(self, a: Float[Tensor, "samples units"], b: Float[Tensor, "samples units"]) -> None:
        self.count += len(a)
        terms = (a.sum(0), b.sum(0), a.square().sum(0), b.square().sum(0), a.T @ b)
        self.sums = [total + term for total, term in zip(self.sums, terms, strict=True)]

    def gram(self, correlation: bool) -> Float[Tensor, "units units"]:
        a, b, aa, bb, ab = (torch.as_tensor(s) for s in self.sums)
        if not correlation:
            return ab
        covariance = ab - torch.outer(a, b) / self.count
        spreads = [(square - total.square() / self.count) for square, total in ((aa, a), (bb, b))]
        # A unit that never changes, but for rounding, correlates with none.
        scales = [
            torch.where(s > 1e-12 * square, s, torch.inf).rsqrt() for s, square in zip(spreads, (aa, bb), strict=True)
        ]
        return scales[0][:, None] * covariance * scales[1]


class _Observer:
    """A network whose layers' outputs are recorded.

    Args:
        symmetry: Symmetry of the network.
        network: The network.
        device: Device to compute on.

    Raises:
        InputError: A group's units are the output of no layer.
    """

    def __init__(self, symmetry: Symmetry, network: Network, device: str = "cpu") -> None:
        self.module = network.architecture.build_seeded(0).to(device).eval()
        buffers = {name: buffer.to(device) for name, buffer in network.buffers.items()}
        self.state = network.layout.unpack(network.weights.to(device)) | buffers
        self.layers = dict(self.module.named_modules())
        # For each group the layers that produce its units, where among their outputs, and whether signs show there.
        self.sources: dict[str, list[tuple[str, Tensor, bool]]] = {}
        for group in symmetry.groups:
            gates = group.following if is_gated(symmetry, group) else ()
            layers: dict[tuple[str, bool], Tensor] = {}  # a weight and its bias name the same layer
            for axis in (*group.incoming, *gates):
                if layer := _producer(axis.tensor, axis.axis, self.layers):
                    place = symmetry.places[group.name, axis].to(device)
                    layers[layer, group.odd and axis in group.incoming] = place
            if layers:
                self.sources[group.name] = [(layer, place, flips) for (layer, flips), place in layers.items()]
            elif not symmetry.children(group.name):
                raise InputError(
                    f"the units of group {group.name!r} are the output of no layer, so that their activations cannot "
                    "be seen: align by weights instead (WeightMatching)"
                )

    def responses(self, x: Tree) -> dict[str, list[Float[Tensor, "samples units"]]]:
        """For each group the outputs of the layers that produce its units on a batch, in float64."""
        outputs: dict[str, Tensor] = {}

        def record(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
                outputs[name] = _samples_first(self.layers[name], output).double()  # copied: ReLU may work in place

            return hook

        names = {layer for layers in self.sources.values() for layer, _, _ in layers}
        handles = [self.layers[name].register_forward_hook(record(name)) for name in names]
        try:
            with torch.no_grad():
                call_with(self.module, self.state, x)
        finally:
            for handle in handles:
                handle.remove()
        return {
            group: [outputs[layer][:, place.flatten()].reshape(-1, *place.shape).mean(2) for layer, place, _ in layers]
            for group, layers in self.sources.items()
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
    if isinstance(layer, nn.LayerNorm):
        dim = output.ndim - len(layer.normalized_shape)
    else:
        dim = output.ndim - 1 if isinstance(layer, nn.Linear) or output.ndim == 2 else 1
    return output.movedim(dim, -1).reshape(-1, output.shape[dim]).clone()
