"""How settings are spelled on disk, whatever the code calls them.

A run folder is recognised by its settings, and records say how a network came about. Both outlive the code, so a class
that is renamed keeps its spelling there: it has a class attribute `spelling`. Without one, a class is spelled as it is
called.
"""

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any


@dataclass(frozen=True)
class Spelling:
    """Names on disk of a dataclass.

    Args:
        name: The name of the class.
        fields: Names of fields, by what the code calls them; the others keep theirs.
        values: Values of fields, by field and by what the code calls them.
        later: Fields that came later, with their defaults: at these they are not written, so that what was written
            before is the same.
    """

    name: str
    fields: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)
    later: Mapping[str, Any] = field(default_factory=dict)

    def writes(self, name: str, value: Any) -> bool:
        """Is a field written, which has this value?"""
        return name not in self.later or value != self.later[name]


def spelling_of(settings: object) -> Spelling:
    """The spelling of a class, or of the class of an object."""
    kind = settings if isinstance(settings, type) else type(settings)
    return kind.__dict__.get("spelling", Spelling(kind.__name__))


def spelled(settings: Any) -> dict[str, Any]:
    """A dataclass as a mapping, like `dataclasses.asdict`, in the spelling on disk."""
    spelling, values = spelling_of(settings), asdict(settings)
    written = {name: value for name, value in values.items() if spelling.writes(name, value)}
    return {spelling.fields.get(name, name): _value(spelling, name, value) for name, value in written.items()}


def unspelled(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `spelled`: names and values on disk as the fields of a dataclass and what the code calls them.

    Args:
        kind: The dataclass.
        data: Fields by their names on disk.
    """
    spelling = spelling_of(kind)
    names = {on_disk: name for name, on_disk in spelling.fields.items()}
    values = {name: {on_disk: value for value, on_disk in known.items()} for name, known in spelling.values.items()}
    fields_of_data = {names.get(name, name): value for name, value in data.items()}
    return {
        name: values[name].get(value, value) if name in values and isinstance(value, Hashable) else value
        for name, value in fields_of_data.items()
    }


def spelled_text(settings: Any) -> str:
    """A dataclass as its `repr`, in the spelling on disk; anything else as its `repr`."""
    if isinstance(settings, tuple | list):
        inner = ", ".join(map(spelled_text, settings))
        return f"[{inner}]" if isinstance(settings, list) else f"({inner},)" if len(settings) == 1 else f"({inner})"
    if not is_dataclass(settings) or isinstance(settings, type):
        return repr(settings)
    spelling = spelling_of(settings)
    shown = {one.name: getattr(settings, one.name) for one in fields(settings) if one.repr}
    written = {name: value for name, value in shown.items() if spelling.writes(name, value)}
    values = {name: spelled_text(_value(spelling, name, value)) for name, value in written.items()}
    parts = (f"{spelling.fields.get(name, name)}={value}" for name, value in values.items())
    return f"{spelling.name}({', '.join(parts)})"


def _value(spelling: Spelling, name: str, value: Any) -> Any:
    known = spelling.values.get(name)
    return value if known is None else known.get(value, value)
