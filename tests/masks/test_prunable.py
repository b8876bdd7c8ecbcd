import pytest
from torch import nn

import weightspace as ws
from weightspace.errors import InputError
from weightspace.masks import require_prunable


def test_what_stays_is_named_with_its_share() -> None:
    layout = ws.Layout.of(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))).with_prunable(["1.weight"])
    with pytest.warns(UserWarning, match=r"^64\.0% of the parameters .*: 0\.weight \(64\.0%\)\."):
        require_prunable(layout)
    require_prunable(ws.Layout.of(nn.Linear(4, 4)))  # and no warning


def test_a_network_without_prunable_weights_is_refused() -> None:
    layout = ws.Layout.of(nn.Linear(4, 4))
    with pytest.raises(InputError, match=r"none .* can be pruned.*\(weight\)"):
        require_prunable(layout.with_prunable([]))
    with pytest.raises(InputError, match="none of two axes"):
        require_prunable(ws.Layout.of(nn.LayerNorm(4)))
