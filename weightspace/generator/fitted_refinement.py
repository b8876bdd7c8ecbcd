"""The decoder that refinement trained."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.generator.code_stock import of_length


@dataclass(frozen=True)
class FittedRefinement:
    """A refined decoder.

    Args:
        mean: Mean of the decoded vectors, (M,).
        components: Directions of the decoder, (K, M); no longer orthonormal, nor in the span of the tickets.
        length: Length that all codes are brought to before they are decoded; None leaves them.
    """

    mean: Float[Tensor, " m"]
    components: Float[Tensor, "k m"]
    length: float | None = None

    def decode(self, codes: Float[Tensor, "n k"]) -> Float[Tensor, "n m"]:
        """Vectors (n, M) of codes, on their device, before they are split and their masks are chosen.

        Args:
            codes: Codes of the flow, (n, K).
        """
        mean, components = self.mean.to(codes.device), self.components.to(codes.device)
        return torch.addmm(mean, of_length(codes, self.length).to(mean.dtype), components)

    def tensors(self) -> dict[str, Tensor]:
        """What was trained, by its names in a file."""
        return {"refined.mean": self.mean, "refined.components": self.components}
