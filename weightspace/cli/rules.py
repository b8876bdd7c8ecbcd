"""How Python's own types are written on the command line, and a wrong setting that is refused by its option's name.

The rules of the library's types are in `weightspace.cli.types`.
"""

import contextlib
import dataclasses
import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Union, get_args

from tyro.conf import Suppress
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructTypeInfo,
    UnsupportedTypeAnnotationError,
)

from weightspace.errors import InputError

REGISTRY = ConstructorRegistry()
"""The rules, for `with REGISTRY: tyro.cli(...)`."""

_NUMBERS: Mapping[type, str] = {int: "a whole number such as 20", float: "a number such as 0.1"}


class WrongSettingError(Exception):
    """Settings that go together were refused.

    Args:
        message: What was said.
        values: The settings by name.
    """

    def __init__(self, message: str, values: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.values = values

    def said_of(self, words: Sequence[str]) -> str:
        """The message, with the option that was typed in the place of the setting's name.

        Args:
            words: The command line.
        """
        message = str(self)
        name, _, rest = message.partition(" ")
        value = self.values.get(name)
        typed = [
            (option, given or (words[i + 1] if i + 1 < len(words) else ""))
            for i, (option, _, given) in enumerate(word.partition("=") for word in words)
            if option.startswith("--") and option.rpartition(".")[2].lstrip("-").replace("-", "_") == name
        ]
        if not typed:
            return message
        # Two groups may have a setting of the same name.
        option = next((option for option, given in typed if _reads_as(given, value)), typed[-1][0])
        return f"{option} {rest}"


def _reads_as(text: str, value: object) -> bool:
    """Whether a word is a value."""
    try:
        return text == str(value) or float(text) == value
    except ValueError:
        return False


def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """A number."""
    if info.type not in _NUMBERS:
        return None
    kind: Callable[[str], Any] = info.type

    def read(words: list[str]) -> Any:
        try:
            return kind(words[0])
        except ValueError as error:
            raise InputError(f"expected {_NUMBERS[info.type]}, got {words[0]!r}") from error

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=info.type.__name__.upper(),
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, int | info.type) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


def _several(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Any number of words, each a value."""
    inner = get_args(info.type)
    kind = {tuple: tuple, Sequence: list}.get(info.type_origin)
    if kind is None or inner[1:] != (() if kind is list else (Ellipsis,)):
        return None
    one = _of(inner[0], info)
    if one is None or one.nargs != 1:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"[{one.metavar} ...]",
        instance_from_str=lambda words: kind(one.instance_from_str([word]) for word in words),
        is_instance=lambda value: isinstance(value, kind) and all(map(one.is_instance, value)),
        str_from_instance=lambda value: [word for each in value for word in one.str_from_instance(each)] or ["none"],
        choices=one.choices,
    )


def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """A value or None, whose help is that of the value: what None means is in its text."""
    inner = [kind for kind in get_args(info.type) if kind is not type(None)]
    if info.type_origin not in (Union, types.UnionType) or len(inner) != 1:
        return None
    one = _of(inner[0], info)
    if one is None:
        return None
    return PrimitiveConstructorSpec(
        nargs=one.nargs,
        metavar=one.metavar,
        instance_from_str=lambda words: None if words == ["None"] else one.instance_from_str(words),
        is_instance=lambda value: value is None or one.is_instance(value),
        str_from_instance=lambda value: ["None"] if value is None else one.str_from_instance(value),
        choices=None if one.choices is None else (*one.choices, "None"),
    )


def _of(kind: Any, info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """The rule of the type inside another."""
    found = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
    return None if isinstance(found, UnsupportedTypeAnnotationError) else found


def _settings(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Settings of a dataclass, as tyro reads them; what refuses them says so by the option that was typed."""
    if not dataclasses.is_dataclass(info.type) or info.type in _RUNNING:
        return None
    _RUNNING.append(info.type)
    try:
        found = ConstructorRegistry.get_struct_spec(info)
    finally:
        _RUNNING.remove(info.type)
    if not isinstance(found, StructConstructorSpec):
        return None
    make = found.instantiate

    @functools.wraps(make, updated=())
    def checked(**values: Any) -> Any:
        try:
            return make(**values)
        except InputError as error:
            raise WrongSettingError(str(error), values) from error

    return StructConstructorSpec(
        checked,
        tuple(
            dataclasses.replace(one, type=Suppress[one.type]) if type(one.default) in _HIDDEN else one
            for one in found.fields
        ),
    )


_RUNNING: list[Any] = []  # types whose own rule of tyro is being asked for
_HIDDEN: list[type] = []


@contextlib.contextmanager
def without(*kinds: type) -> Iterator[None]:
    """Leave settings out of help that is printed inside; such a command line cannot set them.

    Args:
        kinds: Their dataclasses.
    """
    _HIDDEN.extend(kinds)
    try:
        yield
    finally:
        del _HIDDEN[len(_HIDDEN) - len(kinds) :]


for _rule in (_number, _several, _optional):
    REGISTRY.primitive_rule(_rule)
REGISTRY.struct_rule(_settings)
