"""Nobody outside training/trainer.py writes a trainer's attributes: there are named operations."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.errors import InputError
from weightspace.training.conversion import initial, trainer_for
from weightspace.training.plans import Independent
from weightspace.training.trainer import Trainer

ROOT = Path(ws.__file__).parent


def attributes_of_trainers() -> set[str]:
    """Names that the trainer's own methods assign."""
    tree = ast.parse((ROOT / "training" / "trainer.py").read_text(encoding="utf-8"))
    trainer = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Trainer")
    return {
        node.attr
        for node in ast.walk(trainer)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
    }


def assignments(source: str) -> list[int]:
    """Lines that assign an attribute of a trainer, or an entry of one, where trainers are used."""
    if "trainer" not in source.lower():
        return []
    names = attributes_of_trainers()
    lines: list[int] = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in (part for one in targets for part in (one.elts if isinstance(one, ast.Tuple) else [one])):
            owner = target.value if isinstance(target, ast.Subscript) else target
            if isinstance(owner, ast.Attribute) and owner.attr in names:
                itself = isinstance(owner.value, ast.Name) and owner.value.id in ("self", "cls")
                lines += [] if itself else [node.lineno]
    return sorted(set(lines))


def test_nobody_writes_the_attributes_of_a_trainer() -> None:
    files = [path for path in ROOT.rglob("*.py") if path != ROOT / "training" / "trainer.py"]
    files += [path for folder in ("experiments", "tests") for path in (ROOT.parent / folder).rglob("*.py")]
    found = [f"{path}:{line}" for path in files for line in assignments(path.read_text(encoding="utf-8"))]
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "trainer.l1 = 1; trainer.weights = w",
        "run.weights, run.masks = w, m",
        "trainer.state['momentum'] = m",
        "trainer.step += 1",
        "trainer.individual: object = None",
    ],
)
def test_the_check_sees_an_assignment(line: str) -> None:
    assert assignments(f"trainer = make()\n{line}") == [2]
    assert assignments("trainer = make()\nself.weights = trainer.weights\ntrainer.prune(m)") == []


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    task = ws.tasks.iris(hidden=(4,))
    task = replace(task, recipe=replace(task.recipe, length=ws.Step(epochs=1), optimizer=ws.SGD(lr=0.1)))
    return trainer_for(initial(task.architecture, Independent().runs(2, 0)), task)


def test_held_weights_stay_and_a_penalty_shrinks(trainer: Trainer) -> None:
    held, penalised = trainer.fork(), trainer.fork()
    places = torch.zeros_like(trainer.weights, dtype=torch.bool)
    places[:, ::2] = True
    held.hold(places)
    held.run(5)
    assert torch.equal(held.weights[places], trainer.weights[places])
    assert not torch.equal(held.weights[~places], trainer.weights[~places])
    penalised.penalise(torch.full_like(trainer.weights, 0.5))
    penalised.run(5)
    plain = trainer.fork()
    plain.run(5)
    assert penalised.weights.abs().sum() < plain.weights.abs().sum()
    penalised.penalise(None)
    again = penalised.fork()
    again.run(6)
    assert not torch.equal(again.weights, penalised.weights)


def test_a_replaced_state_goes_on_as_the_first_would(trainer: Trainer) -> None:
    first, second = trainer.fork(), trainer.fork()
    first.run(3)
    second.replace_state(weights=first.weights.clone(), optimizer=first.fork().state, step=3)
    first.run(6)
    second.run(6)
    assert torch.equal(first.weights, second.weights)
    with pytest.raises(InputError, match="weights has shape"):
        second.replace_state(weights=first.weights[:1])


def test_steps_taken_by_hand_are_those_of_the_trainer(trainer: Trainer) -> None:
    first, second = trainer.fork(), trainer.fork()
    first.run(4)
    while second.step < 4:
        second.update(second.gradients())
    torch.testing.assert_close(first.weights, second.weights)
