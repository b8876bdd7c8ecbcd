"""The verbs of `weightspace adapt`, from a collection to merged networks."""

from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace import adapt
from weightspace.cli.main import main


def test_networks_are_adapted_merged_and_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["collect", "--out", "zoo", "--task", "iris", "--n", "2", "--length", "4it"]) == 0
    lota = ["adapt", "lota", "zoo", "--density", "0.2"]
    assert main([*lota, "--out", "a"]) == 0
    assert main([*lota, "--out", "a"]) == 0  # it is complete
    assert main([*lota, "--out", "b", "--apart-from", "a"]) == 0
    first, second = (adapt.TaskVectors.load(Path(name) / "vectors") for name in "ab")
    assert not (first.trained & second.trained).any()
    assert main(["adapt", "merge", "a", "b", "--base", "zoo", "--out", "merged"]) == 0
    assert main(["adapt", "apply", "merged", "--base", "zoo", "--out", "networks", "--scale", "0.5"]) == 0
    zoo, networks = ws.Collection.load("zoo"), ws.Collection.load("networks")
    expected = adapt.Sum().fit([first, second]).on(zoo, scale=0.5)
    assert torch.equal(networks.weights, expected.weights)
    assert not torch.equal(networks.weights, zoo.weights)

    assert main(["adapt", "lora", "zoo@0:1", "--n", "2", "--rank", "1", "--out", "adapters"]) == 0
    assert len(adapt.LoRA.load("adapters", zoo[:1])) == 2
    one = ["adapt", "lora", "zoo@0:1", "--rank", "1", "--density", "0.5"]
    assert main([*one, "--pattern", "uniform", "--out", "partial"]) == 0
    assert adapt.LoRA.load("partial", zoo[:1]).densities.item() == pytest.approx(0.5, abs=0.05)
    assert main([*one, "--out", "more"]) == 1
    assert "need --pattern" in capsys.readouterr().err
    capsys.readouterr()
    assert main(["adapt", "lora", "zoo", "--out", "more"]) == 1
    assert "zoo has 2 networks: take one, with @0:1" in capsys.readouterr().err
    assert main(["adapt", "apply", "zoo", "--base", "zoo", "--out", "more"]) == 1
    assert "not task vectors" in capsys.readouterr().err
    assert not Path("more").exists()


def test_adapters_are_learned_from_and_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["collect", "--out", "zoo", "--task", "iris", "--n", "1", "--length", "4it"]) == 0
    assert main(["adapt", "lora", "zoo", "--n", "12", "--rank", "2", "--out", "adapters"]) == 0
    capsys.readouterr()
    fit = ["fit", "adapters", "--out", "generator", "--compress.components", "2", "--flow.steps", "2"]
    assert main(fit) == 1
    assert "--adapters-of" in capsys.readouterr().err
    assert main([*fit, "--adapters-of", "zoo"]) == 0
    assert main(["sample", "generator", "--density", "1", "--n", "3", "--out", "new", "--adapters-of", "zoo"]) == 0
    assert main(["show", "generator", "--adapters-of", "zoo"]) == 0
    assert main(["show", "new", "--adapters-of", "zoo"]) == 0
    assert len(adapt.LoRA.load("new", ws.Collection.load("zoo"))) == 3
