"""What has been proven in this process, so that nothing is proven twice.

A proof is remembered for a function, not for a module: for what the module computed on the example, and on other
inputs, with the random weights of the proof, in both modes, bit by bit. A module that has been changed computes
something else there.
"""

from collections import OrderedDict

from weightspace.symmetry.probe import Probe
from weightspace.symmetry.spec import Symmetry

_KEPT = 64
_PROVEN: OrderedDict[tuple[str, str, Symmetry], bool] = OrderedDict()


def known(probe: Probe, varied: Probe, symmetry: Symmetry, controls: bool) -> bool:
    """Whether this was proven for the same function on the same example.

    Args:
        probe: Probe of the module.
        varied: The same on other inputs.
        symmetry: The table.
        controls: Whether with the negative control.
    """
    with_controls = _PROVEN.get((probe.function, varied.function, symmetry))
    return with_controls is not None and with_controls >= controls


def remember(probe: Probe, varied: Probe, symmetry: Symmetry, controls: bool) -> None:
    """Remember a proof.

    Args:
        probe: Probe of the module.
        varied: The same on other inputs.
        symmetry: The table that was proven on it.
        controls: Whether with the negative control.
    """
    _PROVEN[probe.function, varied.function, symmetry] = controls
    if len(_PROVEN) > _KEPT:
        _PROVEN.popitem(last=False)
