"""Find the gains of any module by trying: with eps next to zero, no factor on rows in front of a norm changes outputs.

The statistics that follow a factor say which norms see the rows. All that is found is proven with the module's own eps
behind running statistics, in evaluation mode.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.runtime import seeds
from weightspace.runtime.outputs import difference
from weightspace.runtime.trees import Tree
from weightspace.symmetry.gains import Cell, Gains, Rows, Shift, State, Statistics
from weightspace.symmetry.passes import EXACT, exact_outputs, training_mode
from weightspace.symmetry.probe import Probe
from weightspace.symmetry.spec import Symmetry

_EPS = 1e-14  # of norms, while rows are tried: next to nothing, and enough for channels without variance
_FOUND = 1e-7  # error of a statistic that follows its unit


def find_gains(symmetry: Symmetry, module: nn.Module, inputs: Tree) -> Gains:
    """What norms leave free in a module: found by trying, and proven.

    Args:
        symmetry: The symmetry of the module's units, proven.
        module: The module; a copy of it runs in float64.
        inputs: A batch of inputs, or all arguments of the module's forward.
    """
    probe = Probe(symmetry.layout, module, inputs)
    if probe.precision is not EXACT:  # eps next to zero would drown in rounding
        return Gains(symmetry.layout)
    trial = _Trial(probe)
    cells = list(_cells(symmetry))
    shifts = [shift for cell in cells if trial.roles[cell.tensor] == "bias" for shift in trial.shifts(cell.tensor)]
    shifted = {shift.tensor for shift in shifts}
    free = [cell for cell in cells if trial.roles[cell.tensor] != "norm" and cell.tensor not in shifted]
    waiting, rows = _rows(trial, free)
    for wider in (_blocks, _together):  # units of a block with one factor, then all of a layer
        widened = [wider(symmetry, cell) for cell in waiting]
        if any(len(a.places) != len(b.places) for a, b in zip(waiting, widened, strict=True)):
            waiting, more = _rows(trial, widened)
            rows += more
    centred: list[Cell] = []
    by_channel = {cell.tensor for one in rows if one.statistics for cell in one.cells}
    for cell in free:
        if cell.tensor in by_channel:
            continue
        block, whole = _blocks(symmetry, cell), _together(symmetry, cell)
        options = [block, whole] if 1 < len(block.places) < len(cell.places) else [whole]
        centred += [one for one in options if one.places.shape[1] > 1 and trial.centred(one)][:1]
    return trial.proven(Gains(symmetry.layout, tuple(rows), tuple(shifts), tuple(centred)), cells)


def _rows(trial: "_Trial", cells: Sequence[Cell]) -> tuple[list[Cell], list[Rows]]:
    """The cells that are not free, and the others: alone, with the bias of their layer, or all of a group together."""
    rows: list[Rows] = []
    left: list[Cell] = []
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        found = trial.scaled((cell,)) if trial.roles[cell.tensor] != "bias" else None
        if found is None:
            groups.setdefault(cell.above or cell.tensor.rpartition(".")[0], []).append(cell)
        else:
            rows.append(Rows((cell,), found))
    for several in groups.values():
        layers: dict[str, list[Cell]] = {}
        for cell in several:
            layers.setdefault(cell.tensor.rpartition(".")[0], []).append(cell)
        for part in layers.values():
            if len(part) > 1 and len(layers) > 1 and (found := trial.scaled(tuple(part))) is not None:
                rows.append(Rows(tuple(part), found))
                several = [cell for cell in several if cell not in part]
        if len(several) > 1 and (found := trial.scaled(tuple(several))) is not None:
            rows.append(Rows(tuple(several), found))
            several = []
        left += several
    return left, rows


def _cells(symmetry: Symmetry) -> Iterator[Cell]:
    """Where units are made: rows of weights and biases, of units in groups and of others."""
    outgoing = {(axis.tensor, axis.axis) for group in symmetry.groups for axis in group.outgoing}
    parameters = {entry.name: entry for entry in symmetry.layout.parameters}
    finest: dict[tuple[str, int], Cell] = {}
    for group in symmetry.groups:
        for axis in (*group.incoming, *group.following):
            key = (axis.tensor, axis.axis)
            if axis.tensor not in parameters or key in outgoing or axis.within is not None:
                continue
            cell = Cell(axis.tensor, axis.axis, symmetry.places[group.name, axis], group.name)
            if key not in finest or cell.places.shape[1] < finest[key].places.shape[1]:
                finest[key] = cell
    for entry in parameters.values():
        moved = {axis for tensor, axis in (*finest, *outgoing) if tensor == entry.name}
        if entry.shape and 0 not in moved and entry.role in ("weight", "bias", "norm"):
            finest[entry.name, 0] = Cell(entry.name, 0, torch.arange(entry.shape[0])[:, None], "")
    yield from finest.values()


def _blocks(symmetry: Symmetry, cell: Cell) -> Cell:
    """The units of a parent as one, as the channels of a GroupNorm's group."""
    parent = symmetry.by_name[cell.above].parent if cell.above else None
    return cell if parent is None else replace(cell, places=cell.places.reshape(symmetry.count(parent), -1))


