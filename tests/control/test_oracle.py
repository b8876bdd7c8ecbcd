"""stable-baselines3 in the user's own loop: its policies are a collection, and their returns are its own."""

from functools import cache
from typing import Any

import gymnasium
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

import weightspace as ws
from weightspace import control
from weightspace.models import ActorCritic
from weightspace.runtime import seeds

LIMIT = 25


def place() -> DummyVecEnv:
    return DummyVecEnv([lambda: gymnasium.make("CartPole-v1", max_episode_steps=LIMIT)])


def theirs(seed: int = 0) -> PPO:
    settings: Any = {"net_arch": {"pi": [8], "vf": [8]}}
    return PPO("MlpPolicy", place(), n_steps=16, batch_size=8, n_epochs=2, seed=seed, policy_kwargs=settings)


def given(model: PPO, module: Any) -> PPO:
    """stable-baselines3's PPO whose policy consists of the module's own layers."""
    policy: Any = model.policy
    policy.mlp_extractor.policy_net, policy.action_net = module.actor[:2], module.actor[2]
    policy.mlp_extractor.value_net, policy.value_net = module.critic[:2], module.critic[2]
    policy.optimizer = torch.optim.Adam(policy.parameters(), 1e-2, eps=1e-5)
    return model


def train(module: nn.Module, seed: int, steps: int) -> None:
    given(theirs(seed % 2**31), module).learn(steps)


JUDGE = cache(theirs)  # made once


def evaluated(module: nn.Module, seed: int) -> float:
    games = place()
    games.seed(seed)
    mean, _ = evaluate_policy(given(JUDGE(), module), games, n_eval_episodes=1, warn=False)
    assert isinstance(mean, float)
    return mean


def evaluate(module: nn.Module) -> dict[str, float]:
    return {"return": evaluated(module, 0)}


def test_policies_of_stable_baselines3_are_a_collection_and_are_pruned() -> None:
    architecture = ws.Architecture("ActorCritic", {"observation": 4, "actions": 2, "hidden": [8]})
    task = ws.tasks.from_loop(
        "theirs", architecture, train=train, evaluate=evaluate, budget={"steps": 32}, lower_is_better=()
    )
    dense = ws.collect(task, 2, seed=0)
    tickets = ws.tickets.IMP(0.5, 0.5, scope="layer").find(dense, task)
    assert tickets.densities.tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    assert not tickets.weights[~tickets.masks].any()
    ours = control.gymnasium_task("CartPole-v1", hidden=(8,), horizon=LIMIT)
    for policies in (dense, tickets):
        found = ours.returns(policies, episodes=2).tolist()
        starts = [seeds.derive(0, "test starts", i) for i in range(2)]
        assert found == [[evaluated(policies[i].module(), start) for start in starts] for i in range(2)]
        recorded = [record.metrics["validation_return"] for record in policies.records]
        assert recorded == [evaluated(policies[i].module(), 0) for i in range(2)]
    untrained = ws.from_state_dict(ActorCritic(4, 2, (8,)).state_dict(), factory=lambda: ActorCritic(4, 2, (8,)))
    assert not torch.equal(dense.weights[0], untrained.weights[0])  # the loop trains
    assert len({value for row in ours.returns(dense, episodes=20).tolist() for value in row}) > 1
