"""The groups of networks that an evaluation compares: what they are called, whether they fit, their canonical form."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from weightspace.align import FittedMatching, GrowingMean, Universe, WeightMatching
from weightspace.align.bases import without_other_factors
from weightspace.errors import InputError
from weightspace.evaluation.memory import capacity
from weightspace.evaluation.parts import Parts
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection, writer_for
from weightspace.networks.forward import blocks
from weightspace.runtime import checks
from weightspace.storage.scratch import remove_scratch, scratch_folder
from weightspace.storage.system_errors import told
from weightspace.symmetry import Symmetry
from weightspace.symmetry.find_gains import find_gains
from weightspace.symmetry.gains import Gains
from weightspace.tasks.data import Split
from weightspace.tasks.own_loop import require_samples
from weightspace.tasks.task import Task

SAMPLES = "samples"
_BLOCK = 64  # networks brought into canonical form at once


@dataclass(frozen=True)
class Group:
    """Networks to compare, with a name and a line that says what they are.

    Args:
        name: Name of the group, which becomes the name of its row.
        note: What the networks are.
        networks: The networks.
        original: The same networks before they were brought into canonical form, if they were.
    """

    name: str
    note: str
    networks: Collection
    original: Collection | None = None


@dataclass(frozen=True)
class Inputs:
    """The collections that an evaluation is about.

    Args:
        samples: Networks to judge.
        training: Networks that the generator learned from.
        held_out: Networks of the same recipe that it has not seen, if there are any.
        others: Further collections to measure, by name.
    """

    samples: Collection
    training: Collection
    held_out: Collection | None = None
    others: Mapping[str, Collection] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_networks(self.samples, "samples")
        check_networks(self.training, "training")
        checks.given(self.held_out, "held_out", check_networks)
        for name, networks in checks.mapping(self.others, "others", "of names to collections").items():
            check_networks(networks, f"others[{name!r}]")

    @property
    def kind(self) -> str:
        """What the networks are called: "networks", or "tickets" if they are sparse."""
        return "networks" if self.training.dense else "tickets"

    @property
    def training_name(self) -> str:
        """Name of the training networks' row."""
        return f"training {self.kind}"

    @property
    def held_out_name(self) -> str:
        """Name of the held-out networks' row."""
        return f"held-out {self.kind}"

    @property
    def main(self) -> dict[str, Collection]:
        """Samples, training and held-out networks by the names of their rows."""
        held_out = {} if self.held_out is None else {self.held_out_name: self.held_out}
        return {SAMPLES: self.samples, self.training_name: self.training, **held_out}

    @property
    def all(self) -> dict[str, Collection]:
        """All collections by the names of their rows."""
        return self.main | dict(self.others)

    def fingerprints(self) -> dict[str, str]:
        """What identifies the contents of the collections, by name."""
        found = {"samples": self.samples.fingerprint(), "training": self.training.fingerprint()}
        if self.held_out is not None:
            found["held_out"] = self.held_out.fingerprint()
        return found | {f"others.{name}": networks.fingerprint() for name, networks in self.others.items()}

    def check(self, task: Task, *, reserved: set[str]) -> None:
        """Raise unless all networks are of the task's architecture and names are free.

        Args:
            task: What the networks were trained on.
            reserved: Names of rows that the report makes itself.

        Raises:
            LayoutMismatch: A collection is not of the task's architecture.
            InputError: There are fewer than 3 training networks, each network has data of its own, or a name is taken.
        """
        require_samples(task, "evaluate")
        if task.own_data:
            raise InputError(
                f"each network of task {task.name!r} has data of its own, so that no test split is the same for all: "
                "read the metrics in the networks' records (collection.to_csv), or measure them with "
                "weightspace.evaluation.connectivity.measure"
            )
        rows = {*self.main, *reserved}
        taken = [n for n in self.others if n in rows or n.startswith(("soup of", "one of the training", "_"))]
        if taken:
            raise InputError(
                f"{sorted(taken)} are names of the report's own rows, or begin with an underscore: call the other "
                "collections something else"
            )
        for name, networks in self.all.items():
            task.architecture.layout().require(networks.layout, name)
        if len(self.training) < 3:
            raise InputError(f"at least 3 training networks are needed, got {len(self.training)}")
        task.try_out()
        if not task.classification:
            return
        kind, few = task.output_kind, task.test.head(2)
        outputs = self.samples[:1].ensemble(kind).logits(few.x)
        known = [part.y for part in (task.train, task.validation, task.test) if isinstance(part, Split)]
        most = max((int(kind.targets(y).max()) for y in known), default=0)
        if outputs.ndim != 3 or outputs.shape[-1] <= most:
            raise InputError(
                f"evaluate needs an output for each class: {task.architecture.name} has outputs of shape "
                f"{tuple(outputs.shape[1:])} for 2 samples, the classes run to {most}"
            )


