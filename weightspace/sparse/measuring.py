"""How long calls take and how exact they are, measured here."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn

from weightspace.networks import calling
from weightspace.runtime import trees
from weightspace.runtime.copies import copied
from weightspace.runtime.double import doubled, in_double
from weightspace.runtime.outputs import difference
from weightspace.runtime.trees import Tree

Name = TypeVar("Name", bound=str)

_REPEATS, _SECONDS = 7, 0.02


def versions() -> dict[str, str]:
    """Versions and devices that decide the speed: of torch, and on a card of cuSPARSELt; the number of threads."""
    result = {"torch": torch.__version__, "threads": str(torch.get_num_threads())}
    if torch.cuda.is_available():
        result |= {"device": torch.cuda.get_device_name(), "cuSPARSELt": str(torch.backends.cusparselt.version())}
    return result


def medians(turns: Mapping[Name, Sequence[float]]) -> dict[Name, float]:
    """Median seconds of what `call_seconds` measured."""
    return {name: statistics.median(seconds) for name, seconds in turns.items()}


def call_seconds(work: Mapping[Name, Callable[[], object]], *, cuda: bool = False) -> dict[Name, list[float]]:
    """Seconds of one call of each, turn by turn; a turn is as many calls as take a few hundredths of a second.

    Args:
        work: Calls to time, by name.
        cuda: Whether they run on a card, whose own clock is read.
    """
    calls: dict[Name, int] = {}
    for name, call in work.items():
        call()
        calls[name] = max(1, min(1000, round(_SECONDS / max(_once(call, 1, cuda), 1e-7))))
    times: dict[Name, list[float]] = {name: [] for name in work}
    for _ in range(_REPEATS):
        for name, call in work.items():
            times[name].append(_once(call, calls[name], cuda))
    return times


def _once(call: Callable[[], object], count: int, cuda: bool) -> float:
    if cuda:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            call()
        stop.record()
        torch.cuda.synchronize()
        return start.elapsed_time(stop) / 1000 / count
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count


def relative_error(module: Callable[[Tree], Tree], reference: nn.Module, x: Tree) -> float:
    """Largest error against the reference in float64, over its largest output (of each tensor, if there are several).

    Args:
        module: What is checked; it is called with the inputs as they are.
        reference: Module that computes the same exactly; a copy of it runs in float64.
        x: Inputs: a tensor, a tuple of all inputs, or a mapping of them by name.
    """
    exact = copied(reference).double().cpu().eval()
    with torch.no_grad(), in_double():
        expected = calling.call(exact, doubled(trees.to(x, "cpu")))
    with torch.no_grad():
        return difference(module(x), expected)
