"""Checks that searches and training of posteriors share."""

from weightspace.errors import InputError
from weightspace.networks.collection import Collection


def require_seeds(networks: Collection) -> None:
    """Check that every network has a seed.

    Args:
        networks: Networks with records.

    Raises:
        InputError: A record has no seed.
    """
    missing = [i for i, record in enumerate(networks.records) if record.get("seed") is None]
    if missing:
        raise InputError(
            f"network {missing[0]} has no seed in its record, so what it draws is not defined: give records a seed, "
            'for example collection.replace(records=[{**r, "seed": i} ...])'
        )


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
