"""Policies: the environment against Gymnasium, PPO's parts against second computations, tickets of policies."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor

import weightspace as ws
from weightspace import control
from weightspace.control import PPO, CartPole
from weightspace.control.ppo import advantages, loss
from weightspace.control.trainer import PolicyTrainer
from weightspace.runtime import seeds
from weightspace.training.conversion import trainer_for

SHORT = PPO(updates=3, copies=2, steps=6, epochs=2, minibatches=2)
HORIZON = 40


@pytest.fixture(scope="module")
def task() -> control.PolicyTask:
    return control.cartpole((8,), ppo=SHORT, horizon=HORIZON)


@pytest.fixture(scope="module")
def policies(task: control.PolicyTask) -> ws.Collection:
    return ws.collect(task, 3, seed=0)


def test_cartpole_is_gymnasiums_step_by_step() -> None:
    theirs: Any = gymnasium.make("CartPole-v1").unwrapped
    ours = CartPole()
    seen, _ = theirs.reset(seed=3)
    state = torch.tensor(theirs.state)
    assert torch.equal(ours.observe(state), torch.from_numpy(seen))
    random = torch.Generator().manual_seed(0)
    steps = 0
    while True:
        action = int(torch.randint(2, (), generator=random))
        seen, reward, ended, _, _ = theirs.step(action)
        state, mine, over = ours.step(state, torch.tensor(action))
        torch.testing.assert_close(state, torch.tensor(theirs.state), rtol=1e-14, atol=0)
        assert (float(mine), bool(over)) == (reward, ended)
        steps += 1
        if ended:
            break
    assert steps > 10
    other = ours.step(state, torch.tensor(1 - action))[0]
    assert not torch.allclose(other, ours.step(state, torch.tensor(action))[0])  # the control


REWARDS, VALUES, AFTER = [1.0, 2.0, 3.0], [0.5, 0.2, 0.1], [0.2, 0.1, 0.7]


def advantages_by_hand(rewards: list[float], values: list[float], after: list[float], ended: list[bool]) -> float:
    """The first step's advantage, as a sum of discounted errors."""
    total, weight = 0.0, 1.0
    for reward, value, follows, over in zip(rewards, values, after, ended, strict=True):
        total += weight * (reward + 0.9 * follows * (not over) - value)
        if over:
            break
        weight *= 0.9 * 0.5
    return total


def estimates(ended: list[bool], cut: list[bool]) -> Tensor:
    columns = [torch.tensor(column, dtype=torch.float64)[:, None] for column in (REWARDS, VALUES, AFTER)]
    flags = [torch.tensor(flag)[:, None] for flag in (ended, cut)]
    return advantages(*columns, *flags, 0.9, 0.5)[:, 0]  # pyright: ignore[reportCallIssue]


def test_advantages_are_discounted_errors_and_a_cut_episode_keeps_its_bootstrap() -> None:
    never, second = [False] * 3, [False, True, False]
    for ended in (never, second):
        expected = advantages_by_hand(REWARDS, VALUES, AFTER, ended)
        assert float(estimates(ended, never)[0]) == pytest.approx(expected)
    cut, over = estimates(never, second), estimates(second, never)
    assert float(cut[1] - over[1]) == pytest.approx(0.9 * AFTER[1])  # what follows is worth the last state's value
    assert float(cut[1]) == pytest.approx(REWARDS[1] + 0.9 * AFTER[1] - VALUES[1])  # and no error after it counts
    assert float(cut[1]) != pytest.approx(float(estimates(never, never)[1]))


def test_the_loss_is_the_papers() -> None:
    random = torch.Generator().manual_seed(1)
    logits, values, gains, returns = (torch.randn(1, 5, *s, generator=random) for s in ((2,), (), (), ()))
    actions = torch.randint(2, (1, 5), generator=random)
    before = torch.randn(1, 5, generator=random) - 1
    ppo = PPO(entropy=0.1)
    total = 0.0
    standard = (gains - gains.mean()) / (gains.std() + 1e-8)
    for i in range(5):
        p = torch.softmax(logits[0, i], 0)
        ratio = float(p[actions[0, i]] / before[0, i].exp())
        g = float(standard[0, i])
        total -= min(ratio * g, min(max(ratio, 0.8), 1.2) * g) / 5
        total += 0.5 * 0.5 * float((values[0, i] - returns[0, i]) ** 2) / 5
        total -= 0.1 * float(-(p * p.log()).sum()) / 5
    assert float(loss(ppo, logits, values, actions, before, gains, returns)[0]) == pytest.approx(total, rel=1e-4)


