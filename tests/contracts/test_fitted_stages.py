"""What holds of every stage of the generator: `fit` returns something fitted, which is saved and loaded."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import weightspace as ws
from weightspace.compress import FittedPCA
from weightspace.errors import InputError, StorageError
from weightspace.flow import FittedFlow

SMALL = ws.FlowMatching(width=8, blocks=1, steps=5, batch_size=8)
CODES = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Stage:
    """A stage, its fitted type, data of the fit, what the fitted stage does, and data that it refuses."""

    settings: Any
    kind: type
    data: Callable[[ws.Collection], Any]
    output: Callable[[Any], Tensor]
    wrong: Callable[[ws.Collection], Any]
    seeded: bool = True

    def fit(self, data: Any, seed: int = 0) -> Any:
        return self.settings.fit(data, seed=seed) if self.seeded else self.settings.fit(data)


STAGES = {
    "PCA": Stage(
        ws.PCA(3), FittedPCA, lambda _: CODES, lambda f: f.transform(CODES), lambda _: CODES[:2], seeded=False
    ),
    "FlowMatching": Stage(
        SMALL, FittedFlow, lambda _: CODES, lambda f: f.sample(3, seed=1), lambda _: torch.zeros(5, 4)
    ),
    "DeepWeightFlow": Stage(
        ws.DeepWeightFlow(width=8, time=4, steps=5), FittedFlow, lambda _: CODES, lambda f: f.sample(3, seed=1),
        lambda _: torch.zeros(5, 4),
    ),
    "TicketGenerator": Stage(
        ws.TicketGenerator(compress=ws.PCA(3), generate=SMALL), ws.FittedGenerator, lambda t: t[:6],
        lambda f: f.sample(3, density=0.2, seed=1).weights, lambda t: t[:2],
    ),
}  # fmt: skip
ALL = pytest.mark.parametrize("name", STAGES)


@ALL
def test_fit_returns_the_fitted_type_and_leaves_the_settings(name: str, tickets: ws.Collection) -> None:
    stage = STAGES[name]
    before = replace(stage.settings)
    assert isinstance(stage.fit(stage.data(tickets)), stage.kind)
    assert stage.settings == before


@ALL
def test_the_same_seed_gives_the_same_bytes(name: str, tickets: ws.Collection, tmp_path: Path) -> None:
    stage, data = STAGES[name], STAGES[name].data(tickets)
    folders = [stage.fit(data, seed).save(tmp_path / str(i)) for i, seed in enumerate((1, 1, 2))]
    one, again, other = ([p.read_bytes() for p in sorted(folder.iterdir())] for folder in folders)
    assert one == again
    assert (one != other) == stage.seeded


@ALL
def test_what_is_loaded_gives_the_same_output(name: str, tickets: ws.Collection, tmp_path: Path) -> None:
    stage = STAGES[name]
    fitted = stage.fit(stage.data(tickets))
    folder = fitted.save(tmp_path / "f")
    assert torch.equal(stage.output(stage.kind.load(folder)), stage.output(fitted))
    with pytest.raises(StorageError, match="not empty"):
        fitted.save(folder)


@ALL
def test_damaged_folders_are_named(name: str, tickets: ws.Collection, tmp_path: Path) -> None:
    stage = STAGES[name]
    folder = stage.fit(stage.data(tickets)).save(tmp_path / "f")
    (folder / "manifest.json").unlink()  # as version 0.1 left it; tests/contracts/test_verify.py is about the manifest
    manifest, tensors = next(folder.glob("*.json")), next(folder.glob("*.safetensors"))
    good, numbers = json.loads(manifest.read_text()), tensors.read_bytes()
    for key in set(good) - {"format", "version"}:
        manifest.write_text(json.dumps({k: v for k, v in good.items() if k != key}))
        with pytest.raises(StorageError, match=key):
            stage.kind.load(folder)
    manifest.write_text(json.dumps(good))
    tensors.write_bytes(numbers[:-1] + b"x")
    with pytest.raises(StorageError, match="checksum"):
        stage.kind.load(folder)
    tensors.unlink()
    with pytest.raises(StorageError, match="missing"):
        stage.kind.load(folder)
    with pytest.raises(StorageError, match=manifest.name):
        stage.kind.load(tmp_path)


@ALL
def test_data_that_do_not_suit_are_refused(name: str, tickets: ws.Collection) -> None:
    with pytest.raises(InputError):
        STAGES[name].fit(STAGES[name].wrong(tickets))


def test_a_refinement_without_its_task_is_refused_before_the_work(
    tickets: ws.Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("work has begun")

    monkeypatch.setattr(ws.WeightMatching, "fit", never)
    model = ws.TicketGenerator(compress=ws.PCA(3), generate=SMALL, refine=ws.TaskRefinement(steps=2))
    with pytest.raises(InputError, match="task=task"):
        model.fit(tickets[:6])
