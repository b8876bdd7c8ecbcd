"""Ready-made tasks of control."""

from collections.abc import Mapping, Sequence
from typing import Any

from weightspace.control.environment import CartPole, Environment
from weightspace.control.gymnasium_environment import Gymnasium
from weightspace.control.ppo import PPO
from weightspace.control.task import PolicyTask
from weightspace.networks.architecture import Architecture
from weightspace.recipes.optimizers import Adam
from weightspace.recipes.step import Step
from weightspace.runtime import checks
from weightspace.tasks.own_loop import LoopRecipe, NoSamples


def cartpole(hidden: Sequence[int] = (64, 64), *, ppo: PPO | None = None, horizon: int = 500) -> PolicyTask:
    """Balance a pole on a cart: policies of Gymnasium's CartPole-v1, trained by PPO, many in one batched call.

    `collect`, `IMP`, `GradualPruning`, `PruneAtInit` with magnitudes or at random, `train` and `TicketControls` take
    it; an iteration is one update. Records have "validation_return", the mean over 20 fixed starts; `returns` reads the
    test starts. Gymnasium is not needed: the equations are computed on tensors.

    Args:
        hidden: Units of the hidden layers.
        ppo: How policies are trained; None for settings that solve it.
        horizon: Steps after which an episode is cut off.
    """
    return _task("cartpole", CartPole(horizon), hidden, ppo or BALANCING, 20)


def lunar_lander(hidden: Sequence[int] = (64, 64), *, ppo: PPO | None = None) -> PolicyTask:
    """Land between two flags: policies of Gymnasium's LunarLander-v3, as for `gymnasium_task`.

    Args:
        hidden: Units of the hidden layers.
        ppo: How policies are trained; None for 150 updates of 2,048 steps. A return of 200 is a landing.

    Raises:
        InputError: Gymnasium or Box2D is missing: they are the extra `control`.
    """
    return gymnasium_task("LunarLander-v3", name="lunar_lander", hidden=hidden, ppo=ppo or LANDING)


def acrobot(hidden: Sequence[int] = (64, 64), *, ppo: PPO | None = None) -> PolicyTask:
    """Swing a two-link arm up: policies of Gymnasium's Acrobot-v1, as for `gymnasium_task`.

    Args:
        hidden: Units of the hidden layers.
        ppo: How policies are trained; None for settings that solve it. A step costs 1, and 500 is the end.

    Raises:
        InputError: Gymnasium is missing: it is in the extra `control`.
    """
    return gymnasium_task("Acrobot-v1", name="acrobot", hidden=hidden, ppo=ppo or SWINGING)


def gymnasium_task(
    environment: str,
    *,
    name: str | None = None,
    hidden: Sequence[int] = (64, 64),
    ppo: PPO | None = None,
    settings: Mapping[str, Any] | None = None,
    horizon: int | None = None,
    episodes: int = 20,
) -> PolicyTask:
    """A task of an environment of Gymnasium with discrete actions, a built-in one or your own.

    Every network plays in copies of its own, whose episodes have seeds of their own; networks learn side by side. Runs
    that are stopped go on to the same policies: an episode that was going on is played again, which needs an
    environment that is the same for the same seed and actions. This is checked before work starts.

    Args:
        environment: Name, as `gymnasium.make` takes it; "my_module:Mine-v0" imports my_module first.
        name: Name of the task in records; None is the environment's.
        hidden: Units of the hidden layers. For another network use `dataclasses.replace(task, architecture=...)`.
        ppo: How policies are trained.
        settings: Further arguments of `gymnasium.make` by name.
        horizon: Steps after which an episode is cut off; None for the environment's own.
        episodes: Number of episodes that a policy is judged by.

    Raises:
        InputError: Gymnasium is missing, there is no such environment, or its actions are not discrete.
    """
    place = Gymnasium(environment, dict(settings or {}), horizon)
    return _task(name or environment, place, hidden, ppo or PPO(), episodes)


BALANCING = PPO(updates=128, epochs=5, minibatches=4, discount=0.99, trace=0.95, reward_scale=0.05)
"""Settings for CartPole: 32,768 steps."""

LANDING = PPO(
    updates=150,
    copies=16,
    steps=128,
    epochs=6,
    minibatches=8,
    optimizer=Adam(lr=1e-3, eps=1e-5),
    discount=0.999,
    trace=0.98,
    entropy=0.01,
    reward_scale=0.05,
)
"""Settings for LunarLander: 307,200 steps."""

SWINGING = PPO(updates=48, copies=16, steps=128, epochs=4, minibatches=8, discount=0.99, trace=0.94, reward_scale=0.05)
"""Settings for Acrobot: 98,304 steps."""


def _task(name: str, place: Environment | Gymnasium, hidden: Sequence[int], ppo: PPO, episodes: int) -> PolicyTask:
    hidden = checks.several(hidden, "hidden", checks.count, at_least=1)
    checks.instance(ppo, "ppo", PPO, "a PPO(...)")
    data: Any = NoSamples(name)
    arguments = {"observation": place.observation, "actions": place.actions, "hidden": list(hidden)}
    budget = ppo.to_json() | {"environment": repr(place)}  # as records have it
    recipe = LoopRecipe(Step(iterations=ppo.updates), 1, budget=budget)
    return PolicyTask(
        name,
        Architecture("ActorCritic", arguments),
        data,
        data,
        data,
        recipe,
        lower_is_better=(),
        environment=place,
        ppo=ppo,
        episodes=episodes,
    )
