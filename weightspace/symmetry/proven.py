"""What has been proven in this process, so that nothing is proven twice.

A proof is remembered for a function, not for a module: for what the module computed on the example with the random
weights of the proof, in both modes, bit by bit. A module that has been changed computes something else there.
"""

from collections import OrderedDict

from weightspace.symmetry.probe import Probe
from weightspace.symmetry.spec import Symmetry

_KEPT = 64
_PROVEN: OrderedDict[tuple[str, Symmetry], bool] = OrderedDict()
_TRACED: OrderedDict[str, Symmetry] = OrderedDict()


def known(probe: Probe, symmetry: Symmetry, controls: bool) -> bool:
    """Whether this was proven for the same function on the same example.

    Args:
        probe: Probe of the module.
        symmetry: The table.
        controls: Whether with the negative control.
    """
    with_controls = _PROVEN.get((probe.function, symmetry))
    return with_controls is not None and with_controls >= controls


def remember(probe: Probe, symmetry: Symmetry, controls: bool) -> None:
    """Remember a proof.

    Args:
        probe: Probe of the module.
        symmetry: The table that was proven on it.
        controls: Whether with the negative control.
    """
    _PROVEN[probe.function, symmetry] = controls
    if len(_PROVEN) > _KEPT:
        _PROVEN.popitem(last=False)


def traced(probe: Probe) -> Symmetry | None:
    """What tracing led to for the same function on the same example, if it was complete.

    Args:
        probe: Probe of the module.
    """
    return _TRACED.get(probe.function)


def remember_traced(probe: Probe, symmetry: Symmetry) -> None:
    """Remember a symmetry that was traced and proven without a warning.

    Args:
        probe: Probe of the module.
        symmetry: Its symmetry.
    """
    _TRACED[probe.function] = symmetry
    if len(_TRACED) > _KEPT:
        _TRACED.popitem(last=False)
