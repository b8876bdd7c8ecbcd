"""How values are written on the command line."""

import pytest

import weightspace as ws
from weightspace.cli.types import pattern_text, read_pattern, read_polish
from weightspace.errors import InputError


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("0.3", ws.Unstructured(0.3)),
        ("2:4", ws.NM(2, 4)),
        ("erk:0.1", ws.ERK(0.1)),
        ("unstructured:0.1,scope=layer", ws.Unstructured(0.1, "layer")),
        ("0.3 only encoder.*", ws.Only(ws.Unstructured(0.3), "encoder.*")),
        ("2:4 except embed* head.?", ws.Except(ws.NM(2, 4), "embed*", "head.?")),
        ("erk:0.1 only a.* except *.b", ws.Except(ws.Only(ws.ERK(0.1), "a.*"), "*.b")),
    ],
)
def test_patterns_are_read_as_they_are_written(text: str, pattern: ws.masks.Pattern) -> None:
    assert read_pattern(text) == pattern
    assert pattern_text(pattern) == text


@pytest.mark.parametrize("text", ["0.3 only", "only encoder.*", "0.3 encoder.*", "0.3 without head.*"])
def test_half_a_selection_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="only"):
        read_pattern(text)


@pytest.mark.parametrize(
    ("text", "polish"), [("30it", ws.Step(iterations=30)), ("last-layer", ws.LastLayer()), ("None", None)]
)
def test_ways_of_polishing_are_read(text: str, polish: ws.Step | ws.LastLayer | None) -> None:
    assert read_polish(text) == polish
    with pytest.raises(InputError, match="last-layer"):
        read_polish(f"{text}s")
