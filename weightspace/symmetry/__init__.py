"""Permutation symmetry: reorderings of hidden units that leave a network's function unchanged."""

from weightspace.symmetry.chain import derive as derive
from weightspace.symmetry.chain import prove as prove
from weightspace.symmetry.spec import Axis as Axis
from weightspace.symmetry.spec import Group as Group
from weightspace.symmetry.spec import Symmetry as Symmetry
