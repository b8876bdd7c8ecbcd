"""A short part of the changes to files, and what its checkers see."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightspace as ws
from experiments.fuzz import mutations, world
from experiments.fuzz.outcomes import Findings

SHORT = ("collection", "saved collection", "compression", "flow", "generator")


def test_changes_are_seen_or_harmless(place: world.World) -> None:
    kinds = {name: mutations.KINDS[name] for name in SHORT}
    found = mutations.fuzz(place, 0, range(25), Findings(), kinds)
    assert found.wrong == []
    assert found.number("seen") > 12


def trusting(folder: Path) -> object:
    """Loads without a check."""
    return json.loads((folder / "pca.json").read_text())


def hanging(folder: Path) -> object:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("load", "outcome"),
    [
        (trusting, "silent"),
        (lambda folder: 1 / len(trusting(folder)["mean"]), "traceback"),
        (hanging, "hang"),
        (lambda folder: 0, "harmless"),
    ],
)
def test_what_was_planted_is_seen(load, outcome: str, place: world.World) -> None:
    kind = replace(mutations.KINDS["compression"], load=load, verify=False, manifest=True)
    shutil.copytree(place.root / "pca", place.root / "planted")
    path = place.root / "planted" / "pca.json"
    before = mutations.Before(mutations.digest(trusting(path.parent)), ("pca.json",))
    try:
        path.write_text(json.dumps({"mean": []}))
        if outcome == "harmless":
            before = mutations.Before(mutations.digest(0), before.files)
        assert mutations.loaded(kind, path.parent, before)[0] == outcome
    finally:
        shutil.rmtree(path.parent)


def test_a_change_that_verify_does_not_see_is_silent(place: world.World) -> None:
    kind = replace(mutations.KINDS["compression"], load=lambda folder: 0)
    shutil.copytree(place.root / "pca", place.root / "planted")
    try:
        before = mutations.Before(mutations.digest(0), ("pca.json",))
        assert mutations.judge(kind, place.root / "planted", before, "pca.json")[0] == "silent"
    finally:
        shutil.rmtree(place.root / "planted")


def test_the_digest_sees_every_part(place: world.World) -> None:
    networks = ws.Collection.load(place.root / "saved")
    whole = mutations.digest(networks)
    assert mutations.digest(ws.Collection.load(place.root / "saved")) == whole
    weights = networks.weights.clone()
    weights[networks.masks] *= 1 + 1e-6
    others = [networks.replace(weights=weights), networks[[0, 1, 3, 2]], networks[:3]]
    others.append(networks.replace(records=[record | {"seed": 9} for record in networks.records]))
    assert whole not in {mutations.digest(other) for other in others}
    assert mutations.digest(torch.tensor([1.0])) != mutations.digest(torch.tensor([1]))


@pytest.mark.parametrize("number", range(20))
def test_an_edit_of_json_changes_one_place(number: int) -> None:
    data = {"a": [1, 2, {"b": "x"}], "c": {"d": 1.5}}
    edited, how = mutations.edited(data, random.Random(number))
    assert how
    assert data == {"a": [1, 2, {"b": "x"}], "c": {"d": 1.5}}
    json.dumps(edited)
