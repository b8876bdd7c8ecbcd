"""A check that all searches of Bayesian tickets make."""

from weightspace.errors import InputError


def require_cpu(device: str) -> None:
    """Check that a device is one that Bayesian networks can be computed on.

    Args:
        device: Name of a device; "auto" is the CPU.

    Raises:
        InputError: The device is neither "auto" nor "cpu".
    """
    if device not in ("auto", "cpu"):
        raise InputError(
            f"posteriors and gates are computed on the CPU only, got device {device!r}: give device='cpu' or 'auto'"
        )
