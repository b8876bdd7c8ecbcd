"""Typed JSON: what comes back is what went in, or an error that names the field."""

from dataclasses import dataclass, field

import pytest

from weightspace.errors import InputError, StorageError
from weightspace.storage.typed import Registry, from_json, to_json


@dataclass(frozen=True)
class Inner:
    name: str
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Outer:
    count: int
    inner: list[Inner]
    by_name: dict[str, float] = field(default_factory=dict)
    maybe: str | None = None


VALUE = Outer(3, [Inner("a", (1.0, 2.0)), Inner("b")], {"x": 0.5})


def test_what_is_written_is_read_back() -> None:
    assert from_json(Outer, to_json(VALUE), "the test") == VALUE


@pytest.mark.parametrize(
    "change",
    [
        {"count": "3"},
        {"count": True},
        {"count": 3.5},
        {"inner": [{"name": 1}]},
        {"inner": 4},
        {"inner": "ab"},
        {"inner": {"name": "a"}},
        {"inner": [{"name": "a", "values": "12"}]},
        {"more": 1},
        {"by_name": {"x": "y"}},
    ],
)
def test_a_wrong_field_is_an_error(change: dict) -> None:
    with pytest.raises(StorageError, match="the test is damaged"):
        from_json(Outer, to_json(VALUE) | change, "the test")


def test_a_missing_field_is_named() -> None:
    data = to_json(VALUE)
    del data["count"]
    with pytest.raises(StorageError, match="count"):
        from_json(Outer, data, "the test")


def test_a_registry_reads_what_it_wrote() -> None:
    registry: Registry[Inner] = Registry("thing")
    with pytest.raises(InputError, match="Inner cannot be saved"):
        registry.to_json(Inner("a"))
    registry.register("inner")(Inner)
    assert registry.from_json(registry.to_json(Inner("a")), "the test") == Inner("a")
    with pytest.raises(StorageError, match="not registered"):
        registry.from_json({"kind": "other"}, "the test")
    with pytest.raises(InputError, match="choose another name"):
        registry.register("inner")(Outer)  # pyright: ignore[reportArgumentType]
