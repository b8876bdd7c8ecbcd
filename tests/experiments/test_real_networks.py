"""Networks that others trained: their sizes, what is refused, and what a table's rows say of repetitions."""

from pathlib import Path

import pytest
import torch

from experiments.sparse.cifar_networks import RESNET, VGG, Published, trained
from experiments.sparse.real_networks import NAMES, Sizes, rows


@pytest.mark.parametrize(("which", "parameters"), [(RESNET, 855_770), (VGG, 14_991_946)])
def test_networks_have_the_published_sizes(which: Published, parameters: int) -> None:
    with torch.device("meta"):
        module = which.build()
        assert module.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert sum(p.numel() for p in module.parameters()) == parameters


def test_a_file_that_is_missing_or_another_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="torch-optim==0.0.4"):
        trained(RESNET, tmp_path)
    path = tmp_path / "torch_optim/torchopt/model" / RESNET.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"another")
    with pytest.raises(ValueError, match="another file"):
        trained(RESNET, tmp_path)


def test_rows_are_means_over_seeds_and_what_was_chosen_is_a_row_of_its_own() -> None:
    ways = list(NAMES)
    runs = []
    for chosen, wrong in ((ways[5], 1), (ways[6], 3)):
        figures = {way: {"validation": 0.5, "test": [1] * 8, "variance": 1.0} for way in ways}
        figures[chosen] = {"validation": 0.75, "test": [0] * wrong + [1] * (8 - wrong), "variance": 0.9}
        runs.append({"chosen": chosen, **figures})
    table = {str(row["way"]): row for row in rows(RESNET, Sizes(10, 20, 8), runs)}
    assert list(table) == [*NAMES.values(), "2:4, chosen by validation"]
    assert table["dense"]["points lost"] == 0.0
    assert table[NAMES[ways[5]]]["accuracy"] == pytest.approx((7 / 8 + 1) / 2)
    assert table[NAMES[ways[5]]]["times chosen"] == 1
    best = table["2:4, chosen by validation"]
    assert (best["accuracy"], best["points lost"], best["validation accuracy"]) == (0.75, 25.0, 0.75)
