"""Temperatures of ensembles of samples: fitted on validation data, kept with a generator, found for a pattern."""

from collections.abc import Sequence

from weightspace.errors import InputError
from weightspace.generator.conditions import density_for_generators
from weightspace.generator.measured import Temperature
from weightspace.masks.patterns import Pattern
from weightspace.networks.ensemble import Ensemble
from weightspace.networks.temperature import at_temperature, fit_temperature, has_temperature, nll_and_ece
from weightspace.storage.spelling import spelled_text
from weightspace.tasks.data import Data
from weightspace.tasks.own_loop import LoopTask
from weightspace.tasks.task import Task

NETWORKS = 32
_MOST = 20_000  # validation samples
_NEAR = 0.02  # densities that differ by no more, relative to the larger, have one temperature


def takes_temperature(task: Task) -> bool:
    """Whether ensembles of a task's networks have a temperature: it has samples that all share, and probabilities."""
    return not isinstance(task, LoopTask) and not task.own_data and has_temperature(task.output_kind)


def temperature_of(ensemble: Ensemble, validation: Data, pattern: Pattern) -> Temperature:
    """The temperature of an ensemble, with what it changes on the data that it was fitted to.

    Args:
        ensemble: Samples that predict together.
        validation: Validation data; at most the first 20,000 samples are read.
        pattern: Pattern of the samples.
    """
    split = validation.head(min(len(validation), _MOST))
    kind = ensemble.outputs
    p, y = ensemble.predict_proba(split.x), kind.targets(split.y)
    fitted = fit_temperature(p, y, kind)
    before, after = nll_and_ece(p, y, kind), nll_and_ece(at_temperature(p, fitted, kind), y, kind)
    density = density_for_generators(pattern)
    return Temperature(spelled_text(pattern), density, len(ensemble), fitted, before[0], after[0], before[1], after[1])


def temperature_for(pattern: Pattern, temperatures: Sequence[Temperature]) -> float:
    """The temperature that was fitted for samples under a pattern, or under one of nearly the same density.

    Args:
        pattern: Pattern of the samples.
        temperatures: Temperatures of the generator.

    Raises:
        InputError: There is none.
    """
    text, density = spelled_text(pattern), density_for_generators(pattern)
    for one in temperatures:
        if one.pattern == text:
            return one.temperature
    for one in temperatures:
        if density and one.density and abs(density - one.density) <= _NEAR * max(density, one.density):
            return one.temperature
    known = ", ".join(one.pattern for one in temperatures)
    raise InputError(
        f"no temperature was fitted for samples under {text}{f', only under {known}' if known else ''}: fit one with "
        "generator = generator.calibrate(task, density=...), or fit the generator with task="
    )


def with_temperature(temperatures: Sequence[Temperature], one: Temperature) -> tuple[Temperature, ...]:
    """These temperatures with one more, which replaces that of its pattern.

    Args:
        temperatures: Temperatures of the generator.
        one: The new one.
    """
    return (*(other for other in temperatures if other.pattern != one.pattern), one)
