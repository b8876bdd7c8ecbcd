"""An evaluation that was stopped goes on, and gives the report of one that was not."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import weightspace as ws
from tests.evaluation.cases import few_points
from tests.executors import Sending
from weightspace.errors import InputError, StorageError
from weightspace.evaluation.baselines import Baselines
from weightspace.evaluation.parts import Part, Parts
from weightspace.report.results import ShiftResult
from weightspace.storage.files import dump_json


def test_a_stopped_evaluation_goes_on_to_the_same_report(
    tickets: ws.Collection, task: ws.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    most = [9]
    kept = Parts.kept

    def counting(self: Parts, name: str, what: str, kind: type[Any], measure: Callable[[], Any]) -> Any:
        def counted() -> Any:
            if len(measured) == most[0]:
                raise KeyboardInterrupt
            measured.append(name)
            return measure()

        return kept(self, name, what, kind, counted)

    groups = Baselines.groups
    monkeypatch.setattr(Baselines, "groups", lambda self, **k: groups(self, **k)[:3])
    monkeypatch.setattr("weightspace.evaluation.ensembles.shifts", lambda *_args, **_kwargs: iter(()))
    few = replace(task, test=task.test.head(40), validation=task.validation.head(40))
    settings: dict[str, Any] = {"align": None, "dropout": None, "others": {"the first": tickets[:2]}}

    def evaluate(folder: Path | None, seed: int = 0) -> ws.Report:
        with few_points():
            return ws.evaluate(tickets[:4], few, training=tickets[4:], seed=seed, folder=folder, **settings)

    whole = evaluate(None)
    monkeypatch.setattr(Parts, "kept", counting)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        evaluate(folder)
    assert measured == ["other-00", *(f"curve-{i:02d}" for i in range(8))]
    with pytest.raises(StorageError, match="differs in config.seed: 0 there, 1 asked"):
        evaluate(folder, seed=1)

    damaged = folder / "curve-03.json"
    text = damaged.read_text()
    damaged.write_text(text.replace('"networks": 4', '"networks": 5'))
    most[0] = 1000
    with pytest.raises(StorageError, match=r"curve-03.json was changed or damaged.*delete it"):
        evaluate(folder)
    damaged.unlink()
    (folder / "weightspace-evaluate-abc" / "spooled").mkdir(parents=True)
    resumed = evaluate(folder)
    assert dump_json(resumed.to_json(), "it") == dump_json(whole.to_json(), "it")
    assert [name for name in set(measured) if measured.count(name) > 1] == ["curve-03"]

    assert not list(folder.glob("weightspace-*"))  # nor what workers of a killed process left
    before = len(measured)
    assert evaluate(folder) == resumed  # a finished one is read
    assert len(measured) == before


def test_workers_make_the_same_report(
    tickets: ws.Collection, task: ws.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weightspace.evaluation.ensembles.shifts", lambda *_args, **_kwargs: iter(()))
    test = task.test.head(40)
    few = replace(task, test=test, validation=task.validation.head(40), ood=lambda: 2 * test.x)
    short = replace(few, recipe=replace(few.recipe, length=ws.Step(iterations=1)))

    def evaluate(folder: Path | None, **settings: Any) -> ws.Report:
        others = {"the first": tickets[:2]}
        with few_points():
            return ws.evaluate(tickets[:4], short, training=tickets[4:], others=others, folder=folder, **settings)

    alone, pool = evaluate(None), Sending(lost=1 + 5)  # the first is a trial
    with pytest.raises(ConnectionError):
        evaluate(tmp_path / "run", executor=pool)
    assert len(list((tmp_path / "run").glob("*-*.json"))) == 5
    again = Sending()
    together = evaluate(tmp_path / "run", executor=again)
    assert dump_json(together.to_json(), "it") == dump_json(alone.to_json(), "it")
    measured = {path.name for path in (tmp_path / "run").glob("*-*.json")} | {"figures.json"}
    assert len(pool.done) + len(again.done) == 2 + len(measured)
    with pytest.raises(InputError, match="workers need a folder"):
        evaluate(None, executor=again)
    with pytest.raises(InputError, match="workers compute on the CPU"):
        evaluate(tmp_path / "other", executor=again, device="cuda")


class Blurs:
    """Two parts."""

    @property
    def parts(self) -> list[Part]:
        return [Part(name, name, ShiftResult) for name in ("a", "b")]

    def measure(self, i: int) -> ShiftResult:
        return ShiftResult(self.parts[i].what, 1, {"accuracy": 0.5})


class Nowhere(Sending):
    """Workers that write where nobody looks."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        return iter([self.done.append(item) for item in items])


def test_damaged_parts_are_told_before_workers_measure(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    pool = Sending()
    with pytest.raises(StorageError, match="measures this part again"):
        Parts(tmp_path, pool).all(Blurs(), "blurs")
    assert not pool.done
    (tmp_path / "a.json").unlink()
    blurs = Parts(tmp_path, pool).all(Blurs(), "blurs")
    assert blurs == [Blurs().measure(0), Blurs().measure(1)]
    assert pool.done == [1, 0]
    assert Parts(tmp_path, pool).all(Blurs(), "blurs") == blurs
    assert pool.done == [1, 0]


def test_parts_that_workers_lost_are_told_and_measured(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="measured of b, a is not in .* all workers see"):
        blurs = Parts(tmp_path, Nowhere()).all(Blurs(), "blurs")
    assert blurs == [Blurs().measure(0), Blurs().measure(1)]


def test_a_part_says_what_it_holds(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    blurred = ShiftResult("blur", 1, {"accuracy": 0.1 + 0.2})
    assert parts.kept("a", "blur", ShiftResult, lambda: blurred) == blurred
    assert parts.kept("a", "blur", ShiftResult, lambda: None) == blurred  # is not measured again
    assert parts.kept("b", "noise", ShiftResult, lambda: None) is None
    assert parts.kept("b", "noise", ShiftResult, lambda: blurred) is None
    with pytest.raises(StorageError, match="holds 'blur', not 'rotation'"):
        parts.kept("a", "rotation", ShiftResult, lambda: blurred)
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(StorageError, match="measures this part again"):
        parts.kept("b", "noise", ShiftResult, lambda: blurred)
    assert Parts().kept("a", "rotation", ShiftResult, lambda: None) is None  # without a folder nothing is kept
