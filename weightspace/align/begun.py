"""Alignments that version 0.1 began go on as they were: by the kinds of symmetry that it knew.

A configuration names the kinds that are used beyond those of version 0.1, where its networks have any. Without that
line an alignment was begun without them: half of the networks with signs and half without would not be in one basin.
"""

from dataclasses import replace
from pathlib import Path

from weightspace.align.signs import without_signs
from weightspace.align.weight_matching import WeightMatching
from weightspace.networks.collection import Collection
from weightspace.runtime.trees import Tree
from weightspace.storage.runs import CONFIG, DONE, read_config
from weightspace.storage.system_errors import exists
from weightspace.symmetry import Symmetry
from weightspace.symmetry.gated import is_gated, without_gates

KINDS = "kinds"
"""The line of a configuration."""


def kinds_of(symmetry: Symmetry) -> list[str]:
    """The kinds of symmetry in a table that version 0.1 did not know, but for those that are asked for (`rotate`).

    Args:
        symmetry: The table.
    """
    gated = any(is_gated(symmetry, group) for group in symmetry.groups)
    return ["sign"] * bool(symmetry.odd) + ["gate"] * gated


def begun_with(folder: Path) -> list[str] | None:
    """The kinds that the run of a folder was begun with; None if none was begun there.

    Args:
        folder: Folder of a run, or one that is still to be made.

    Raises:
        StorageError: Its configuration is damaged.
    """
    if not exists(folder / CONFIG):
        return None
    config = read_config(folder)["config"]
    within = config.get("align")
    return list((within if isinstance(within, dict) else config).get(KINDS, []))


def as_begun(
    matching: WeightMatching, networks: Collection, example: Tree | None, folder: Path
) -> tuple[WeightMatching, list[str]]:
    """An alignment with the kinds of symmetry that the run of a folder was begun with, all of them in a new one.

    Args:
        matching: The alignment. A symmetry written by hand stays as it is.
        networks: The networks to align.
        example: A batch of inputs, as in `WeightMatching.fit`.
        folder: Folder of the run.

    Returns:
        The alignment, with its symmetry, and the kinds beyond those of version 0.1, for the configuration.

    Raises:
        InputError: No symmetry can be derived for these networks.
        StorageError: The configuration in the folder is damaged.
    """
    kinds = begun_with(folder)
    if matching.symmetry is not None or (kinds is not None and exists(folder / DONE)):
        return matching, kinds or []
    symmetry = matching.symmetry_of(networks, example)
    kinds = kinds_of(symmetry) if kinds is None else kinds
    if "gate" not in kinds:
        symmetry = without_gates(symmetry)
    return replace(matching, symmetry=symmetry if "sign" in kinds else without_signs(symmetry)), kinds
