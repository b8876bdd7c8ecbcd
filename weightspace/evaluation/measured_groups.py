"""The groups that an evaluation is about, measured: what everything else is compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from weightspace.evaluation.groups import SAMPLES, CanonicalForm, Group, Inputs
from weightspace.evaluation.measure import MeasuredGroup, TrainingReference
from weightspace.evaluation.parts import Part
from weightspace.networks.collection import Collection
from weightspace.report.results import GroupResult


@dataclass(frozen=True)
class MeasuredGroups:
    """The groups that were passed in, measured.

    Args:
        aligned: Collections in canonical form, by the name of their row.
        samples: The networks to judge.
        training: The networks that the generator learned from.
        held_out: Networks that it has not seen, if there are any.
    """

    aligned: Mapping[str, Collection]
    samples: MeasuredGroup
    training: MeasuredGroup
    held_out: MeasuredGroup | None

    @property
    def main(self) -> list[MeasuredGroup]:
        """Training networks, held-out networks and samples, in the order of the report's rows."""
        return [self.training, *([self.held_out] if self.held_out else []), self.samples]

    @property
    def far(self) -> Float[Tensor, " m"] | None:
        """Distances of the held-out networks to the nearest training network, if there are any."""
        return None if self.held_out is None else self.held_out.around.nearest.first

    @property
    def results(self) -> list[GroupResult]:
        """The results of the main groups."""
        return [group.result for group in self.main]


def measure_groups(inputs: Inputs, training: TrainingReference, canonical: CanonicalForm) -> MeasuredGroups:
    """Measure samples, training and held-out networks, which every run needs, one that goes on too.

    Args:
        inputs: The collections.
        training: The training networks.
        canonical: Brings networks into the form in which distances mean something.
    """
    reference = Group(inputs.training_name, "what the generator learned from", training.training, inputs.training)
    samples = canonical.group(SAMPLES, "from the generator", inputs.samples)
    aligned = {SAMPLES: samples.networks, reference.name: reference.networks}
    unseen: MeasuredGroup | None = None
    if inputs.held_out is not None:
        held_out = canonical.group(inputs.held_out_name, "same recipe, not seen by the generator", inputs.held_out)
        aligned[held_out.name] = held_out.networks
        unseen = training.measure(held_out)
    far = None if unseen is None else unseen.around.nearest.first
    measured = training.measure(samples, held_out=far)
    return MeasuredGroups(aligned, measured, training.measure(reference, itself=True), unseen)


@dataclass(frozen=True)
class Others:
    """Further collections, each a part.

    Args:
        collections: The collections by name.
        training: The training networks.
        canonical: Brings networks into the form in which distances mean something.
        held_out: Distances of held-out networks to the nearest training network, for Z_U.
    """

    collections: Mapping[str, Collection]
    training: TrainingReference
    canonical: CanonicalForm
    held_out: Float[Tensor, " m"] | None

    @property
    def parts(self) -> Sequence[Part]:
        return [Part(f"other-{i:02d}", name, GroupResult) for i, name in enumerate(self.collections)]

    def measure(self, i: int) -> GroupResult:
        name = list(self.collections)[i]
        group = self.canonical.group(name, "given for comparison", self.collections[name])
        return self.training.measure(group, held_out=self.held_out).result