def _together(_: Symmetry, cell: Cell) -> Cell:
    return replace(cell, places=cell.places.reshape(1, -1))


class _Trial:
    """A module in float64 whose norms add next to nothing to variances, in training mode."""

    def __init__(self, probe: Probe) -> None:
        self.probe, self.layout = probe, probe.layout
        self.roles = {entry.name: entry.role for entry in self.layout.entries}
        self.modules = dict(self.probe.module.named_modules())
        self.own = {
            (name, kind): getattr(module, kind)
            for name, module in self.modules.items()
            for kind in ("eps", "variance_epsilon", "momentum")
            if isinstance(getattr(module, kind, None), float)
        }
        state = dict(self.layout.tensors(self.probe.vector)) | dict(self.probe.buffers)
        self.state = {name: tensor[None] for name, tensor in state.items()}  # as of one network
        self.loaded: State = {}
        self._tiny(True)
        self.before = self.run(self.state)

    def _tiny(self, tiny: bool) -> None:
        for (name, kind), value in self.own.items():
            setattr(self.modules[name], kind, (1.0 if kind == "momentum" else _EPS) if tiny else value)

    def run(self, state: State, *, training: bool = True) -> tuple[list[Tensor], State]:
        """Outputs, and the buffers afterwards."""
        module = self.probe.module
        training_mode(module, training)
        places = module.state_dict()
        for name, tensor in state.items():
            if self.loaded.get(name) is not tensor or name in self.probe.buffers:
                places[name].copy_(tensor[0])
        self.loaded = dict(state)
        outputs = exact_outputs(module, self.probe.inputs)
        places = module.state_dict()
        return outputs, {entry.name: places[entry.name].clone() for entry in self.layout.buffers}

    def scaled(self, cells: Sequence[Cell]) -> tuple[Statistics, ...] | None:
        """The statistics that follow a scaling of some rows together; None if it changes the outputs."""
        if len({len(cell.places) for cell in cells}) > 1:
            return None
        random = seeds.generator(0, "gains")
        factor = 1.1 + 0.4 * torch.rand(1, len(cells[0].places), dtype=torch.float64, generator=random)
        state = dict(self.state)
        for cell in cells:
            cell.times(state, factor)
        return self._followed(state, "running_var", factor[0].square())

    def shifts(self, name: str) -> list[Shift]:
        """The entries of a bias that can be anything: all of them, or those in some thirds (queries, keys, values)."""
        size = self.state[name].shape[-1]
        thirds = torch.arange(size).chunk(3) if size % 3 == 0 else ()
        parts = [part for part in (torch.arange(size), *thirds) if self.state[name].ndim == 2]
        found: list[Shift] = []
        for part in parts:
            amount = 1 + torch.rand(len(part), dtype=torch.float64, generator=seeds.generator(1, "gains"))
            moved = self.state[name].clone()
            moved[:, part] += amount
            seen = self._followed(self.state | {name: moved}, "running_mean", amount)
            if seen is not None:
                found.append(Shift(name, part, seen))
                if len(part) == size:
                    break
        return found

    def centred(self, cell: Cell) -> bool:
        """Whether something can be added to all rows of a unit."""
        state = dict(self.state)
        cell.centre(state)
        return difference(self.run(state)[0], self.before[0]) < EXACT.same

    def _followed(self, state: State, kind: str, expected: Tensor) -> tuple[Statistics, ...] | None:
        """The norms whose statistics changed as some units did; None if one did otherwise, or the outputs changed.

        Args:
            state: Other parameters.
            kind: The statistics: variances, of which the ratio counts, or means, of which the difference does.
            expected: Ratio or difference for each unit.
        """
        outputs, after = self.run(state)
        if not difference(outputs, self.before[0]) < EXACT.same:
            return None
        found: list[Statistics] = []
        for name, new in after.items():
            norm, _, own = name.rpartition(".")
            if own != kind:
                continue
            old, ratio = self.before[1][name], kind == "running_var"
            changes = new / old if ratio else new - old
            channels = ((changes - float(ratio)).abs() > 1e-6).nonzero()[:, 0]
            if not len(channels):
                continue
            errors = (changes[channels, None] - expected).abs()
            if (norm, "eps") not in self.own or errors.min(1).values.max() > _FOUND:
                return None
            found.append(Statistics(norm, channels, errors.argmin(1), self.own[norm, "eps"]))
        return tuple(found)

    def proven(self, gains: Gains, cells: Sequence[Cell]) -> Gains:
        """What holds with the norms' own eps in evaluation mode; signs, which are exact in training mode, too."""
        if not gains:
            return gains
        options = [list(self._partners(rows, cells)) for rows in gains.rows]
        self._tiny(True)
        almost = self._outputs(self.state, training=False)
        self._tiny(False)
        both = [(training, self._outputs(self.state, training=training)) for training in (False, True)]
        exact = both[0][1]

        def turns(some: Sequence[Rows]) -> bool:
            state = dict(self.state)
            for shift in gains.shifts:
                shift.put(state, 0.0)
            for rows in some:
                sign = torch.ones(1, rows.units, dtype=torch.float64)
                sign[:, ::2] = -1
                rows.scale(state, sign)
            return all(difference(self._outputs(state, training=t), expected) < EXACT.same for t, expected in both)

        first = [
            replace(rows, signs=signs[0] if signs else ()) for rows, signs in zip(gains.rows, options, strict=True)
        ]
        if not turns([rows for rows in first if rows.signs]):
            for i, (rows, signs) in enumerate(zip(gains.rows, options, strict=True)):
                found = (signed for one in signs if turns([signed := replace(rows, signs=one)]))
                first[i] = next(found, rows)

        def holding(parts: Sequence[Any], of: Callable[[tuple[Any, ...]], Gains], expected: list[Tensor]) -> tuple:
            def holds(some: tuple[Any, ...]) -> bool:
                state = dict(self.state)
                of(some).apply_random(state, seeds.generator(0, "gains proof"))
                return difference(self._outputs(state, training=False), expected) < EXACT.same

            return tuple(parts) if holds(tuple(parts)) else tuple(one for one in parts if holds((one,)))

        layout = gains.layout
        shifts = holding(gains.shifts, lambda some: Gains(layout, (), some), exact)
        centred = holding(gains.centred, lambda some: Gains(layout, (), (), some), exact)
        rows = holding([r for r in first if r.statistics], lambda some: Gains(layout, some, shifts), exact)
        self._tiny(True)  # without statistics, a factor is the same as another eps
        rows += holding([r for r in first if not r.statistics], lambda some: Gains(layout, some), almost)
        return Gains(layout, rows, shifts, centred)

    def _outputs(self, state: State, *, training: bool) -> list[Tensor]:
        return self.run(state, training=training)[0]

    def _partners(self, rows: Rows, cells: Sequence[Cell]) -> Iterator[tuple[Cell, ...]]:
        """What may change sign with rows: the scales of the norms that see them, or scales of the same units."""
        if rows.statistics:
            found = [self._scale(norm, rows.units) for norm in rows.statistics]
            scales = tuple(cell for cell in found if cell is not None)
            if len(scales) == len(found):
                yield scales
            return
        above, own = rows.cells[0].above, {cell.tensor for cell in rows.cells}
        alike = [
            c for c in cells if c.above == above and c.tensor not in own and self.roles[c.tensor] in ("norm", "other")
        ]
        alike = [
            replace(c, places=c.places.reshape(rows.units, -1)) for c in alike if c.places.numel() % rows.units == 0
        ]
        scales = tuple(cell for cell in alike if not cell.tensor.endswith("bias"))
        for cell in scales:
            yield (cell,)
        if len(scales) > 1:
            yield scales

    def _scale(self, norm: Statistics, units: int) -> Cell | None:
        """The scales of a norm's channels, by the units that they see."""
        name, order = norm.name("weight"), norm.units.argsort(stable=True)
        each, rest = divmod(len(order), units)
        same = not rest and torch.equal(norm.units[order], torch.arange(units).repeat_interleave(each))
        return Cell(name, 0, norm.channels[order].reshape(units, -1), "") if name in self.roles and same else None
