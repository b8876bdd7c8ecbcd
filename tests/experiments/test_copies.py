"""Intervals over networks and texts, and distances relative to copies'."""

import torch

from experiments.language.copies import between, places


def test_an_interval_is_over_networks_and_texts() -> None:
    random = torch.Generator().manual_seed(0)
    weak, strong = (torch.rand(8, 200, generator=random) < share for share in (0.6, 0.9))
    found = between("above", strong, weak)
    assert found["above low"] < found["above"] < found["above high"]
    assert found["above low"] > 0.2
    assert between("above", weak, strong)["above"] == -found["above"]
    same = between("above", weak, weak)
    assert same["above low"] == same["above"] == same["above high"] == 0  # the control
    one = between("accuracy", strong[:1], None)
    assert one["accuracy low"] < strong[0].float().mean() < one["accuracy high"]  # texts alone


def test_distances_are_in_units_of_those_between_copies() -> None:
    copies = torch.eye(4, 6)
    assert places(copies, copies, same=True) == {"distance": 1.0, "length": 1.0}
    assert places(copies, copies, same=False)["distance"] == 0  # samples that repeat copies
    at_zero = places(torch.zeros(1, 6), copies, same=False)
    assert abs(at_zero["distance"] - 0.5**0.5) < 1e-5
    assert at_zero["length"] == 0
