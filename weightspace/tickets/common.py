"""What every ticket finder checks first and records last."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.collection import Collection
from weightspace.errors import InputError
from weightspace.layout import Layout
from weightspace.pattern import Unstructured
from weightspace.storage import Record
from weightspace.task import Task


def check_dense_enough(networks: Collection, density: float) -> None:
    count = Unstructured(density).count(networks.layout)
    sparsest = int(networks.masks[:, networks.layout.prunable].sum(1).min())
    if sparsest < count:
        raise InputError(
            f"a network keeps {sparsest} weights already, a ticket of density {density} would keep {count}: "
            "ask for a lower density"
        )


def achieved(masks: Bool[Tensor, "n d"], layout: Layout) -> float:
    """The fraction of the prunable weights that the first network keeps; others of the same pattern keep as many."""
    return int(masks[0, layout.prunable.to(masks.device)].sum()) / layout.num_prunable


def ticket_records(
    parents: Sequence[Record], first: int, method: Mapping[str, Any], task: Task | None = None
) -> list[Record]:
    """Records of tickets: those of the networks they were found in, with the method and the parent.

    Args:
        first: position of the first parent, for parents without an index of their own.
        task: that the tickets were trained on, if it is not the parents' own.
    """
    found: Record = {"kind": "ticket", "method": dict(method), "density": method["density"]}
    if task is not None:
        found |= {"task": task.name, "recipe": task.recipe.to_json()}
    return [record | found | {"parent": record.get("index", first + i)} for i, record in enumerate(parents)]


def rewind_of(tickets: Collection) -> Float[Tensor, "n d"]:
    """The dense weights that tickets are trained from.

    Raises:
        InputError: the networks do not have them.
    """
    if "rewind" not in tickets.extras:
        raise InputError(
            'these networks have no extras["rewind"], the weights to train from: use what a finder returned, or '
            'add them with collection.replace(extras={"rewind": weights})'
        )
    return tickets.extras["rewind"]


def start_from(networks: Collection, weights: Float[Tensor, "n d"], masks: Bool[Tensor, "n d"]) -> Collection:
    """Networks to be trained from these weights under these masks; statistics are as before training."""
    state = networks.architecture.build_seeded(0).state_dict()
    return networks.replace(
        weights=weights * masks, masks=masks, extras={"rewind": weights},
        buffers={b.name: state[b.name].expand(len(networks), *b.shape).clone() for b in networks.layout.buffers},
    )  # fmt: skip


def collected(record: Record) -> bool:
    """Was this network trained from the initialisation of its seed, as `collect` does?"""
    return record.get("kind") in ("independent", "grid") and not record.get("aligned")
