"""The options of `fit` are the fields of the stages."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.cli.inputs import read_conditions
from weightspace.cli.main import main
from weightspace.errors import InputError


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


def test_conditions_are_numbers_words_or_lists_of_numbers() -> None:
    read = read_conditions(["a=0.5", "b=0.5,-1,1e2", "c=warm", "d=warm,cold", "e=a=b"])
    assert read == {"a": 0.5, "b": [0.5, -1.0, 100.0], "c": "warm", "d": "warm,cold", "e": "a=b"}
    with pytest.raises(InputError, match="NAME=VALUE, such as density=0.1 or description=0.5,-1,1"):
        read_conditions(["0.5"])


def test_a_description_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = ws.Architecture("MLP", {"sizes": (2, 3, 1)})
    layout = network.layout()
    weights = torch.randn(8, layout.size, generator=torch.Generator().manual_seed(0))
    masks = ws.Unstructured(0.5).mask(weights.abs(), layout)
    records = [
        {"seed": i, "index": i, "where": [i / 7, float(i % 2)], "words": "1,2" if i % 2 else "3,4"} for i in range(8)
    ]
    ws.Collection(layout, weights * masks, architecture=network, masks=masks, records=records).save(tmp_path / "t")
    fit = ["fit", "t", "--out", "g", "--no-align", "--compress.components", "2", "--flow.steps", "5"]
    fit += ["--flow.validation-fraction", "0", "--conditions", "where", "words"]
    sample = ["sample", "g", "--out", "s", "--n", "2", "--density", "0.5", "--guidance", "1.2"]
    with pytest.MonkeyPatch.context() as here:
        here.chdir(tmp_path)
        assert main(fit) == 0
        assert "conditions: where (2 numbers), words" in capsys.readouterr().out
        assert main([*sample, "--condition", "where=0.5,1", "words=1,2"]) == 0
        assert main([*sample[:3], "x", *sample[4:], "--condition", "where=0.5"]) == 1
    assert "is a list of 2 numbers, got 0.5" in capsys.readouterr().err
    model = ws.FittedGenerator.load(tmp_path / "g")
    asked = {"where": [0.5, 1.0], "words": "1,2"}
    expected = model.sample(2, density=0.5, condition=asked, guidance=1.2)
    drawn = ws.Collection.load(tmp_path / "s")
    assert torch.equal(drawn.weights, expected.weights)
    assert model.sample(2, density=0.5, condition={"where": [0.5, 1.0], "words": [1, 2]}, guidance=1.2).weights.equal(
        expected.weights
    ), "a word that reads as numbers"
