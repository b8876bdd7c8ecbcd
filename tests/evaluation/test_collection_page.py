"""A collection as a page: what its tables say follows from its records and masks."""

import re
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.evaluation import collection_page
from weightspace.evaluation.collection_page import CollectionPage
from weightspace.masks.overlap import overlap_within


def rows(page: CollectionPage, heading: str) -> dict[str, tuple[str, ...]]:
    (table,) = [table for table in page.tables if table.heading == heading]
    return {row[0]: tuple(row[1:]) for row in table.rows[1:]}


def test_tables_of_tickets(tickets: ws.Collection, tmp_path: Path) -> None:
    page = collection_page(tickets, provenance=[("networks", "here", "<by hand>")])
    held = rows(page, "What it holds")
    assert held["networks"] == (f"{len(tickets)} of MLP",)
    assert held["made as"] == (f"ticket ({len(tickets)})",)
    assert held["ticket finder"] == (f"Gradual ({len(tickets)})",)
    accuracies = torch.tensor([record.metrics["validation_accuracy"] for record in tickets.records]).double()
    row = rows(page, "Metrics in the records")["validation_accuracy"]
    assert row[:2] == (str(len(tickets)), f"{accuracies.mean():.4g}")
    layers = rows(page, "Layers")
    for entry in tickets.layout.weights:
        at = tickets.layout.slices[entry.name]
        kept = tickets.masks[:, at].double().mean(1)
        values = tickets.weights[:, at][tickets.masks[:, at]].double()
        assert layers[entry.name][2:] == (
            f"{kept.mean():.3f}",
            f"{kept.min():.3f} to {kept.max():.3f}",
            str(int((kept == 0).sum())),
            f"{values.square().mean().sqrt():.4g}",
        )
    found = overlap_within(tickets)
    assert rows(page, "Overlap of masks")["share"] == (f"{found.shared:.3f}", f"{found.chance_shared:.3f}")
    assert rows(page, "Where it comes from")["networks"] == ("here", "<by hand>")
    page.html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("data:image/png;base64,") == len(page.pictures) == 3
    assert "&lt;by hand&gt;" in text
    assert "<by hand>" not in text
    assert not re.search(r"(src|href)=\"https?:", text)


def test_dense_networks_and_networks_without_records(dense: ws.Collection) -> None:
    page = collection_page(dense[:3])
    assert [table.heading for table in page.tables] == ["What it holds", "Metrics in the records", "Layers"]
    assert [picture.name for picture in page.pictures] == ["Main metric"]
    bare = collection_page(ws.from_state_dict(torch.nn.Linear(2, 2), lambda: torch.nn.Linear(2, 2)))
    assert [table.heading for table in bare.tables] == ["What it holds", "Layers"]
    assert not bare.pictures
    assert "Layers\n" in str(bare)


def test_a_layer_that_keeps_nothing_is_counted(dense: ws.Collection) -> None:
    masks = dense.masks.clone()
    at = dense.layout.slices[dense.layout.weights[0].name]
    masks[0, at] = False
    page = collection_page(dense.replace(weights=dense.weights * masks, masks=masks))
    assert rows(page, "Layers")[dense.layout.weights[0].name][4] == "1"


@pytest.mark.parametrize("wrong", [3, None])
def test_other_things_are_refused(wrong) -> None:
    with pytest.raises((ws.InputError, TypeError)):
        collection_page(wrong)