@dataclass(frozen=True)
class CanonicalForm:
    """Brings networks into one form in which distances mean something: aligned to the mean of the reference.

    Args:
        matching: How networks are aligned; None leaves them as they are.
        at_once: Networks that fit into memory; larger collections are spooled to disk.
        scratch: Folder for these.
        device: Device to align on.
        distances: How they are aligned before distances are taken, where that is more: where units can be mixed, copies
            are told only by rotations, which masks cannot follow.
        gains: What norms leave free, which is brought into one form before distances are taken.
    """

    matching: FittedMatching | None
    at_once: int
    scratch: Path
    device: str = "cpu"
    distances: FittedMatching | None = None
    gains: Gains | None = None

    @classmethod
    @contextmanager
    def of(
        cls,
        reference: Collection,
        task: Task,
        align: WeightMatching | None,
        memory_gb: float,
        device: str = "cpu",
        parts: Parts = Parts(),
    ) -> Iterator["CanonicalForm"]:
        """Fit the alignment; what is spooled to disk is deleted at the end of the `with` block.

        Args:
            reference: Networks to whose mean all others are aligned.
            task: Source of example inputs.
            align: How networks are aligned; None leaves them as they are.
            memory_gb: Memory for one collection, in GiB.
            device: Device to align on.
            parts: Where parts are measured: workers find what is spooled in their folder, and align there.
        """
        at_once = max(3, capacity(memory_gb, _bytes(reference)))
        if parts.folder is not None:
            remove_scratch("evaluate", parts.folder)
        with scratch_folder("evaluate", within=parts.folder if parts.executor else None) as scratch:
            form = cls(None, at_once, scratch, device)
            if align is not None:
                example = task.train.head(8).x
                workers = {"executor": parts.executor} if parts.executor else {}
                matching = align.fit(reference, example=example, device=device, **workers)
                gains = find_gains(matching.symmetry, reference.architecture.build_seeded(0), example)
                form = replace(form, matching=matching, gains=gains)
                form = replace(form, distances=form._to_compare(align, reference))
            yield form

    @property
    def symmetry(self) -> Symmetry | None:
        """The symmetry of the networks; None if they are not aligned."""
        return self.matching.symmetry if self.matching else None

    def __call__(self, networks: Collection) -> Collection:
        """The networks in canonical form, on disk if they do not fit into memory."""
        return self._spooled(networks, self._transformed)

    def compared(self, networks: Collection) -> Collection:
        """What distances are taken on, of networks in canonical form."""
        return networks if self.distances is None else self._spooled(networks, self._rotated)

    def _spooled(self, networks: Collection, change: Callable[[Collection], Collection]) -> Collection:
        if len(networks) <= self.at_once:
            return change(networks)
        with told("write in", self.scratch):
            folder = Path(tempfile.mkdtemp(dir=self.scratch))
        writer = writer_for(folder, networks.layout, networks.architecture)
        for rows in blocks(len(networks), min(_BLOCK, self.at_once)):
            change(networks[rows]).write_to(writer)
        writer.close()
        return Collection.load(folder, factory=networks.architecture.factory, verify=False)

    def group(self, name: str, note: str, networks: Collection) -> Group:
        """A group of networks in canonical form."""
        return Group(name, note, self(networks), networks)

    def _transformed(self, networks: Collection) -> Collection:
        return self.matching.transform(networks, device=self.device) if self.matching else networks

    def _rotated(self, networks: Collection) -> Collection:
        return (
            self.distances.compared(self._without_gains(networks), device=self.device) if self.distances else networks
        )

    def _without_gains(self, networks: Collection) -> Collection:
        """As dense vectors without extras, in the one form of what norms leave free."""
        networks = networks.replace(masks=None, extras={})
        if not self.gains:
            return networks
        weights, buffers = self.gains.canonical(networks.weights, networks.buffers)
        return networks.replace(weights=weights, buffers=buffers)

    def _to_compare(self, align: WeightMatching, reference: Collection) -> FittedMatching | None:
        """A matching that uses rotations, too, where there are any that the alignment does not use, and no gains."""
        assert self.matching is not None
        symmetry = self.matching.symmetry
        linear = without_other_factors(symmetry)
        rotate = bool(linear.linear) and not align.rotate
        if not rotate and not self.gains:
            return None
        symmetry = linear if rotate else symmetry
        symmetry = self.gains.within(symmetry) if self.gains else symmetry
        rotate = rotate or align.rotate
        population = GrowingMean() if rotate and isinstance(align.population, Universe) else align.population
        finer = WeightMatching(symmetry, align.balance, population=population, rotate=rotate)
        return finer.fit_proven(self._spooled(reference, self._without_gains), symmetry, device=self.device)


def _bytes(networks: Collection) -> int:
    """Bytes of one network: weights, mask and extras, and buffers."""
    one = networks[:1]
    tensors = [one.weights, one.masks, *one.extras.values(), *one.buffers.values()]
    return sum(t.element_size() * t[0].numel() for t in tensors)
