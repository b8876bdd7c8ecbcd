"""Networks that tests of alignment share."""

from torch import nn

from tests.symmetry.examples import Recurrent


def gated() -> nn.Module:
    return Recurrent(nn.LSTM(4, 6, 2), 6)
