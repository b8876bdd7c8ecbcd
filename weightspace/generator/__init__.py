"""TicketGenerator: learn from sparse networks, sample new ones, mask and weights together."""

from weightspace.generator.conditions import Condition as Condition
from weightspace.generator.conditions import Conditions as Conditions
from weightspace.generator.files import MANIFEST as MANIFEST
from weightspace.generator.files import TENSORS as TENSORS
from weightspace.generator.fitted_generator import FittedGenerator as FittedGenerator
from weightspace.generator.mask_rules import MASK_RULES as MASK_RULES
from weightspace.generator.mask_rules import FittedMaskRule as FittedMaskRule
from weightspace.generator.mask_rules import GateMask as GateMask
from weightspace.generator.mask_rules import MagnitudeMask as MagnitudeMask
from weightspace.generator.mask_rules import MaskRule as MaskRule
from weightspace.generator.mask_rules import SharedMask as SharedMask
from weightspace.generator.measured import MEASURED as MEASURED
from weightspace.generator.measured import Temperature as Temperature
from weightspace.generator.on_workers import fit_on as fit_on
from weightspace.generator.posterior_masks import PosteriorMask as PosteriorMask
from weightspace.generator.refinement import Directions as Directions
from weightspace.generator.refinement import FittedRefinement as FittedRefinement
from weightspace.generator.refinement import TaskRefinement as TaskRefinement
from weightspace.generator.ticket_generator import TicketGenerator as TicketGenerator
