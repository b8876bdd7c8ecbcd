"""A symmetry and a reference: what alignment learns from a population, and how networks are moved to it."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weightspace.align.balance import balance_scales
from weightspace.align.bases import Mixings, mixed_buffers, mixed_vectors, of_rotations
from weightspace.align.canonical import Lost, require_mixable
from weightspace.align.costs import COSTS, WEIGHTS, Cost, WeightCost, require_fields, signed_features
from weightspace.align.matcher import Matched, Matcher
from weightspace.align.population import Fields
from weightspace.align.rotated_form import UnitForm, rotated_form
from weightspace.align.signs import follows, follows_in
from weightspace.errors import StorageError
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks
from weightspace.networks.layout import Layout
from weightspace.runtime import checks, devices
from weightspace.runtime.executor import Executor, device_for, end_with_parent
from weightspace.runtime.progress import progress
from weightspace.storage.fitted import FittedFormat, require_tensor
from weightspace.storage.typed import from_json
from weightspace.symmetry import Symmetry

BLOCK = 64  # networks in memory at once
_JOB = 4  # networks that an executor's worker matches at a time
_FORMAT = FittedFormat("matching", 1, (1,), ("layout", "balance", "symmetry", "cost"))


@dataclass(frozen=True, repr=False)
class FittedMatching:
    """A symmetry and the reference that networks are matched to.

    Args:
        symmetry: Permutation symmetry of the networks.
        balance: Whether units are rescaled to equal norms before networks are compared.
        reference: Fields of the reference network, (D,) each; "weights" is always among them.
        cost: What is compared.
        rotate: Whether units of linear groups are brought into canonical form and rotated to the reference.
    """

    symmetry: Symmetry
    balance: bool
    reference: Fields
    cost: Cost = WeightCost()
    rotate: bool = False

    def __repr__(self) -> str:
        groups = self.symmetry.groups
        return (
            f"FittedMatching({len(groups)} groups of units, {self.symmetry.coverage:.1%} of the parameters can move, "
            f"{self.cost}, {'balanced' if self.balance else 'not balanced'}{', rotated' if self.rotate else ''})"
        )

    def transform(self, networks: Collection, *, executor: Executor | None = None, device: str = "auto") -> Collection:
        """The same functions in the reference's basin: weights, masks, buffers and extras reordered together.

        Args:
            networks: Networks of the reference's layout, those of the fit or others.
            executor: Pool that matches several networks at once, on the CPU.
            device: Device to match on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

        Raises:
            LayoutMismatch: The networks are of another layout.
            InputError: They lack an extra that is to be compared, are sparse or hold what cannot be mixed and are to be
                rotated, the device is not available, or a pool is to match on a card.
        """
        check_networks(networks)
        device = device_for(device, executor)
        self.symmetry.layout.require_tensors(networks.layout, "the collection to align")
        require_fields(self.cost, networks)
        if self.rotate:
            require_mixable(networks, self.symmetry, self.cost.fields)
        lost = Lost()
        moved = self._transformed(networks, executor, device, lost)
        lost.warn(len(networks))
        return moved

    def compared(self, networks: Collection, *, device: str = "auto") -> Collection:
        """What distances between functions are measured on: the networks in the reference's basin as dense vectors.

        Pruned weights are zeros in them, so that they can be rotated, and extras are left out.

        Args:
            networks: Networks of the reference's layout, dense or sparse.
            device: Device to match on.

        Raises:
            LayoutMismatch: The networks are of another layout.
        """
        check_networks(networks)
        self.symmetry.layout.require_tensors(networks.layout, "the collection to align")
        return self._transformed(networks, None, devices.pick(device), Lost(), as_dense=True)

    def _transformed(
        self, networks: Collection, executor: Executor | None, device: str, lost: Lost, *, as_dense: bool = False
    ) -> Collection:
        parts: list[Collection] = []
        with progress(range(len(networks)), "aligning to the reference") as bar:
            for rows in blocks(len(networks), BLOCK):
                part = networks[rows].replace(masks=None, extras={}) if as_dense else networks[rows]
                form = self._form(part)
                lost.add(form.lost)
                matches: list[Matched] = []
                for match in self.match(self._formed_fields(part, form), self.reference, executor, device):
                    matches.append(match)
                    bar.update(1)
                orders, signs = [match.permutations for match in matches], [match.signs for match in matches]
                mixings = form.rotated(self.symmetry, [match.matrices for match in matches])
                parts.append(self.apply(part, orders, form.scales, signs, mixings))
        return parts[0] if len(parts) == 1 else Collection.concatenate(parts)

    def apply(
        self,
        networks: Collection,
        permutations: Sequence[dict[str, Tensor]],
        scales: dict[str, Tensor] | None = None,
        signs: Sequence[dict[str, Tensor]] | None = None,
        mixings: Mixings | None = None,
    ) -> Collection:
        """Networks under known permutations, after a rescaling, a mixing and a flip of their units.

        The mask, the buffers and all extras move with the weights. Extras are not rescaled, so that rewound weights
        stay the starting point they were, unless the cost names them. Extras change sign with the weights, but for
        standard deviations, logits of gates, marks of trained weights, and those of yours that have no negative value.
        All extras are mixed like the weights, which is why networks with others than rewound weights, parents and what
        the cost compares are not rotated.

        Args:
            networks: Networks of the symmetry's layout.
            permutations: For each network the permutation of each group, as in `Symmetry.permute`.
            scales: Positive factors (networks, units) of homogeneous groups; None leaves the scales.
            signs: For each network the signs of the units of odd groups, as in `Symmetry.flip`; None leaves the signs.
            mixings: Matrices (networks, parent units, units, units) of linear groups; None leaves the units.
        """
        signs = [{}] * len(networks) if signs is None else signs
        extras = networks.extras
        if scales:
            extras = {
                name: self.symmetry.scale(extra, scales) if name in self.cost.rescaled else extra
                for name, extra in extras.items()
            }
        weights = self.symmetry.scale(networks.weights, scales) if scales else networks.weights
        if mixings:
            weights = mixed_vectors(weights, self.symmetry, mixings)
            extras = {name: mixed_vectors(extra, self.symmetry, mixings) for name, extra in extras.items()}

        buffers = mixed_buffers(networks.buffers, self.symmetry, mixings) if mixings else networks.buffers
        moved_buffers = [
            self.symmetry.permute_buffers(
                self.symmetry.flip_buffers({n: b[i] for n, b in buffers.items()}, signs[i]), order
            )
            for i, order in enumerate(permutations if buffers else ())
        ]
        each = partial(_each_moved, self.symmetry, permutations)
        basin = {"aligned": self.fingerprint()}
        return networks.replace(
            weights=each(signs, weights),
            masks=None if networks.dense else each(None, networks.masks),
            buffers={name: torch.stack([one[name] for one in moved_buffers]) for name in buffers},
            extras={name: each(signs, extra, name) for name, extra in extras.items()},
            records=[record | basin for record in networks.records],
        )

    def permutations(self, networks: Collection, *, device: str = "auto") -> list[Matched]:
        """How each network is matched to the reference.

        Args:
            networks: Networks of the reference's layout.
            device: Device to match on.
        """
        check_networks(networks)
        return list(self.match(self.fields(networks), self.reference, device=devices.pick(device)))

    def fields(self, networks: Collection) -> list[Fields]:
        """What is compared of each network, balanced and, if it is to be rotated, in canonical form."""
        check_networks(networks)
        return self._formed_fields(networks, self._form(networks))

    def moved(self, fields: Fields, match: Matched) -> Fields:
        """What is compared of a network, rotated, flipped and permuted as it was matched."""
        symmetry = self.symmetry
        if match.matrices:
            rotations = of_rotations(symmetry, match.matrices)
            fields = {name: mixed_vectors(t[None], symmetry, rotations)[0] for name, t in fields.items()}
        return {
            name: symmetry.permute(symmetry.flip(t, match.signs) if follows(name) else t, match.permutations)
            for name, t in fields.items()
        }

    def match(
        self, fields: Sequence[Fields], reference: Fields, executor: Executor | None = None, device: str = "cpu"
    ) -> Iterator[Matched]:
        """Permutations that match networks to a reference, one network after another.

        Args:
            fields: What is compared of each network.
            reference: The same vectors of the reference.
            executor: Pool that matches several networks at once, on the CPU.
            device: Device to match on; the networks go there one by one.
        """
        dtype = torch.promote_types(self.symmetry.layout.dtype, torch.float64 if self.rotate else torch.float32)
        target = self.cost.of_reference({name: t.to(device, dtype) for name, t in reference.items()})
        features = (self.cost.of_network({name: t.to(device, dtype) for name, t in one.items()}) for one in fields)
        signed = signed_features(self.cost)
        if executor is None or len(fields) < 2:
            matcher = Matcher(self.symmetry, target, signed, rotate=self.rotate)
            yield from (matcher.match(one) for one in features)
        else:
            together = list(features)
            jobs = [torch.stack(together[rows]) for rows in blocks(len(together), _JOB)]
            work = partial(_match_job, self.symmetry, target, signed, rotate=self.rotate)
            yield from chain.from_iterable(executor.map(work, jobs))

    def _form(self, networks: Collection) -> UnitForm:
        if self.rotate:
            return rotated_form(networks.weights, self.symmetry, balance=self.balance)
        return UnitForm(balance_scales(networks.weights, self.symmetry) if self.balance else {}, {}, {})

    def _formed_fields(self, networks: Collection, form: UnitForm) -> list[Fields]:
        names = dict.fromkeys((WEIGHTS, *self.cost.fields))
        extras = networks.extras if len(names) > 1 else {}
        vectors = {name: networks.weights if name == WEIGHTS else extras[name] for name in names}
        result: list[Fields] = []
        for i in range(len(networks)):
            factors, mixings = form.of(i)
            fields: Fields = {}
            for name, rows in vectors.items():
                follows = name == WEIGHTS or name in self.cost.rescaled
                fields[name] = self.symmetry.scale(rows[i], factors) if factors and follows else rows[i]
                if mixings:
                    fields[name] = mixed_vectors(fields[name][None], self.symmetry, mixings)[0]
            result.append(fields)
        return result

    def fingerprint(self) -> str:
        """Identifies the basin: networks with the same one are aligned to each other."""
        digest = hashlib.sha256()
        for name in sorted(self.reference):
            digest.update(self.reference[name].contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def tensors(self) -> dict[str, Tensor]:
        """The reference's fields by their names in a file."""
        return {f"align.{name}": tensor for name, tensor in self.reference.items()}

    def to_json(self) -> dict[str, Any]:
        """Settings and symmetry, without the layout and the reference's fields.

        Raises:
            InputError: The cost is not registered.
        """
        return {
            "balance": self.balance,
            "symmetry": self.symmetry.to_json(),
            "cost": COSTS.to_json(self.cost),
        } | ({"rotate": True} if self.rotate else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any], symmetry: Symmetry, tensors: Mapping[str, Tensor]) -> "FittedMatching":
        """The inverse of `to_json` and `tensors`.

        Args:
            data: What `to_json` returned.
            symmetry: The symmetry among the data.
            tensors: Named tensors, those of `tensors` among them.

        Raises:
            StorageError: The cost is not registered, or its data are damaged.
        """
        if lacking := [name for name in ("balance", "cost") if name not in data]:
            raise StorageError(f"the alignment is damaged (it lacks {lacking[0]}): restore it from a copy")
        reference = {n.removeprefix("align."): t for n, t in tensors.items() if n.startswith("align.")}
        cost = COSTS.from_json(data["cost"], "the alignment")
        for name in (WEIGHTS, *cost.fields):
            tensor = require_tensor(tensors, f"align.{name}", "the alignment")
            if tuple(tensor.shape) != (symmetry.layout.size,):
                raise StorageError(
                    f"the alignment is damaged ({name} of its reference has the shape {tuple(tensor.shape)}, the "
                    f"layout {symmetry.layout.size} parameters): restore it from a copy"
                )
        balance = from_json(bool, data["balance"], "the alignment's balance")
        return cls(
            symmetry, balance, reference, cost, from_json(bool, data.get("rotate", False), "the alignment's rotate")
        )

    def save(self, folder: str | Path) -> Path:
        """Write to a new or empty folder, as safetensors and JSON.

        Args:
            folder: Folder to write.

        Raises:
            InputError: The cost is not registered.
            StorageError: The folder is not empty or cannot be written.
        """
        checks.path(folder, "folder")
        return _FORMAT.save(folder, {"layout": self.symmetry.layout.to_json(), **self.to_json()}, self.tensors())

    @classmethod
    def load(cls, folder: str | Path) -> "FittedMatching":
        """Open a saved matching.

        Args:
            folder: Folder that `save` wrote.

        Raises:
            StorageError: The folder holds no matching or a damaged one, or the cost is not registered.
        """
        checks.path(folder, "folder")
        manifest, tensors = _FORMAT.load(folder)
        symmetry = Symmetry.from_json(manifest["symmetry"], Layout.from_json(manifest["layout"]))
        return cls.from_json(manifest, symmetry, tensors)


def _each_moved(
    symmetry: Symmetry,
    permutations: Sequence[dict[str, Tensor]],
    signs: Sequence[dict[str, Tensor]] | None,
    vectors: Tensor,
    name: str | None = None,
) -> Tensor:
    """Vectors (networks, D) under each network's own signs and permutations; `name` is that of an extra."""
    rows: list[Tensor] = []
    for i, row in enumerate(vectors):
        if signs is not None and signs[i] and (name is None or follows_in(name, row)):
            row = symmetry.flip(row, signs[i])
        rows.append(symmetry.permute(row, permutations[i]))
    return torch.stack(rows)


def _match_job(
    symmetry: Symmetry, target: Tensor, signed: tuple[bool, ...] | None, features: Tensor, *, rotate: bool
) -> list[Matched]:
    """Match some networks in a worker."""
    end_with_parent()
    torch.set_num_threads(1)
    matcher = Matcher(symmetry, target, signed, rotate=rotate)
    return [matcher.match(one) for one in features]
