"""Counting what tensors take while they live."""

import torch

from weightspace.runtime.live_bytes import LiveBytes


def test_what_lives_at_once_is_counted_and_views_are_not() -> None:
    given = torch.zeros(250)
    with LiveBytes() as live:
        kept = given + 1
        for _ in range(5):
            twice = kept * 2
            view = twice.view(10, 25)
            twice.add_(given)
        assert live.now == 2000
        del twice
        assert live.now == 2000  # the view holds it
        del view
        assert live.now == 1000
    assert live.most == 3000  # what a name held before is gone after the next is made
    assert live.largest == 1000
    assert kept.sum() == 250
