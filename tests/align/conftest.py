"""Fixtures of the tests of alignment."""

import pytest

import weightspace as ws
from weightspace.align import (
    WeightMatching,
)
from weightspace.symmetry import Symmetry


@pytest.fixture(scope="module")
def symmetry(dense: ws.Collection) -> Symmetry:
    return WeightMatching().symmetry_of(dense)
