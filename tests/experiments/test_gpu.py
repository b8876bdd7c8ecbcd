from pathlib import Path

import pytest
import torch

from experiments.benchmarks import gpu
from experiments.common import tables


def test_all_stages_run() -> None:
    stages = gpu.stages(gpu.Sizes(networks=4, steps=4, hidden=(4,), flow=2, refinement=1))
    assert list(stages)[-1] == "2:4"
    for name, (stage, limit) in stages.items():
        assert 0 < limit < 1, name
        assert stage("cpu").isfinite().all(), name


def test_a_table_is_written_and_disagreement_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def right(_device: str) -> torch.Tensor:
        return torch.ones(2)

    def wrong(_device: str, calls: list[float] = [0.0]) -> torch.Tensor:  # noqa: B006
        calls[0] += 1
        return torch.full((2,), calls[0])

    found = {"right": (right, 0.1), "wrong": (wrong, 0.1)}
    monkeypatch.setattr(gpu, "stages", lambda _sizes: found)
    with pytest.raises(SystemExit, match="disagree: wrong"):
        gpu.main(device="cpu", out=tmp_path)
    rows = tables.read(tmp_path / "benchmarks/gpu.csv")
    assert [(row["stage"], row["agrees"]) for row in rows] == [("right", "True"), ("wrong", "False")]


def test_a_device_that_computes_something_else_is_seen() -> None:
    def stage(device: str) -> torch.Tensor:
        return torch.ones(3) if device == "cpu" else torch.tensor([1.0, 1.0, 1.2])

    assert gpu.compared(stage, "meta", 0.2)["agrees"]
    assert not gpu.compared(stage, "meta", 0.1)["agrees"]
    assert not gpu.compared(lambda device: torch.tensor([1.0 if device == "cpu" else torch.nan]), "meta", 0.1)["agrees"]
