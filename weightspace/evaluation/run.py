"""evaluate: networks beside their training networks and the baselines, in one report."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from weightspace.align import WeightMatching
from weightspace.collection import Collection
from weightspace.errors import InputError
from weightspace.evaluation import novelty, predictive
from weightspace.evaluation.baselines import Arm, baselines
from weightspace.progress import progress
from weightspace.report import Report
from weightspace.results import ArmResult
from weightspace.task import Split, Task

SAMPLES = "samples"
TRAINING = "training tickets"


def evaluate(
    samples: Collection,
    task: Task,
    *,
    reference: Collection,
    held_out: Collection | None = None,
    others: Mapping[str, Collection] | None = None,
    align: WeightMatching | None = WeightMatching(),
    components: int | None = None,
    seed: int = 0,
) -> Report:
    """Measure networks on the test split, beside the networks they were learned from and baselines.

    Distances are canonical: all networks are aligned to the reference's mean first.

    Args:
        samples: the networks to judge.
        reference: the networks the generator learned from.
        held_out: networks of the same recipe that it has not seen.
        others: further collections to measure, by name, such as the dense networks.
        align: how distances are made canonical; None compares networks as they are.
        components: principal components of the Gaussian baseline, by default 128 or what fits.

    Raises:
        LayoutMismatch: a collection is not of the task's architecture.
    """
    given = {SAMPLES: samples, TRAINING: reference, **({"held-out tickets": held_out} if held_out is not None else {})}
    taken = set(given) & set(others or {})
    if taken:
        raise InputError(
            f"{sorted(taken)} are names of the report's own rows: call the other collections something else"
        )
    for name, networks in (given | dict(others or {})).items():
        task.architecture.layout().require(networks.layout, name)
    if len(reference) < 3:
        raise InputError(f"the reference needs at least 3 networks, got {len(reference)}")
    if align is not None and align.symmetry is None and align.example is None:
        align = replace(align, example=task.train.x[:8])
    matching = align.fit(reference) if align else None

    def canonical(networks: Collection) -> Collection:
        return networks if matching is None else matching.transform(networks)

    aligned, candidates = canonical(reference), canonical(samples)
    nearest = novelty.distances(candidates.weights, aligned.weights).min(1).values.median().item()
    arms = [
        Arm(TRAINING, "what the generator learned from", aligned),
        Arm(SAMPLES, "from the generator", candidates),
    ]
    if held_out is not None:
        arms.insert(1, Arm("held-out tickets", "same recipe, not seen by the generator", canonical(held_out)))
    centred = aligned.weights.double() - aligned.weights.double().mean(0)
    limit = max(1, min(len(reference) - 1, int(torch.linalg.matrix_rank(centred))))
    arms += baselines(
        aligned, reference, n=len(samples), density=samples.densities.median().item(), noise=nearest,
        components=min(components or 128, limit), seed=seed,
    )  # fmt: skip
    arms += [Arm(name, "given for comparison", networks) for name, networks in (others or {}).items()]
    wrong = predictive.errors(reference.ensemble().logits(task.test.x), task.test.y)
    results: list[ArmResult] = []
    for arm in progress(arms, "evaluating"):
        networks = arm.networks if arm.name in given else canonical(arm.networks)
        results.append(_measure(replace(arm, networks=networks), task.test, aligned, wrong))
    return Report(task.name, len(task.test), results, samples=SAMPLES, reference=TRAINING)


def _measure(arm: Arm, test: Split, training: Collection, training_wrong: Bool[Tensor, "n s"]) -> ArmResult:
    networks = arm.networks
    logits = networks.ensemble().logits(test.x)
    wrong = predictive.errors(logits, test.y)
    # A training network is compared with the other training networks, not with itself.
    against = None if arm.name == TRAINING else training
    gaps = novelty.distances(networks.weights, None if against is None else against.weights)
    overlaps = novelty.error_iou(wrong, None if against is None else training_wrong)
    prunable = networks.layout.prunable
    per_network = {
        "accuracy": 1 - wrong.double().mean(1),
        "nll": predictive.nll(logits, test.y),
        "brier": predictive.brier(logits, test.y),
        "ece": predictive.ece(logits, test.y),
        "nearest distance": gaps.min(1).values,
        "max error IoU": overlaps.max(1).values,
        "density": networks.densities,
    }
    joint = predictive.ensemble_logits(logits)
    together = {
        "accuracy": 1 - predictive.errors(joint, test.y).double().mean().item(),
        "nll": predictive.nll(joint, test.y).item(),
        "ece": predictive.ece(joint, test.y).item(),
        "dispersion": novelty.dispersion(networks.weights, training.weights),
    }
    if len(networks) > 1:
        overlap = novelty.mask_overlap(networks.masks[:, prunable])
        together["mask overlap"] = overlap[~overlap.isnan()].mean().item()
    per_layer = {
        e.name: networks.masks[:, networks.layout.slices[e.name]].double().mean().item()
        for e in networks.layout.parameters if e.role == "weight"
    }  # fmt: skip
    return ArmResult(
        arm.name, arm.note, {name: torch.as_tensor(v).tolist() for name, v in per_network.items()}, together, per_layer
    )
