"""Network: one network of a collection."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from weightspace.networks.architecture import Architecture
from weightspace.networks.layout import Layout
from weightspace.networks.record import Record
from weightspace.networks.sparse_module import keep_sparse


@dataclass(frozen=True)
class Network:
    """One network of a collection.

    Args:
        weights: (D,), zero where the mask is False.
        mask: (D,), True where a weight is kept.
        buffers: (*shape) by name.
    """

    layout: Layout
    architecture: Architecture
    weights: Float[Tensor, " d"]
    mask: Bool[Tensor, " d"]
    buffers: Mapping[str, Tensor]
    record: Record

    @property
    def density(self) -> float:
        """Fraction of all prunable weights that the mask keeps; 1 where none is prunable."""
        if not self.layout.num_prunable:
            return 1.0
        return int(self.mask[self.layout.prunable].sum()) / self.layout.num_prunable

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, as `nn.Module.load_state_dict` takes them; copies."""
        return {name: t.clone() for name, t in (self.layout.unpack(self.weights) | dict(self.buffers)).items()}

    def module(self) -> nn.Module:
        """A plain nn.Module with these weights.

        A sparse network's module carries its masks (`weight_mask` beside `weight`, outside the state dict) and keeps
        pruned weights at zero, whatever is done with it: after every step of a `torch.optim` optimiser, and after any
        other edit from the next forward pass or `state_dict()` on.
        """
        module = self.architecture.build_seeded(0)
        self.layout.require_tensors(Layout.of(module), f"the network built by {self.architecture.name}")
        module.load_state_dict(self.state_dict())
        masks = self.layout.unpack(self.mask)
        pruned = {e.name: masks[e.name] for e in self.layout.parameters if not masks[e.name].all()}
        return keep_sparse(module, pruned)
