"""Environments of Gymnasium: what they are called, what they look like, and whether they can be repeated."""

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from weightspace.errors import InputError

_TRIED = 20  # steps that are repeated to see whether an environment is the same twice


@dataclass(frozen=True)
class Gymnasium:
    """An environment of Gymnasium with discrete actions, by name; its text identifies runs.

    An episode is given by the seed of its start and the actions taken: `env.reset(seed=...)` and the same actions must
    lead to the same observations, as Gymnasium demands. Runs are continued by playing episodes again.

    Args:
        name: Name, as `gymnasium.make` takes it: "LunarLander-v3", or "my_module:Mine-v0" for one that the module
            registers when it is imported.
        settings: Further arguments of `gymnasium.make` by name, such as {"gravity": -5.0}.
        horizon: Steps after which an episode is cut off; None for the environment's own.

    Raises:
        InputError: Gymnasium is missing, there is no such environment, its actions are not discrete, or episodes have
            no end.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    horizon: int | None = None

    def __post_init__(self) -> None:
        if self.horizon is not None and self.horizon < 1:
            raise InputError(f"horizon must be at least 1, got {self.horizon}")
        self._sizes  # noqa: B018  # what cannot be played is refused here

    def make(self) -> Any:
        """A new environment, with observations as vectors.

        Raises:
            InputError: Gymnasium or a part of it is missing, or there is no such environment.
        """
        gymnasium = _gymnasium()
        limit = {} if self.horizon is None else {"max_episode_steps": self.horizon}
        try:
            with warnings.catch_warnings():
                # Box2D's module warns while it is imported, and the interpreter dies if that becomes an error.
                warnings.filterwarnings("ignore", "builtin type", DeprecationWarning)
                # So does pygame.
                warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)
                # Every call of an environment would be checked: it is checked once, in `check`.
                made = gymnasium.make(self.name, disable_env_checker=True, **limit, **self.settings)
        except gymnasium.error.DependencyNotInstalled as error:
            raise InputError(
                f"{self.name} needs a part of Gymnasium that is not installed: pip install 'weightspace[control]' "
                f"({error})"
            ) from error
        except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
            raise InputError(
                f"Gymnasium cannot make {self.name!r}: {error}. Names are those that gymnasium.make takes; "
                "'my_module:Mine-v0' imports my_module first, which registers it"
            ) from error
        space = made.observation_space
        plain = isinstance(space, gymnasium.spaces.Box) and len(space.shape or ()) == 1
        return made if plain else gymnasium.wrappers.FlattenObservation(made)

    @cached_property
    def _sizes(self) -> tuple[int, int, int, int]:
        """Numbers that are observed, of actions, of the first action, and of steps until the cut."""
        gymnasium, made = _gymnasium(), self.make()
        actions, limit = made.action_space, made.spec.max_episode_steps if made.spec else None
        size = int(np.prod(made.observation_space.shape))
        made.close()
        if not isinstance(actions, gymnasium.spaces.Discrete):
            raise InputError(f"policies choose among discrete actions, and those of {self.name} are {actions}")
        if limit is None:
            raise InputError(f"episodes of {self.name} are never cut off: give a horizon, a number of steps")
        return size, int(actions.n), int(actions.start), int(limit)

    @property
    def observation(self) -> int:
        """Numbers that are observed."""
        return self._sizes[0]

    @property
    def actions(self) -> int:
        """Number of actions."""
        return self._sizes[1]

    @property
    def first_action(self) -> int:
        """What the environment calls action 0."""
        return self._sizes[2]

    @property
    def limit(self) -> int:
        """Steps after which an episode is cut off."""
        return self._sizes[3]

    def check(self) -> None:
        """See that an episode is the same when it is played again.

        Raises:
            InputError: It is not.
        """
        once, again = self._tried(), self._tried()
        if not all(np.array_equal(*pair, equal_nan=True) for pair in zip(once, again, strict=False)):
            raise InputError(
                f"{self.name} gives other observations when the same seed and actions are played again: draw all "
                "random numbers of the environment from self.np_random, which reset(seed=...) sets"
            )
        if not all(np.isfinite(seen).all() for seen in once):
            raise InputError(f"observations of {self.name} are not finite")

    def _tried(self) -> list[np.ndarray]:
        made = self.make()
        seen = [np.asarray(made.reset(seed=1)[0], dtype=np.float64)]
        for step in range(_TRIED):
            values, reward, ended, cut, _ = made.step(self.first_action + step % self.actions)
            seen.append(np.append(np.asarray(values, dtype=np.float64), float(reward)))
            if ended or cut:
                break
        made.close()
        return seen


def _gymnasium() -> Any:
    try:
        for part in ("gymnasium.error", "gymnasium.spaces", "gymnasium.wrappers"):
            importlib.import_module(part)
        return importlib.import_module("gymnasium")
    except ImportError as error:
        raise InputError("these environments need the extra: pip install 'weightspace[control]'") from error