def test_a_policy_does_not_depend_on_the_others(task: control.PolicyTask, policies: ws.Collection) -> None:
    alone = ws.collect(task, 1, seed=0)
    torch.testing.assert_close(alone.weights[0], policies.weights[0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(policies.weights[0], policies.weights[1], atol=1e-2)


def test_pruned_weights_stay_zero_and_runs_resume_to_the_same_bytes(
    task: control.PolicyTask, policies: ws.Collection, tmp_path: Path
) -> None:
    finder = ws.tickets.IMP(0.5, 0.3, scope="layer", rewind=ws.Step(iterations=1))
    tickets = finder.find(ws.Collection.load(policies.save(tmp_path / "policies")), task)
    assert not tickets.weights[~tickets.masks].any()
    assert tickets.densities.tolist() == pytest.approx([0.5] * 3, abs=0.01)

    whole = trainer_for(policies[:2], task)
    whole.run(3)
    first = trainer_for(policies[:2], task)
    first.run(1)
    first.save(tmp_path / "state.safetensors")
    second = trainer_for(policies[:2], task)
    second.resume(tmp_path / "state.safetensors")
    second.run(3)
    assert torch.equal(second.weights, whole.weights)
    fresh = trainer_for(policies[:2], task)  # the control: without the places of the copies it is another run
    fresh.resume(tmp_path / "state.safetensors")
    assert isinstance(fresh, PolicyTrainer)
    fresh.play.restore({})
    fresh.run(3)
    assert not torch.equal(fresh.weights, whole.weights)


def test_an_empty_layer_fails_loudly(task: control.PolicyTask) -> None:
    small = replace(task, recipe=replace(task.recipe, length=ws.Step(iterations=1)))
    policies = ws.collect(small, 1, seed=0)  # the output layer begins a hundred times smaller
    with pytest.raises(ws.InputError, match=r"keeps none of the weights of actor\.2\.weight.*Prune layer by layer"):
        ws.tickets.IMP(0.3, 0.7).find(policies, small)
    ws.tickets.IMP(0.3, 0.7, scope="layer").find(policies, small)


def test_output_layers_can_be_left_out(task: control.PolicyTask) -> None:
    small = replace(task, recipe=replace(task.recipe, length=ws.Step(iterations=1)))
    policies = ws.collect(small, 1, seed=0)
    assert task.output_layers == ("actor.2.weight", "critic.2.weight")
    tickets = ws.tickets.IMP(rate=0.7, pattern=ws.Except(ws.Unstructured(0.3), *task.output_layers)).find(
        policies, small
    )
    kept = {e.name: int(tickets.masks[0, tickets.layout.slices[e.name]].sum()) for e in tickets.layout.weights}
    assert (kept["actor.2.weight"], kept["critic.2.weight"]) == (16, 8)
    assert kept["actor.0.weight"] + kept["critic.0.weight"] == round(0.3 * 64)
    mine = replace(task, architecture=ws.Architecture.of(Right))
    with pytest.raises(ws.InputError, match="name them yourself"):
        mine.output_layers  # noqa: B018


def test_later_settings_are_written_only_where_they_are_not_the_default(
    task: control.PolicyTask, policies: ws.Collection
) -> None:
    assert not {"reward_scale", "schedule"} & set(PPO().to_json())
    falling = PPO(reward_scale=0.1, schedule=ws.Schedule("triangular"))
    assert PPO.from_json(falling.to_json()) == falling
    assert [falling.rate(update, 4) / falling.optimizer.lr for update in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert PPO().rate(3, 4) == PPO().optimizer.lr
    for other in (replace(SHORT, schedule=ws.Schedule("triangular")), replace(SHORT, reward_scale=0.5)):
        changed = control.cartpole((8,), ppo=other, horizon=HORIZON)
        assert not torch.allclose(ws.collect(changed, 1, seed=0).weights, policies.weights[:1], rtol=1e-3, atol=1e-4)


def test_a_task_is_taken_from_records(task: control.PolicyTask, policies: ws.Collection) -> None:
    found = control.cartpole(horizon=HORIZON).as_recorded(policies.records[0], policies.architecture)
    assert (found.ppo, found.architecture.arguments) == (SHORT, task.architecture.arguments)
    assert found.recipe.to_json() == task.recipe.to_json()
    with pytest.raises(ws.InputError, match=r"were trained in CartPole\(horizon=40\)"):
        control.cartpole(horizon=200).as_recorded(policies.records[0], policies.architecture)


class Right(torch.nn.Module):
    """A policy that pushes the cart to where the pole falls."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = torch.nn.Linear(4, 2, bias=False)
        with torch.no_grad():
            self.actor.weight.copy_(torch.tensor([[0.0, 0.0, -1.0, -1.0], [0.0, 0.0, 1.0, 1.0]]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(x), x[..., 0]


def played_in_gymnasium(start: Tensor) -> float:
    place: Any = gymnasium.make("CartPole-v1", max_episode_steps=45)
    place.reset(seed=0)
    vars(place.unwrapped)["state"] = start.numpy()
    seen, policy, total = start.float(), Right(), 0.0
    while True:
        values, reward, ended, cut, _ = place.step(int(policy(seen)[0].argmax()))
        seen, total = torch.from_numpy(values), total + reward
        if ended or cut:
            return total


def test_returns_are_gymnasiums_on_the_same_starts(task: control.PolicyTask, policies: ws.Collection) -> None:
    own = replace(task, architecture=ws.Architecture.of(Right), episodes=3, environment=CartPole(45))
    policy = ws.from_state_dict(Right().state_dict(), factory=Right)
    found = own.returns(policy)
    starts = CartPole().start(torch.rand(3, 4, generator=seeds.generator(0, "test starts")))
    assert found.tolist() == [[played_in_gymnasium(start) for start in starts]]
    assert (found > 30).all()  # an untrained policy falls after about ten steps
    assert (task.returns(policies) < HORIZON).any()
    test, validation = own.returns(policy, split="test"), own.returns(policy, split="validation")
    assert torch.equal(test, own.returns(policy))
    assert own.figures(Right())["return"] == pytest.approx(float(validation.mean()))


def test_a_module_that_is_no_policy_is_refused(task: control.PolicyTask) -> None:
    other = replace(task, architecture=ws.Architecture("MLP", {"sizes": [4, 2]}))
    with pytest.raises(ws.InputError, match="a policy returns logits"):
        other.try_out()
    for settings in ({"updates": 0}, {"discount": 1.5}, {"clip": 0.0}, {"minibatches": 1000}, {"reward_scale": 0.0}):
        with pytest.raises(ws.InputError):
            PPO(**settings)  # pyright: ignore[reportArgumentType]
