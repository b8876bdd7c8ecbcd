"""A record is a mapping with the bytes it was read from, and checks what its properties return."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.errors import InputError
from weightspace.networks.record import Extra, Record

DATA = {
    "kind": "ticket",
    "index": 3,
    "seed": 7,
    "collection_seed": 0,
    "task": "digits",
    "density": 0.1,
    "parent": 2,
    "method": {"name": "IMP"},
    "metrics": {"validation_loss": 0.5},
    "aligned": "abc",
    "step": 40,
}


def test_it_is_a_mapping_that_does_not_change() -> None:
    record = Record(DATA)
    assert record == DATA
    assert record == DATA
    assert {**record} == DATA
    assert json.dumps(record.to_json()) == json.dumps(DATA)
    longer = record | {"index": 4, "new": 1}
    assert isinstance(longer, Record)
    assert list(longer) == [*DATA, "new"]
    assert record["index"] == 3
    assert isinstance({"first": 0} | record, Record)
    assert next(iter({"first": 0} | record)) == "first"
    assert record.without("aligned", "absent") == {k: v for k, v in DATA.items() if k != "aligned"}
    with pytest.raises(TypeError):
        record["index"] = 5  # pyright: ignore[reportIndexIssue]
    for other in (copy.deepcopy(record), pickle.loads(pickle.dumps(record)), Record.of(record), Record.of(DATA)):
        assert other == record
    assert Record.of(record) is record


def test_properties_are_typed() -> None:
    record = Record(DATA)
    assert (record.kind, record.index, record.seed, record.collection_seed) == ("ticket", 3, 7, 0)
    assert (record.task, record.density, record.parent, record.aligned_to) == ("digits", 0.1, 2, "abc")
    assert (record.method, record.metrics, record.step) == ({"name": "IMP"}, {"validation_loss": 0.5}, 40)
    recipe = ws.Recipe(batch_size=3)
    assert Record({"recipe": recipe.to_json()}).recipe == recipe
    empty = Record()
    assert (empty.kind, empty.index, empty.density, empty.parent, empty.aligned_to) == (None,) * 5
    assert (empty.recipe, empty.metrics, empty.individual) == (None, {}, {})
    assert Record({"parent": {"seed": 1, "at": "1ep"}}).parent == {"seed": 1, "at": "1ep"}


@pytest.mark.parametrize(
    ("name", "value"), [("seed", "7"), ("index", 1.5), ("seed", True), ("density", "thin"), ("metrics", 3), ("task", 1)]
)
def test_a_value_of_another_type_is_named(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{name} = {value!r}"):
        getattr(Record(DATA | {name: value}), name)


def test_a_missing_seed_is_an_error() -> None:
    with pytest.raises(InputError, match="no seed"):
        _ = Record().seed


def test_collections_hold_records_and_write_them_as_they_are(tmp_path: Path) -> None:
    architecture = ws.Architecture("MLP", {"sizes": [2, 2]})
    layout = architecture.layout()
    lines = [DATA, {"seed": 1, "mask of": Record(DATA)}]
    networks = ws.Collection(
        layout,
        torch.ones(2, layout.size),
        architecture=architecture,
        records=lines,
        extras={Extra.REWIND: torch.zeros(2, layout.size)},
    )
    assert all(isinstance(record, Record) for record in networks.records)
    networks.save(tmp_path / "c")
    text = (tmp_path / "c" / "records.jsonl").read_text().splitlines()
    assert text == [json.dumps(DATA), json.dumps({"seed": 1, "mask of": DATA})]
    again = ws.Collection.load(tmp_path / "c")
    assert again.records == networks.records
    assert again[0].record.seed == 7
    assert list(again.extras) == ["rewind"]
