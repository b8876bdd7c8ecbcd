"""The options of `fit` are the fields of the stages."""

import re
from dataclasses import fields

import pytest

import weightspace as ws
from weightspace.cli.main import main


def _help(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("prefix", "kind"), [("refine", ws.TaskRefinement), ("flow", ws.FlowMatching), ("compress", ws.PCA)]
)
def test_every_field_of_a_stage_is_an_option(prefix: str, kind: type, capsys: pytest.CaptureFixture[str]) -> None:
    """A field that is added to the dataclass is an option with no change of the command line."""
    options = set(re.findall(rf"--{prefix}\.([a-z-]+)", _help(capsys)))
    names = {one.name.replace("_", "-") for one in fields(kind)}
    assert {name.removeprefix("no-") for name in options} == names
