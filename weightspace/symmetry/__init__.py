"""Permutation symmetry: reorderings of hidden units that leave a network's function unchanged."""

from weightspace.symmetry.derive import trace as trace
from weightspace.symmetry.fold import fold_gains as fold_gains
from weightspace.symmetry.proof import prove as prove
from weightspace.symmetry.spec import Axis as Axis
from weightspace.symmetry.spec import Group as Group
from weightspace.symmetry.spec import Symmetry as Symmetry
