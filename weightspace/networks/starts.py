"""Starts: networks whose own weights are what training begins from, in place of the initialisation of their seeds."""

from typing import Any

from weightspace.errors import InputError
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.runtime import checks, seeds


def starts(networks: Collection, *, seed: int | None = None) -> Collection:
    """The same networks as starts: a finder trains and rewinds to these weights, not to what their seeds initialise.

    Networks of `from_state_dicts` and `from_state_dict` are starts already. Masks stay, so that sparse networks are
    sparse starts; `networks.replace(masks=None)` makes them dense ones. Repeat one network to start several tickets
    from it, each with its own data order: `starts(networks[[0] * 5], seed=0)`.

    Args:
        networks: Networks of any origin.
        seed: Seed of new data orders for all; None keeps those that the networks have in their records.

    Returns:
        The networks with new records (kind "start"), without the extras.
    """
    check_networks(networks)
    seed = checks.given(seed, "seed", checks.seed)
    records: list[dict[str, Any]] = []
    for i, record in enumerate(networks.records):
        keeps = seed is None and "seed" in record
        own = record.seed if keeps else seeds.derive(seed or 0, "start", i)
        parent = i if record.index is None else record.index
        named = {"file": record["file"]} if "file" in record else {}
        records.append({"kind": "start", "index": i, **named, "seed": own, "parent": parent, "start": "given"})
    return networks.replace(records=records, extras={})


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
