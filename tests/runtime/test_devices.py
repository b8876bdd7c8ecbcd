"""Where to compute."""

import pytest
import torch

from tests.fake_device import card
from weightspace.errors import InputError
from weightspace.runtime import devices


def test_a_card_is_used_where_there_is_one() -> None:
    assert devices.pick("cpu") == "cpu"
    with card():
        assert [devices.pick(name) for name in ("auto", "cuda", "cuda:0", "cpu")] == ["cuda", "cuda", "cuda:0", "cpu"]
        with pytest.raises(
            InputError, match=r"'cuda:1' is not available here: there is cpu, cuda, cuda:0 \(or 'auto'\)"
        ):
            devices.pick("cuda:1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card() -> None:
    assert devices.pick("auto") == "cpu"
    for name in ("cuda", "gpu", "cuda:0"):
        with pytest.raises(InputError, match=rf"'{name}' is not available here: there is cpu \(or 'auto'\)"):
            devices.pick(name)
