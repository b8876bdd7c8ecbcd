"""Dataclasses to JSON and back, with every value checked: what a file says is either of the right type or an error."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, get_args, get_origin

import cattrs
from cattrs.errors import BaseValidationError, StructureHandlerNotFoundError

from weightspace.errors import InputError, StorageError

T = TypeVar("T")
Class = TypeVar("Class", bound=type[Any])

_converter = cattrs.Converter(forbid_extra_keys=True)


def _exactly(*kinds: type) -> Callable[[Any, Any], Any]:
    def check(value: Any, kind: Any) -> Any:
        if type(value) not in kinds:
            raise TypeError(f"{value!r:.80} is no {kind.__name__}")
        return value  # an int stays one where a float is meant: what is written again has the same bytes

    return check


def _number(value: Any, kind: Any) -> Any:
    value = _exactly(int, float)(value, kind)
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an integer that is no float
        finite = False
    if not finite:
        raise ValueError(f"{value!r:.40} is no finite number")
    return value


for _kind in (bool, int, str):
    _converter.register_structure_hook(_kind, _exactly(_kind))
_converter.register_structure_hook(float, _number)


def _sequence(kind: Any) -> Callable[[Any, Any], Any]:
    """Lists and tuples are lists in files: text is no list of letters, and a mapping none of its keys."""
    made = list if get_origin(kind) is list else tuple
    arguments = get_args(kind)
    alike = get_origin(kind) is not tuple or arguments[1:] == (Ellipsis,)
    hooks = [_converter.get_structure_hook(one) for one in (arguments[:1] if alike else arguments)]

    def structure(value: Any, _kind: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise TypeError(f"{value!r:.80} is no list")
        if not alike and len(value) != len(hooks):
            raise ValueError(f"a list of {len(value)} values, expected {len(hooks)}")
        pairs = ((hooks[0], arguments[0]) for _ in value) if alike else zip(hooks, arguments, strict=True)
        return made(hook(item, one) for item, (hook, one) in zip(value, pairs, strict=True))

    return structure


_converter.register_structure_hook_factory(lambda kind: get_origin(kind) in (list, tuple, Sequence), _sequence)


def as_text(kind: type[T], read: Callable[[str], T]) -> None:
    """Values of this class are written as text from now on, with `str`.

    Args:
        kind: The class.
        read: Function that reads the text, and raises a ValueError where it cannot.
    """

    def structure(value: Any, _kind: Any) -> T:
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is no text of a {kind.__name__}")
        return read(value)

    _converter.register_structure_hook(kind, structure)
    _converter.register_unstructure_hook(kind, str)


def as_data(kind: type[T], write: Callable[[T], Any], read: Callable[[type[T], Any], T]) -> None:
    """Values of this class are written and read by functions of their own from now on.

    Args:
        kind: The class.
        write: Function that makes JSON-like data of a value.
        read: Function that makes a value of the class from such data, and raises a ValueError where it cannot.
    """
    _converter.register_unstructure_hook(kind, write)
    _converter.register_structure_hook(kind, lambda data, found: read(found, data))


def to_json(value: Any) -> Any:
    """A dataclass, or a structure of dataclasses, as dicts, lists, numbers and strings."""
    return _without_tuples(_converter.unstructure(value))


def _without_tuples(value: Any) -> Any:
    """Lists in place of tuples, as they come back from a file."""
    if isinstance(value, dict):
        return {key: _without_tuples(item) for key, item in value.items()}
    return [_without_tuples(item) for item in value] if isinstance(value, tuple | list) else value


def from_json(kind: type[T], data: Any, what: str) -> T:
    """Read what `to_json` wrote.

    Args:
        kind: The dataclass, or a type such as `list[Point]`.
        data: What the JSON parser returned.
        what: What is read, for the error: a file, or a part of one.

    Raises:
        StorageError: A field is missing, unknown, or of another type.
    """
    try:
        return _converter.structure(data, kind)
    except (
        BaseValidationError,
        StructureHandlerNotFoundError,
        TypeError,
        ValueError,
        KeyError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        reasons = "; ".join(cattrs.transform_error(error)) if isinstance(error, BaseValidationError) else str(error)
        raise StorageError(f"{what} is damaged ({reasons}): restore it from a copy") from error


class Registry(Generic[T]):
    """Kinds of one family that can be written to disk and read back by name, the user's own among them.

    Args:
        what: What the kinds are, such as "pattern", for errors.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._kinds: dict[str, type] = {}

    def register(self, name: str) -> Callable[[Class], Class]:
        """A class decorator: write instances of a dataclass under this name.

        Raises:
            InputError: Another class has the name.
        """

        def add(kind: Class) -> Class:
            other = self._kinds.get(name)
            if other is not None and (other.__module__, other.__qualname__) != (kind.__module__, kind.__qualname__):
                raise InputError(f"{self.what} {name!r} is {other.__qualname__} already: choose another name")
            self._kinds[name] = kind
            return kind

        return add

    @property
    def kinds(self) -> Mapping[str, type[T]]:
        """The registered classes by name."""
        return dict(self._kinds)

    def to_json(self, value: T) -> dict[str, Any]:
        """A registered dataclass as data: its name as "kind", and its fields.

        Raises:
            InputError: Its class is not registered.
        """
        return {"kind": self.name_of(value), **to_json(value)}

    def from_json(self, data: Any, what: str) -> T:
        """Read what `to_json` wrote.

        Args:
            data: The name as "kind", and the fields.
            what: What is read, for the error.

        Raises:
            StorageError: The name is not registered, or a field is missing, unknown or of another type.
        """
        kind = self.kind_of(data.get("kind") if isinstance(data, Mapping) else None, what)
        return from_json(kind, {key: value for key, value in data.items() if key != "kind"}, what)

    def name_of(self, value: T) -> str:
        """The name that the class of an object is registered under.

        Raises:
            InputError: Its class is not registered.
        """
        name = next((name for name, kind in self._kinds.items() if kind is type(value)), None)
        if name is None:
            raise InputError(
                f"a {self.what} of class {type(value).__name__} cannot be saved: register the class under a name that "
                'stays the same, with @registry.register("my-name") above @dataclass'
            )
        return name

    def kind_of(self, name: object, what: str) -> type[T]:
        """The class that is registered under a name.

        Args:
            name: What a file gives as the name.
            what: What is read, for the error.

        Raises:
            StorageError: No class has the name.
        """
        if not isinstance(name, str) or name not in self._kinds:
            raise StorageError(
                f"{what} has a {self.what} {name!r} that is not registered: import the module that defines it first, "
                f"or "
                f"use a newer weightspace (known: {', '.join(sorted(self._kinds))})"
            )
        return self._kinds[name]
