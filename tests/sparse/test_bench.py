"""Timings of whole networks and their layers."""

import pytest
import torch
from torch import nn

from tests.sparse.examples import ticket
from weightspace import sparse
from weightspace.sparse.bench import bench, two_four_blocks


@pytest.mark.usefixtures("brief")
def test_bench_leaves_the_module_as_it_is() -> None:
    module = ticket().train()
    bench("small", module, lambda n: torch.randn(n, 784), (4,), compiled=False, dtype=torch.bfloat16)
    assert module.training
    assert next(module.parameters()).dtype is torch.float32
    assert next(module.parameters()).requires_grad


@pytest.mark.usefixtures("brief")
def test_bench_measures_what_it_says() -> None:
    rows, made = bench("small", ticket(), lambda n: torch.randn(n, 784), (4, 32), compiled=False)
    whole = [row for row in rows if row.part == "network"]
    assert [(row.batch, row.form) for row in whole] == [
        (4, "dense"),
        (4, "accelerated"),
        (32, "dense"),
        (32, "accelerated"),
    ]
    assert all(row.error < 1e-5 and 0 < row.lower <= row.milliseconds <= row.upper for row in whole)
    assert all(row.speedup == 1 for row in whole if row.form == "dense")
    for row, one in zip((row for row in whole if row.form == "accelerated"), made, strict=True):
        stays = {choice.form for choice in one.choices} == {"dense"}
        assert (row.megabytes == whole[0].megabytes) == stays  # compressed rows take less or more, not the same
    assert len(made) == 2
    for row, one in zip((row for row in whole if row.form == "accelerated"), made, strict=True):
        limit = 1.0 if {choice.form for choice in one.choices} == {"dense"} else 1 / row.density
        assert row.to_json()["share_of_limit"] == pytest.approx(row.speedup / limit)
    small = two_four_blocks(torch.bfloat16)["LeNet-300-100"][0]
    assert all(sparse.is_two_four(layer.weight) for layer in small.modules() if isinstance(layer, nn.Linear))
