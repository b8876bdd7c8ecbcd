"""Environments of Gymnasium: episodes are their seeds and actions, and what cannot be repeated is refused."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

import weightspace as ws
from weightspace import control
from weightspace.control import PPO, Gymnasium, returns
from weightspace.control.gymnasium_play import GymnasiumPlay
from weightspace.runtime import seeds
from weightspace.training.conversion import initial, trainer_for

NO_BOX2D = importlib.util.find_spec("Box2D") is None  # no wheel for Python 3.14
SHORT = PPO(updates=3, copies=2, steps=12, epochs=1, minibatches=2)


class Count(gymnasium.Env[Any, Any]):
    """The number of the step; action 1 ends the episode, and noise is added where a generator is given."""

    observation_space = gymnasium.spaces.Discrete(9)
    action_space = gymnasium.spaces.Discrete(2, start=3)

    def __init__(self, noise: np.random.Generator | None = None) -> None:
        self.noise, self.steps = noise, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.steps = int(self.np_random.integers(3))
        return self.steps, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        drift = 0.0 if self.noise is None else self.noise.random()
        return self.steps % 9, 1.0 + drift, bool(action == 4), False, {}


class Steer(gymnasium.Env[Any, Any]):
    """An environment whose actions are not discrete."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    shared = np.random.default_rng(0)
    entries: dict[str, tuple[Any, int | None]] = {
        "Count": (Count, 5),
        "Steer": (Steer, 5),
        "Endless": (Count, None),
        "Noisy": (lambda: Count(shared), 5),
    }
    for name, (entry, limit) in entries.items():
        gymnasium.register(f"{name}-v0", entry_point=entry, max_episode_steps=limit)


def draw(purpose: str, *shape: int) -> Tensor:
    return torch.rand(3, *shape, generator=seeds.generator(0, purpose))


def test_ends_and_cuts_are_told_apart_and_no_step_is_spent_on_resetting() -> None:
    play = GymnasiumPlay(Gymnasium("Count-v0"), 2, 12)
    play.prepare(draw)
    assert (play.place.observation, play.place.actions, play.place.limit) == (9, 2, 5)
    waiting, ending = torch.zeros(3, 2, dtype=torch.long), torch.ones(3, 2, dtype=torch.long)
    first = play.seen()
    assert (first.sum(-1) == 1).all()  # a number, one-hot
    for step in range(4):
        outcome = play.step(step, waiting)
        assert not (outcome.ended | outcome.cut).any()
    last = play.step(4, waiting)
    assert last.cut.all()
    assert not last.ended.any()  # the value of what follows counts
    assert torch.equal(last.after.argmax(-1), first.argmax(-1) + 5)  # seen before the new start
    assert (play.seen().argmax(-1) < 3).all()
    over = play.step(5, ending)
    assert over.ended.all()
    assert not over.cut.any()


@pytest.mark.parametrize(
    "name", ["Count-v0", pytest.param("LunarLander-v3", marks=pytest.mark.skipif(NO_BOX2D, reason="needs Box2D"))]
)
def test_runs_go_on_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    task = control.gymnasium_task(name, hidden=(4,), ppo=SHORT)
    start = initial(task.architecture, [{"seed": 1}, {"seed": 2}])
    whole = trainer_for(start, task)
    whole.run(1)
    whole.save(tmp_path / "state.safetensors")
    fork = whole.fork()
    whole.run(3)
    fork.run(3)
    again = trainer_for(start, task)
    again.resume(tmp_path / "state.safetensors")
    again.run(3)
    assert torch.equal(again.weights, whole.weights)
    assert torch.equal(fork.weights, whole.weights)
    assert not torch.equal(whole.weights[0] - start.weights[0], whole.weights[1] - start.weights[1])
    lost: Any = trainer_for(start, task)  # the control: without the episodes it is another run
    lost.resume(tmp_path / "state.safetensors")
    lost.play.restore({})
    lost.run(3)
    assert not torch.equal(lost.weights, whole.weights)


def test_returns_are_gymnasiums_and_tickets_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    task = control.gymnasium_task("CartPole-v1", hidden=(6,), ppo=SHORT, horizon=30, episodes=2)
    dense = ws.collect(task, 2, seed=0)
    tickets = ws.tickets.IMP(0.5, 0.5, scope="layer", rewind=ws.Step(iterations=1)).find(dense, task)
    assert tickets.densities.tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    place: Any = gymnasium.make("CartPole-v1", max_episode_steps=30)
    for split in ("test", "validation"):
        expected = [
            [played(place, tickets[i].module(), seeds.derive(0, f"{split} starts", j)) for j in range(2)]
            for i in range(2)
        ]
        assert task.returns(tickets, split=split).tolist() == expected
    recorded = [record.metrics["validation_return"] for record in tickets.records]
    assert recorded == pytest.approx(task.returns(tickets, split="validation").mean(1).tolist())
    together = task.returns(tickets)
    monkeypatch.setattr(returns, "_EPISODES", 3)
    assert torch.equal(task.returns(tickets), together)  # one policy after another
    drawn = task.returns(tickets, greedy=False)
    assert torch.equal(drawn, task.returns(tickets, greedy=False))
    assert not torch.equal(drawn, task.returns(tickets))


def played(place: Any, policy: Any, seed: int) -> float:
    seen, total = place.reset(seed=seed)[0], 0.0
    while True:
        logits = policy(torch.from_numpy(seen)[None])[0]
        seen, reward, ended, cut, _ = place.step(int(logits.argmax()))
        total += reward
        if ended or cut:
            return total


def test_what_cannot_be_played_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, message in {
        "Steer-v0": "policies choose among discrete actions",
        "Endless-v0": "never cut off: give a horizon",
        "NoSuchThing-v0": "Gymnasium cannot make 'NoSuchThing-v0'",
        "no_such_module:Mine-v0": "Gymnasium cannot make",
    }.items():
        with pytest.raises(ws.InputError, match=message):
            control.gymnasium_task(name)
    endless: Any = control.gymnasium_task("Endless-v0", horizon=7).environment
    assert endless.limit == 7
    noisy = control.gymnasium_task("Noisy-v0", hidden=(4,), ppo=SHORT)
    with pytest.raises(ws.InputError, match=r"gives other observations when .* are played again"):
        ws.collect(noisy, 1)
    control.gymnasium_task("Count-v0", hidden=(4,), ppo=SHORT).try_out()  # the control: without noise it is fine

    for missing, message in (("gymnasium", "need the extra"), ("Box2D", "is not installed.*control")):
        with monkeypatch.context() as patch:
            for module in [one for one in sys.modules if one.split(".")[0] == missing or "box2d" in one]:
                patch.delitem(sys.modules, module)
            patch.setitem(sys.modules, missing, None)
            with pytest.raises(ws.InputError, match=message):
                control.lunar_lander()


@pytest.mark.skipif(NO_BOX2D, reason="needs Box2D")
def test_built_in_tasks() -> None:
    lander, acrobot = control.lunar_lander((4,)), control.acrobot((4,))
    sizes = [(task.environment.observation, task.environment.actions) for task in (lander, acrobot)]
    assert sizes == [(8, 4), (6, 3)]
    windy = control.gymnasium_task("LunarLander-v3", settings={"enable_wind": True})
    assert windy.recipe.to_json() != control.gymnasium_task("LunarLander-v3").recipe.to_json()
    with pytest.raises(ws.InputError, match="does not take what is observed, 8 numbers"):
        replace(lander, architecture=acrobot.architecture).try_out()
