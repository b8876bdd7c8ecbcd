"""Gains: what weights in front of a norm can be multiplied by, and what can be added to them, at the same function.

BatchNorm and InstanceNorm divide each channel by its own size. Rows times s leave the function as it was, with the
running mean times s and the running variance v turned into s^2 (v + eps) - eps. So do rows and scale times -1. As the
channel's mean is taken off, a bias there only moves the running mean. LayerNorm and GroupNorm do the same to all units
of a block together, and the directions of `weight_norm` have free lengths.

Behind running statistics all of this is exact in evaluation mode. In training mode, and in norms without statistics,
signs and shifts are exact, and a factor s amounts to another eps (eps / s^2).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.networks.layout import Layout
from weightspace.symmetry.spec import Axis, Symmetry

State = dict[str, Tensor]
"""Parameters and buffers of several networks, by name."""


@dataclass(frozen=True)
class Cell:
    """Where units lie along one axis of a tensor.

    Args:
        tensor: Name of the tensor.
        axis: Number of the axis.
        places: Positions (units, slots).
        above: Name of the group that the units belong to; "" where they belong to none.
    """

    tensor: str
    axis: int
    places: Int[Tensor, "units slots"]
    above: str

    def times(self, state: State, factor: Float[Tensor, "nets units"]) -> None:
        """Multiply the units' entries, in a new tensor of the state."""
        tensor = state[self.tensor]
        along = factor.new_ones(len(factor), tensor.shape[self.axis + 1])
        along[:, self.places.flatten()] = factor.repeat_interleave(self.places.shape[1], -1)
        shape = [len(along), *(size if k == self.axis else 1 for k, size in enumerate(tensor.shape[1:]))]
        state[self.tensor] = tensor * along.reshape(shape)

    def rows(self, state: State) -> Float[Tensor, "nets units values"]:
        """All entries of each unit."""
        tensor = state[self.tensor].movedim(self.axis + 1, 1)
        return tensor[:, self.places.flatten()].reshape(len(tensor), len(self.places), -1)

    def centre(self, state: State, mean: Float[Tensor, "nets units values"] | None = None) -> None:
        """Take the mean over each unit's slots off them, or another value, in a new tensor of the state."""
        tensor = state[self.tensor].movedim(self.axis + 1, 1).clone()
        inside = tensor[:, self.places]  # (nets, units, slots, ...)
        amount = inside.mean(2, keepdim=True) if mean is None else mean.reshape(*inside.shape[:2], 1, *inside.shape[3:])
        tensor[:, self.places] = inside - amount
        state[self.tensor] = tensor.movedim(1, self.axis + 1)


@dataclass(frozen=True)
class Statistics:
    """Channels of a norm that see some units.

    Args:
        norm: Name of the norm.
        channels: Numbers of the channels.
        units: The unit that each of them sees.
        eps: What the norm adds to the variance.
    """

    norm: str
    channels: Int[Tensor, " channels"]
    units: Int[Tensor, " channels"]
    eps: float

    def name(self, kind: str) -> str:
        """Name of one of the norm's tensors."""
        return f"{self.norm}.{kind}" if self.norm else kind

    def scale(self, state: State, factor: Float[Tensor, "nets units"]) -> None:
        """Let the statistics follow units times a factor."""
        for kind, by, eps in (("running_mean", factor, 0.0), ("running_var", factor.square(), self.eps)):
            self._put(state, kind, (self._get(state, kind) + eps) * by[:, self.units] - eps)

    def add(self, state: State, amount: Float[Tensor, "nets units"]) -> None:
        """Let the means follow units plus an amount."""
        self._put(state, "running_mean", self._get(state, "running_mean") + amount[:, self.units])

    def _get(self, state: State, kind: str) -> Tensor:
        return state[self.name(kind)][:, self.channels]

    def _put(self, state: State, kind: str, values: Tensor) -> None:
        tensor = state[self.name(kind)].clone()
        tensor[:, self.channels] = values
        state[self.name(kind)] = tensor


@dataclass(frozen=True)
class Rows:
    """Rows that can be multiplied by one factor for each unit.

    Args:
        cells: Where the rows lie; several where their sum is normalised.
        statistics: What is known of them in the norms behind.
        signs: What changes sign with them; without any of it, the factors are positive.
    """

    cells: tuple[Cell, ...]
    statistics: tuple[Statistics, ...]
    signs: tuple[Cell, ...] = ()

    @property
    def units(self) -> int:
        """Number of factors."""
        return len(self.cells[0].places)

    def scale(self, state: State, factor: Float[Tensor, "nets units"]) -> None:
        """Multiply the rows, and all that belongs to them.

        Args:
            state: Parameters and buffers; tensors are replaced.
            factor: A factor for each unit, not zero.
        """
        for cell in self.cells:
            cell.times(state, factor)
        for cell in self.signs:
            cell.times(state, factor.sign())
        for norm in self.statistics:
            norm.scale(state, factor)

    def canonical_factor(self, state: State) -> Float[Tensor, "nets units"]:
        """Factors that make rows one long (on average, where several have one) and scales positive.

        Rows of zeros stay. Where a unit has several scales it is their sum that becomes positive.
        """
        rows = [cell.rows(state).flatten(2) for cell in self.cells]
        count = sum(cell.places.shape[1] for cell in self.cells)
        squares = torch.stack([one.square().sum(2) for one in rows]).sum(0) / count
        factor = torch.where(squares > 0, squares.clamp(min=1e-300).rsqrt(), 1.0)
        if self.signs:
            tilt = torch.stack([cell.rows(state).sum(2) for cell in self.signs]).sum(0)
            factor = torch.where(tilt < 0, -factor, factor)
        return factor


