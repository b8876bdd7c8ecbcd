"""TicketGenerator: learn from sparse networks, sample new ones, mask and weights together."""

from weightspace.generator.conditions import Condition as Condition
from weightspace.generator.conditions import Conditions as Conditions
from weightspace.generator.files import MANIFEST as MANIFEST
from weightspace.generator.files import TENSORS as TENSORS
from weightspace.generator.fitted_generator import FittedGenerator as FittedGenerator
from weightspace.generator.mask_rules import Gates as Gates
from weightspace.generator.mask_rules import Magnitude as Magnitude
from weightspace.generator.mask_rules import SharedSupport as SharedSupport
from weightspace.generator.posterior_masks import Posteriors as Posteriors
from weightspace.generator.refinement import Directions as Directions
from weightspace.generator.refinement import Refined as Refined
from weightspace.generator.refinement import TaskRefinement as TaskRefinement
from weightspace.generator.ticket_generator import TicketGenerator as TicketGenerator
