"""A short part of the random command lines, and what its checkers see."""

import random
import shutil
import sys
from pathlib import Path

import pytest

from experiments.fuzz import commands, world
from experiments.fuzz.outcomes import Ended, Findings
from weightspace.cli import main as command_line

SHORT = {"collect", "merge", "import", "train", "tickets gradual", "sample", "export", "show"}


def test_every_verb_and_option_of_the_parser_is_covered() -> None:
    verbs = commands.grammar()
    assert {verb.split()[0] for verb in verbs} == set(command_line.VERBS)
    drawn = {verb: set() for verb in verbs}
    for verb, options in verbs.items():
        for number in range(300):
            drawn[verb] |= {w.partition("=")[0] for w in commands.command(verb, options, random.Random(number))}
        skipped = commands.OF_ALL | commands.LEFT_OUT
        own = [option for option in options if option.names and option.names[0] not in skipped]
        assert [option.names for option in own if not drawn[verb] & set(option.names)] == [], verb
    assert set().union(*drawn.values()) >= commands.OF_ALL


def test_random_command_lines_end_in_a_result_or_a_message(place: world.World, monkeypatch) -> None:
    verbs = {
        verb: [option for option in options if "--onnx" not in option.names]
        for verb, options in commands.grammar().items()
        if verb in SHORT
    }
    monkeypatch.setattr(commands, "grammar", lambda: verbs)
    with world.cheap():
        found = commands.fuzz(place, 0, range(25), Findings())
    assert [one for one in found.wrong if not one.startswith("[no remedy]")] == []  # which `make fuzz` counts
    assert found.tried == 25
    assert found.number("done") > 1
    assert found.number("refused") > 1


@pytest.mark.parametrize(
    ("planted", "outcome"),
    [
        (lambda words: 1 / 0, "traceback"),
        (lambda words: print("no", file=sys.stderr) or 1, "no remedy"),
        (lambda words: Path("dense/collection.json").write_text("{}") and 0, "changed"),
        (lambda words: shutil.rmtree("dense"), "changed"),
        (lambda words: Path("new").mkdir(), "done"),
    ],
)
def test_what_was_planted_is_counted_and_put_back(planted, outcome: str, place: world.World, monkeypatch) -> None:
    monkeypatch.setattr(commands, "command_line", lambda words: planted(words) or 0)
    monkeypatch.setattr(commands, "grammar", lambda: {"show": []})
    before = place.files()
    found = commands.fuzz(place, 0, [0], Findings())
    assert {row: dict(count) for row, count in found.counts.items()} == {"show": {outcome: 1}}
    assert place.files().keys() == before.keys()
    assert not (place.root / "new").exists()
    assert (place.root / "dense" / "collection.json").stat().st_size == before["dense/collection.json"][0]


def test_a_refusal_has_a_remedy() -> None:
    assert commands.judge(Ended("refused", "no: give a folder")) == ("refused", None)
    assert commands.judge(Ended("refused", "no"))[0] == "no remedy"
