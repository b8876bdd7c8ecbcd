"""A trained flow: sample codes, find the noise they come from, and their likelihood."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import InputError, StorageError
from weightspace.flow.ode import follow, guided_field, to_noise
from weightspace.flow.velocity import Velocity, with_presence
from weightspace.networks.layout import Layout
from weightspace.runtime import checks, devices, seeds
from weightspace.runtime.progress import progress
from weightspace.runtime.room import check_number
from weightspace.storage.fitted import FittedFormat, require_tensor
from weightspace.storage.spelling import spelled, spelling_of
from weightspace.storage.typed import Registry, from_json

_SOLVER_STEPS = 10**6  # more than anybody waits for
_JACOBIAN = 4096  # codes up to which exact likelihoods are computed
_FLOW = ("method", "config", "scale", "codes", "conditions")
_FORMAT = FittedFormat("flow", 1, (1,), _FLOW)


@runtime_checkable
class FlowSettings(Protocol):
    """What a trained flow needs of the settings it was trained with."""

    @property
    def source_std(self) -> float:
        """Standard deviation of the noise that codes are made from."""
        ...

    @property
    def solver_steps(self) -> int:
        """Runge-Kutta steps from noise to codes."""
        ...

    def velocity(self, codes: int, conditions: int) -> Velocity:
        """The untrained velocity network.

        Args:
            codes: Length of a code.
            conditions: Numbers that describe each code to the network.
        """
        ...


FLOWS: Registry[FlowSettings] = Registry("flow")
"""Kinds of flows by their names on disk: `@FLOWS.register("mine")` above `@dataclass(frozen=True)`."""


@dataclass(frozen=True)
class FittedFlow:
    """A trained velocity field.

    Args:
        config: Settings that it was trained with.
        weights: Weights of the velocity network, averaged over training, flat (P,).
        scale: Number that codes were divided by.
        codes: Length of a code.
        conditions: Numbers that describe a network; 0 if it was trained without.
    """

    config: FlowSettings
    weights: Float[Tensor, " p"]
    scale: float
    codes: int
    conditions: int = 0

    def noise(self, n: int, *, seed: int = 0, start: int = 0) -> Float[Tensor, "m k"]:
        """Noise x_0 of samples, a row each; row i depends on (seed, i) alone.

        Args:
            n: Index after the last sample.
            seed: Seed of the samples.
            start: Index of the first sample.
        """
        n, start = checks.count(n, "n", at_least=1), checks.count(start, "start", at_most=n - 1)
        drawn = [torch.randn(self.codes, generator=seeds.generator(seed, "flow noise", i)) for i in range(start, n)]
        return torch.stack(drawn) * self.config.source_std

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        conditions: Float[Tensor, "n c"] | None = None,
        guidance: float = 1.0,
        seed: int = 0,
        solver_steps: int | None = None,
        device: str = "auto",
    ) -> Float[Tensor, "n k"]:
        """New codes, (n, K): noise, carried along the flow.

        Sample i depends on (seed, i) alone, not on n, up to the rounding of batched products.

        Args:
            n: Number of samples.
            conditions: Conditions of the samples, (n, C); see `integrate`.
            guidance: Strength of the conditions; see `integrate`.
            seed: Seed of the noise.
            solver_steps: Runge-Kutta steps; None is the number of the settings.
            device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.
        """
        n, device = check_number(n, "n", self.codes, in_folder=False), devices.pick(device)
        x_0 = self.noise(n, seed=checks.seed(seed)).to(device)
        return self.integrate(x_0, conditions=conditions, guidance=guidance, solver_steps=solver_steps).cpu()

    @torch.no_grad()
    def integrate(
        self,
        x_0: Float[Tensor, "n k"],
        *,
        conditions: Float[Tensor, "n c"] | None = None,
        guidance: float = 1.0,
        solver_steps: int | None = None,
    ) -> Float[Tensor, "n k"]:
        """Codes (n, K) of noise, on its device: t from 0 to 1 (fourth-order Runge-Kutta, fixed steps).

        Args:
            x_0: Noise, (n, K).
            conditions: Conditions of the samples, (n, C), NaN where it does not matter; None is nowhere.
            guidance: Strength of the conditions; above 1 follows them more strongly than the tickets do, by moving the
                field away from its unconditional value (arXiv 2207.12598, eq. 6 with w = guidance - 1).
            solver_steps: Runge-Kutta steps; None is the number of the settings.

        Raises:
            InputError: The conditions have another shape than in training, or guidance has none to strengthen.
        """
        checks.tensor(x_0, "x_0", shape=("networks", self.codes), floating=True, finite=True)
        x_0 = x_0.to(torch.float32)  # as the velocity network computes
        return self._solve(x_0, 0.0, 1.0, solver_steps, conditions, guidance) * self.scale

    @torch.no_grad()
    def encode(
        self,
        codes: Float[Tensor, "n k"],
        *,
        conditions: Float[Tensor, "n c"] | None = None,
        solver_steps: int | None = None,
    ) -> Float[Tensor, "n k"]:
        """Noise (n, K) that the flow carries to codes, on their device: t from 1 to 0.

        Args:
            codes: Codes, (n, K).
            conditions: Conditions of the codes, (n, C), NaN where unknown.
            solver_steps: Runge-Kutta steps; None is the number of the settings.
        """
        checks.tensor(codes, "codes", shape=("networks", self.codes), floating=True, finite=True)
        return self._solve((codes / self.scale).float(), 1.0, 0.0, solver_steps, conditions, 1.0)

    def log_prob(
        self,
        codes: Float[Tensor, "n k"],
        *,
        conditions: Float[Tensor, "n c"] | None = None,
        tolerance: float = 1e-5,
        solver_steps: int | None = None,
        probes: int | None = None,
        seed: int = 0,
    ) -> Float[Tensor, " n"]:
        """Log-density of codes under the flow, (n,), in nats, on their device (arXiv 2210.02747, appendix C).

        The flow is solved backwards together with the trace of its Jacobian, which is computed exactly, in
        float64, or estimated.

        Args:
            codes: Codes, (n, K).
            conditions: Conditions of the networks whose density it is, (n, C); NaN where unknown.
            tolerance: Relative and absolute tolerance of the adaptive solver (Dormand-Prince); each code is solved on
                its own, so that its value does not depend on the others.
            solver_steps: Number of fixed Runge-Kutta steps, for all codes together, in place of the adaptive solver.
            probes: Random directions a code for Hutchinson's estimate of the trace (arXiv 1810.01367), for long codes;
                None is the exact trace.
            seed: Seed of these directions.

        Raises:
            InputError: The codes are too long.
        """
        probes = checks.given(probes, "probes", checks.count, at_least=1)
        if probes is None and self.codes > _JACOBIAN:
            raise InputError(
                f"the exact likelihood needs a Jacobian of {self.codes} x {self.codes} for each network, more than "
                f"{_JACOBIAN} x {_JACOBIAN}: compress the networks first (compress=PCA(...)), or give probes="
            )
        checks.tensor(codes, "codes", shape=("networks", self.codes), floating=True, finite=True)
        tolerance = checks.number(tolerance, "tolerance", above=0)
        solver_steps = checks.given(solver_steps, "solver_steps", checks.count, at_least=1, at_most=_SOLVER_STEPS)
        velocity = self.velocity().to(codes.device).double()
        known = self._known(codes, conditions).double()

        signs = None if probes is None else self._probes(probes, len(codes), seed).to(codes.device)

        def solve(x_1: Tensor, known: Tensor, signs: Tensor | None) -> Tensor:
            x_0, lost = to_noise(velocity, x_1, known, tolerance, solver_steps, signs)
            std = self.config.source_std
            normal = -0.5 * (x_0 / std).square().sum(1) - self.codes * math.log(std * math.sqrt(2 * math.pi))
            return normal + lost - self.codes * math.log(self.scale)

        scaled = codes.double() / self.scale
        with torch.no_grad():
            if solver_steps is not None:
                return solve(scaled, known, signs)
            each = [None] * len(scaled) if signs is None else signs.split(1, 1)
            rows = list(zip(scaled.split(1), known.split(1), each, strict=True))
            return torch.cat([solve(*row) for row in progress(rows, "likelihoods")])

    def _probes(self, probes: int, n: int, seed: int) -> Float[Tensor, "p n k"]:
        """Random signs, the same for a code whatever codes come after it."""
        random = [seeds.generator(seed, "probes", i) for i in range(n)]
        drawn = [torch.randint(2, (probes, self.codes), generator=one).double() for one in random]
        return 2 * torch.stack(drawn, 1) - 1

    def _solve(
        self,
        x: Float[Tensor, "n k"],
        start: float,
        stop: float,
        steps: int | None,
        conditions: Float[Tensor, "n c"] | None,
        guidance: float,
    ) -> Float[Tensor, "n k"]:
        guidance = checks.number(guidance, "guidance")
        steps = checks.given(steps, "solver_steps", checks.count, at_least=1, at_most=_SOLVER_STEPS)
        known, unknown = self._known(x, conditions), self._known(x, None)
        if guidance != 1.0 and (conditions is None or conditions.isnan().all()):
            raise InputError("guidance strengthens conditions: give some with conditions=, or leave it at 1")
        field = guided_field(self.velocity().to(x.device), known, unknown, guidance)
        return follow(field, x, start, stop, self.config.solver_steps if steps is None else steps)

    def _known(self, x: Float[Tensor, "n k"], conditions: Float[Tensor, "n c"] | None) -> Float[Tensor, "n twice"]:
        """Conditions as the field sees them, beside these points."""
        if conditions is None:
            conditions = torch.full((len(x), self.conditions), math.nan)
        checks.tensor(conditions, "conditions")
        if conditions.shape != (len(x), self.conditions):
            raise InputError(
                f"expected conditions of shape {(len(x), self.conditions)}, which this flow was trained with, got "
                f"{tuple(conditions.shape)}"
            )
        return with_presence(conditions.to(x.device).float())

    def velocity(self) -> Velocity:
        """The velocity network with the trained weights."""
        with seeds.seeded_modules(0, "velocity"):  # its untrained weights are not used, nor the global random state
            velocity = self.config.velocity(self.codes, 2 * self.conditions)
        velocity.load_state_dict(Layout.of(velocity).unpack(self.weights))
        return velocity.eval()

    def tensors(self) -> dict[str, Tensor]:
        """What was trained, by its names in a file."""
        return {"flow.weights": self.weights}

    def to_json(self) -> dict[str, Any]:
        """Settings and sizes, without the weights."""
        return {
            "method": spelling_of(self.config).name,
            "config": spelled(self.config),
            "scale": self.scale,
            "codes": self.codes,
            "conditions": self.conditions,
        }

    @classmethod
    def from_json(cls, data: Any, tensors: Mapping[str, Tensor]) -> "FittedFlow":
        """The inverse of `to_json` and `tensors`.

        Args:
            data: What `to_json` returned.
            tensors: Named tensors, those of `tensors` among them.

        Raises:
            StorageError: The kind of flow is not registered, or a field is missing, unknown or of another type.
        """
        if not isinstance(data, Mapping) or set(data) != set(_FLOW) or not isinstance(data["config"], Mapping):
            raise StorageError(f"the flow is damaged ({data!r:.200} should have {', '.join(_FLOW)}): restore it")
        kind = FLOWS.kind_of(data["method"], "the file")
        named = {old: new for new, old in spelling_of(kind).fields.items()}
        config = {str(named.get(name, name)): value for name, value in data["config"].items()}
        from_json(kind, config, "the flow's config")
        # Numbers stay as they are in the file, or the generator's fingerprint would be another one.
        settings = kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in config.items()})
        scale = float(from_json(float, data["scale"], "the flow's scale"))
        codes, conditions = (from_json(int, data[name], f"the flow's {name}") for name in ("codes", "conditions"))
        weights = require_tensor(tensors, "flow.weights", "the flow")
        _require_sizes(settings, weights, codes, conditions)
        return cls(settings, weights, scale, codes, conditions)

    def save(self, folder: str | Path) -> Path:
        """Write to a new or empty folder, as safetensors and JSON.

        Args:
            folder: Folder to write.

        Raises:
            StorageError: The folder is not empty or cannot be written.
        """
        checks.path(folder, "folder")
        return _FORMAT.save(folder, self.to_json(), self.tensors())

    @classmethod
    def load(cls, folder: str | Path) -> "FittedFlow":
        """Open a saved flow.

        Args:
            folder: Folder that `save` wrote.

        Raises:
            StorageError: The folder holds no flow, or a damaged one.
        """
        checks.path(folder, "folder")
        manifest, tensors = _FORMAT.load(folder)
        return cls.from_json({name: manifest[name] for name in _FLOW}, tensors)


def _require_sizes(settings: FlowSettings, weights: Tensor, codes: int, conditions: int) -> None:
    """Raise StorageError unless the weights are those of the network that a file describes; it takes no memory."""
    if weights.ndim != 1 or not weights.is_floating_point() or not weights.isfinite().all():
        raise StorageError(f"the flow is damaged (weights of shape {tuple(weights.shape)}, or not finite): restore it")
    if codes < 1 or conditions < 0 or not 0 < settings.solver_steps <= _SOLVER_STEPS:
        raise StorageError(
            f"the flow is damaged ({codes} codes, {conditions} conditions, {settings.solver_steps} solver steps): "
            "restore it from a copy"
        )
    if not type(settings).__module__.startswith("weightspace."):
        return  # a user's own network may need its memory
    width, blocks = getattr(settings, "width", 1), getattr(settings, "blocks", 1)
    try:
        if max(width, codes, conditions, width * blocks) > len(weights):
            raise ValueError("too few")
        with torch.device("meta"):
            count = Layout.of(settings.velocity(codes, 2 * conditions)).size
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise StorageError(
            f"the flow is damaged ({len(weights)} weights cannot be those of width {width}, {blocks} blocks, {codes} "
            f"codes and {conditions} conditions: {error!s:.100}): restore it from a copy"
        ) from error
    if count != len(weights):
        raise StorageError(
            f"the flow is damaged (it has {len(weights)} weights, its settings describe {count}): restore it from a "
            "copy"
        )
