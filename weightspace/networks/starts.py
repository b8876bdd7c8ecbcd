"""Starts: networks whose own weights are what training begins from, in place of the initialisation of their seeds."""

from collections.abc import Mapping
from typing import Any

import torch

from weightspace.errors import InputError
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.networks.record import Record
from weightspace.runtime import checks, seeds


def starts(networks: Collection, *, seed: int | None = None, shared: bool = False) -> Collection:
    """The same networks as starts: a finder trains and rewinds to these weights, not to what their seeds initialise.

    Networks of `from_state_dicts` and `from_state_dict` are starts already. Masks stay, so that sparse networks are
    sparse starts; `networks.replace(masks=None)` makes them dense ones. Repeat one network to start several tickets
    from it, each with its own data order: `starts(networks[[0] * 5], seed=0)`. Where each network has data of its own,
    different networks keep theirs, and repeated ones are numbered anew.

    Args:
        networks: Networks of any origin.
        seed: Seed of new data orders for all; None keeps those that the networks have in their records.
        shared: Whether training begins where networks of `SharedStart(at="0it")` began, and not at their own weights.

    Returns:
        The networks with new records (kind "start"), without the extras.

    Raises:
        InputError: The networks have no shared start, or one that was trained, so that no seed gives it back.
    """
    check_networks(networks)
    seed = checks.given(seed, "seed", checks.seed)
    if checks.flag(shared, "shared"):
        networks = _begun(networks)
    numbers = [record.data for record in networks.records]
    different = len(set(numbers)) == len(numbers)
    records: list[dict[str, Any]] = []
    for i, record in enumerate(networks.records):
        keeps = seed is None and "seed" in record
        own = record.seed if keeps else seeds.derive(seed or 0, "start", i)
        parent = i if record.index is None else record.index
        named = {"file": record["file"]} if "file" in record else {}
        data = {"data": record.data} if different and record.data not in (None, i) else {}
        records.append({"kind": "start", "index": i, **named, **data, "seed": own, "parent": parent, "start": "given"})
    return networks.replace(records=records, extras={})


def share_a_start(record: Record) -> bool:
    """Whether a network was collected from a start that others began at too, which its own seed does not give."""
    return record.kind == "shared start"


def _begun(networks: Collection) -> Collection:
    """Dense networks at the weights that networks of a shared start began at."""
    for i, record in enumerate(networks.records):
        parent = record.parent
        if not share_a_start(record) or not isinstance(parent, Mapping) or parent.get("at") != "0it":
            raise InputError(
                f"network {i} did not begin at an untrained shared start: shared=True is for networks of "
                'collect(plan=SharedStart(at="0it"))'
            )
    layout, build = networks.layout, networks.architecture.build_seeded
    states = {seed: build(seed).state_dict() for seed in {record["parent"]["seed"] for record in networks.records}}
    begun = [states[record["parent"]["seed"]] for record in networks.records]
    return networks.replace(
        weights=torch.stack([layout.pack(state) for state in begun]),
        masks=None,
        buffers={entry.name: torch.stack([state[entry.name] for state in begun]) for entry in layout.buffers},
    )


def are_starts(networks: Collection) -> bool:
    """Whether training begins from the networks themselves (True) or from the initialisation of their seeds (False).

    Args:
        networks: Networks of one of the two kinds.

    Raises:
        InputError: Some are starts and some are not, or a network was made from a start and its seed does not give
            where its training began.
    """
    begun = [record.is_start for record in networks.records]
    if all(begun):
        return True
    other = begun.index(False)
    if any(begun):
        raise InputError(
            f"network {begun.index(True)} is a start and network {other} is not: take them apart, or make all of them "
            "starts with starts(networks)"
        )
    made = [i for i, record in enumerate(networks.records) if record.from_start]
    if made:
        raise InputError(
            f"network {made[0]} was made from a network that began at given weights, as imported ones do, so that its "
            "seed does not say where it began: starts(networks) begins at the networks as they are"
        )
    return False
