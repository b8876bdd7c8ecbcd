"""What pruning leaves out, said where it starts."""

import warnings

from weightspace.errors import InputError
from weightspace.networks.layout import Layout
from weightspace.runtime import checks

_MORE = "Architecture.of(factory, prunable=[...]) names others"


def require_prunable(layout: Layout) -> None:
    """Check that a network can be pruned, and warn of every tensor of two or more axes that stays as it is.

    Args:
        layout: Layout of the networks that are to be pruned.

    Raises:
        InputError: No weight is prunable.
    """
    checks.instance(layout, "layout", Layout, "a Layout, such as that of a collection, networks.layout")
    names = ", ".join(entry.name for entry in layout.left_out)
    if not layout.num_prunable:
        raise InputError(
            "none of the network's parameters can be pruned: they are biases, norm parameters and tensors that belong "
            f"to no linear, convolution, embedding or recurrent layer ({names or 'none of two axes'}); {_MORE}"
        )
    if layout.left_out:
        shares = ", ".join(f"{entry.name} ({entry.size / layout.size:.1%})" for entry in layout.left_out)
        share = sum(entry.size for entry in layout.left_out) / layout.size
        warnings.warn(
            f"{share:.1%} of the parameters are in tensors that are not pruned, and that a density does not count: "
            f"{shares}. {_MORE}",
            stacklevel=3,
        )