@dataclass(frozen=True)
class Shift:
    """Entries of a bias that have no say, or only move the running means of norms.

    Args:
        tensor: Name of the bias.
        positions: Where in it they are.
        statistics: The channels that see them; their units are numbers of these positions.
    """

    tensor: str
    positions: Int[Tensor, " positions"]
    statistics: tuple[Statistics, ...]

    def put(self, state: State, values: Float[Tensor, "nets positions"] | float) -> None:
        """Give the entries other values, and let the means follow.

        Args:
            state: Parameters and buffers; tensors are replaced.
            values: A value for each position.
        """
        tensor = state[self.tensor].clone()
        old = tensor[:, self.positions]
        tensor[:, self.positions] = new = torch.zeros_like(old) + values
        state[self.tensor] = tensor
        for norm in self.statistics:
            norm.add(state, new - old)


@dataclass(frozen=True)
class Gains:
    """All that norms leave free in a module.

    Args:
        layout: Layout of the networks.
        rows: Rows that can be multiplied.
        shifts: Biases that can be anything.
        centred: Rows to all of which, in a unit, the same can be added, as in front of a LayerNorm.
    """

    layout: Layout
    rows: tuple[Rows, ...] = ()
    shifts: tuple[Shift, ...] = ()
    centred: tuple[Cell, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rows or self.shifts or self.centred)

    def canonical(
        self, weights: Float[Tensor, "nets d"], buffers: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "nets d"], dict[str, Tensor]]:
        """One network of all those that differ by gains alone.

        Biases are zero, rows have length one, scales are positive. Rows of zeros stay as they are, others may lose
        their zeros.

        Args:
            weights: Weights of the networks.
            buffers: Their buffers, networks first.
        """
        state = self._state(weights, buffers)
        for shift in self.shifts:
            shift.put(state, 0.0)
        for cell in self.centred:
            cell.centre(state)
        for rows in self.rows:
            rows.scale(state, rows.canonical_factor(state))
        return self._joined(state, weights, buffers)

    def randomised(
        self,
        weights: Float[Tensor, "nets d"],
        buffers: Mapping[str, Tensor],
        random: torch.Generator,
        *,
        dense: bool = True,
    ) -> tuple[Float[Tensor, "nets d"], dict[str, Tensor]]:
        """Other networks with the same functions in evaluation mode.

        Args:
            weights: Weights of the networks.
            buffers: Their buffers, networks first.
            random: Source of the draws.
            dense: Whether no weight is pruned; nothing is added to rows that lost weights.
        """
        state = self._state(weights, buffers)
        self.apply_random(state, random, dense=dense)
        return self._joined(state, weights, buffers)

    def apply_random(self, state: State, random: torch.Generator, *, dense: bool = True) -> None:
        """Random factors between a half and one and a half, signs, biases.

        Args:
            state: Parameters and buffers; tensors are replaced.
            random: Source of the draws.
            dense: Whether no weight is pruned.
        """
        nets = len(next(iter(state.values())))

        def noise(*shape: int) -> Tensor:
            return torch.randn(nets, *shape, dtype=torch.float64, generator=random)

        for shift in self.shifts:
            shift.put(state, 0.0)
        for rows in self.rows:
            factor = torch.rand(nets, rows.units, dtype=torch.float64, generator=random) + 0.5
            rows.scale(state, torch.where(noise(rows.units) < 0, -factor, factor) if rows.signs else factor)
        for cell in self.centred if dense else ():
            values = cell.rows(state).shape[2] // cell.places.shape[1]
            cell.centre(state, 0.1 * noise(len(cell.places), values))
        for shift in self.shifts:
            shift.put(state, 0.1 * noise(len(shift.positions)))

    def within(self, symmetry: Symmetry) -> Symmetry:
        """The symmetry of networks in canonical form: scales stay positive, so that rows change sign in their place.

        Args:
            symmetry: The symmetry of the networks.
        """
        moved: list[tuple[set[tuple[str, int]], set[tuple[str, int]]]] = []
        for rows in self.rows:
            if rows.signs:
                means = {(norm.name("running_mean"), 0) for norm in rows.statistics}
                norms = {norm.norm for norm in rows.statistics}
                biases = {(s.tensor, 0) for s in self.shifts if {norm.norm for norm in s.statistics} & norms}
                own = {(cell.tensor, cell.axis) for cell in rows.cells} | means | biases
                moved.append(({(cell.tensor, cell.axis) for cell in rows.signs}, own))

        def key(axis: Axis) -> tuple[str, int]:
            return axis.tensor, axis.axis

        groups = []
        for group in symmetry.groups:
            for scales, own in moved:
                flipping = {key(axis) for axis in group.incoming}
                if group.odd and not group.homogeneous and scales <= flipping:
                    still = tuple(a for a in group.incoming if key(a) in scales)
                    turned = tuple(a for a in group.following if key(a) in own)
                    group = replace(
                        group,
                        incoming=(*(a for a in group.incoming if a not in still), *turned),
                        following=(*(a for a in group.following if a not in turned), *still),
                    )
            groups.append(group)
        return replace(symmetry, groups=tuple(groups))

    def _state(self, weights: Tensor, buffers: Mapping[str, Tensor]) -> State:
        both = self.layout.tensors(weights) | dict(buffers)
        return {name: t.double() if t.is_floating_point() else t for name, t in both.items()}

    def _joined(self, state: State, weights: Tensor, buffers: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        vector = torch.cat([state[e.name].flatten(1) for e in self.layout.parameters], 1).to(weights.dtype)
        return vector, {name: state[name].to(b.dtype) for name, b in buffers.items()}
