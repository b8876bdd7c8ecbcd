"""How the types of settings are written on the command line: one rule for each type that is more than a word or
number.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo

from weightspace.align import (
    COSTS,
    Cost,
    GrowingMean,
    MergeMany,
    PopulationScheme,
    Star,
    Universe,
)
from weightspace.cli.rules import REGISTRY
from weightspace.errors import InputError
from weightspace.generator import GateMask, MagnitudeMask, SharedMask
from weightspace.generator.mask_rules import MaskRule
from weightspace.masks.patterns import NM, PATTERNS, Pattern, Unstructured
from weightspace.masks.selected import Except, Only
from weightspace.recipes.step import Step
from weightspace.storage.spelling import spelled_text
from weightspace.storage.typed import Registry
from weightspace.storage.yaml_text import parse_yaml
from weightspace.tickets import SNIP, GraSP, InitScore, MagnitudeScore, RandomScore, SynFlow
from weightspace.training.last_layer import LastLayer

POPULATIONS: Mapping[str, Callable[..., PopulationScheme]] = {
    "growing-mean": GrowingMean, "star": Star, "merge-many": MergeMany, "universe": Universe,
}  # fmt: skip
SCORES: Mapping[str, Callable[[], InitScore]] = {
    "snip": SNIP, "grasp": GraSP, "synflow": SynFlow, "magnitude": MagnitudeScore, "random": RandomScore,
}  # fmt: skip
MASK_RULES: Mapping[str, Callable[[], MaskRule]] = {
    "magnitude": MagnitudeMask, "shared": SharedMask, "gates": GateMask,
}  # fmt: skip

LAST_LAYER = "last-layer"
_SELECTIONS: Mapping[str, Callable[..., Pattern]] = {"only": Only, "except": Except}


def read_pattern(text: str) -> Pattern:
    """Read a pattern: a density such as 0.1, N:M such as 2:4, or NAME:VALUE of a registered pattern such as erk:0.1.

    Each may be followed by a selection of tensors, with names or globs between spaces: "0.3 only encoder.*" or
    "2:4 except embed* head.*".

    Raises:
        InputError: The text is in another notation, or a number is out of range.
    """
    words = text.split()
    at = max((i for i, word in enumerate(words) if word in _SELECTIONS), default=None)
    if at is not None and words[:at] and words[at + 1 :]:
        return _SELECTIONS[words[at]](read_pattern(" ".join(words[:at])), *words[at + 1 :])
    if len(words) > 1:
        raise InputError(f'a selection is written like "0.3 only a.*" or "2:4 except a.* b*", got {text!r}')
    try:
        return Unstructured(float(text))
    except InputError as error:
        raise InputError(f"{error}; an N:M pattern is written like 2:4") from error
    except ValueError:
        pass
    if text[:1].isdigit():
        return NM.of(text)
    return _registered(
        PATTERNS,
        text,
        "a pattern is a density such as 0.1, written like 2:4, or NAME:VALUE such as erk:0.1, and perhaps a selection "
        'such as "0.1 only encoder.*"',
    )


def read_cost(text: str) -> Cost:
    """Read a cost of alignment: weights, weights:parent, weights:weights+parent, wasserstein or precision.

    Raises:
        InputError: No cost is registered under the name.
    """
    return _registered(COSTS, text, "a cost is written like weights, weights:parent or wasserstein")


def read_population(text: str) -> PopulationScheme:
    """Read a population scheme: growing-mean, star, star:NETWORK, merge-many or universe.

    Raises:
        InputError: There is no such scheme.
    """
    name, colon, network = text.partition(":")
    if colon and name == "star" and network.isascii() and network.isdigit():
        return Star(int(network))
    return _of_table(POPULATIONS, text, "population scheme")


def population_name(population: PopulationScheme) -> str:
    """The name of a population scheme on the command line."""
    return _name(POPULATIONS, population)


def _registered(registry: Registry[Any], text: str, notation: str) -> Any:
    """NAME, NAME:VALUE or NAME:VALUE,FIELD=VALUE of a registered dataclass; the first value is that of its first
    field.
    """
    name, _, rest = text.partition(":")
    kinds = {key.lower(): kind for key, kind in registry.kinds.items()}
    if name.lower() not in kinds:
        raise InputError(f"{notation}; got {text!r} (names: {', '.join(sorted(kinds))})")
    kind = kinds[name.lower()]
    parameters = inspect.signature(kind).parameters
    settings: dict[str, Any] = {}
    for word in filter(None, rest.split(",")):
        field, equals, value = word.partition("=")
        if not equals:
            field, value = next(iter(parameters)), word
        many = field in parameters and isinstance(parameters[field].default, tuple)
        settings[field] = tuple(value.split("+")) if many else parse_yaml(value, f"{field} in {text!r}")
    try:
        return kind(**settings)
    except (TypeError, AttributeError) as error:
        raise InputError(f"{notation}; got {text!r}: {error}") from error


def _of_table(table: Mapping[str, Callable[..., Any]], text: str, what: str) -> Any:
    if text not in table:
        raise InputError(f"no {what} is called {text!r}: there are {', '.join(table)}")
    return table[text]()


def _name(table: Mapping[str, Callable[..., Any]], value: object) -> str:
    return next((name for name, kind in table.items() if type(value) is kind), spelled_text(value))


def _rule(
    kind: Any,
    metavar: str,
    read: Callable[[str], Any],
    write: Callable[[Any], str],
    choices: tuple[str, ...] | None = None,
) -> None:
    """One word on the command line is a value of the type."""

    @REGISTRY.primitive_rule
    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        if info.type is not kind:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=metavar,
            instance_from_str=lambda words: read(words[0]),
            is_instance=lambda value: isinstance(value, kind),
            str_from_instance=lambda value: [write(value)],
            choices=choices,
        )


def pattern_text(pattern: Pattern) -> str:
    """A pattern as `read_pattern` reads it, if it has such a notation, else as its text."""
    if isinstance(pattern, Only | Except):
        word = next(word for word, kind in _SELECTIONS.items() if kind is type(pattern))
        return " ".join([pattern_text(pattern.pattern), word, *pattern.names])
    if isinstance(pattern, NM):
        return f"{pattern.n}:{pattern.m}"
    if isinstance(pattern, Unstructured) and pattern.scope == "global":
        return str(pattern.density)
    values = {name: getattr(pattern, name, None) for name in inspect.signature(type(pattern)).parameters}
    plain = values and all(isinstance(value, str | int | float) for value in values.values())
    if not plain or type(pattern) not in PATTERNS.kinds.values():
        return spelled_text(pattern)
    first, *others = values.items()
    words = [str(first[1]), *(f"{name}={value}" for name, value in others)]
    return f"{PATTERNS.name_of(pattern).lower()}:{','.join(words)}"


def read_polish(text: str) -> Step | LastLayer | None:
    """Read how samples are polished: a length such as 30it, last-layer, or None.

    Raises:
        InputError: It is none of these.
    """
    if text == "None":
        return None
    if text == LAST_LAYER:
        return LastLayer()
    try:
        return Step.of(text)
    except InputError as error:
        raise InputError(f"{error}; or polish with {LAST_LAYER}, which refits the last layers") from error


Polish = Annotated[
    Step | LastLayer | None,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{LAST_LAYER}|STEP",
        instance_from_str=lambda words: read_polish(words[0]),
        is_instance=lambda value: value is None or isinstance(value, Step | LastLayer),
        str_from_instance=lambda value: [LAST_LAYER if isinstance(value, LastLayer) else str(value)],
    ),
]
"""How samples are polished."""

_rule(Step, "STEP", Step.of, str)
_rule(Pattern, "0.1|2:4|NAME:VALUE", read_pattern, pattern_text)
_rule(Cost, "weights|NAME:VALUE", read_cost, lambda cost: spelled_text(cost).partition("(")[0].lower())
_rule(PopulationScheme, "{growing-mean,star,merge-many,universe}", read_population, population_name)
_rule(
    InitScore,
    f"{{{','.join(SCORES)}}}",
    lambda text: _of_table(SCORES, text, "score"),
    lambda score: _name(SCORES, score),
    tuple(SCORES),
)
_rule(
    MaskRule,
    f"{{{','.join(MASK_RULES)}}}",
    lambda text: _of_table(MASK_RULES, text, "mask rule"),
    lambda rule: _name(MASK_RULES, rule),
    tuple(MASK_RULES),
)
