"""The straight path from noise to data (Lipman et al. 2023, arXiv 2210.02747; Liu et al. 2023)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def linear_path(
    x_0: Float[Tensor, "n k"], x_1: Float[Tensor, "n k"], t: Float[Tensor, "n 1"]
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k"]]:
    """Points x_t = (1 - t) x_0 + t x_1 and their velocities dx_t = x_1 - x_0, (n, K) each.

    Args:
        x_0: Noise, (n, K).
        x_1: Codes, (n, K).
        t: Times, (n, 1).
    """
    return (1 - t) * x_0 + t * x_1, x_1 - x_0


def arc(a: Float[Tensor, " k"], b: Float[Tensor, " k"], steps: int) -> Float[Tensor, "steps k"]:
    """Points on the arc between two points of Gaussian noise, which lie near a sphere (spherical interpolation).

    Args:
        a: First point, (K,).
        b: Last point, (K,).
        steps: Number of points, both ends included.
    """
    angle = torch.acos(torch.nn.functional.cosine_similarity(a, b, dim=0).clamp(-1 + 1e-6, 1 - 1e-6))
    t = torch.linspace(0, 1, steps, device=a.device)[:, None]
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


def pair(x_0: Float[Tensor, "n k"], x_1: Float[Tensor, "n k"]) -> Int[Tensor, " n"]:
    """The order of x_1 that makes the total squared distance to x_0 least (minibatch optimal transport), (n,).

    Args:
        x_0: Noise, (n, K).
        x_1: Codes, (n, K).
    """
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(torch.cdist(x_0.double(), x_1.double()).square().numpy())
    return torch.as_tensor(columns)
