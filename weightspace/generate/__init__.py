"""TicketGenerator: learn from sparse networks, sample new ones, mask and weights together."""

from weightspace.generate.conditions import Condition as Condition
from weightspace.generate.conditions import Conditions as Conditions
from weightspace.generate.fit import TicketGenerator as TicketGenerator
from weightspace.generate.fitted import FittedGenerator as FittedGenerator
from weightspace.generate.parts import MANIFEST as MANIFEST
from weightspace.generate.parts import TENSORS as TENSORS
from weightspace.generate.posterior import Posteriors as Posteriors
from weightspace.generate.refine import Directions as Directions
from weightspace.generate.refine import Refined as Refined
from weightspace.generate.refine import TaskRefinement as TaskRefinement
from weightspace.generate.support import Gates as Gates
from weightspace.generate.support import Magnitude as Magnitude
from weightspace.generate.support import SharedSupport as SharedSupport
