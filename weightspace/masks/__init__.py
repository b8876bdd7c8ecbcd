"""Patterns of zeros, how layers share them, and how masks are compared."""

from weightspace.masks.layerwise import ERK as ERK
from weightspace.masks.layerwise import Balanced as Balanced
from weightspace.masks.layerwise import LayerRates as LayerRates
from weightspace.masks.overlap import Overlap as Overlap
from weightspace.masks.overlap import mask_overlap as mask_overlap
from weightspace.masks.overlap import overlap_matrix as overlap_matrix
from weightspace.masks.overlap import overlap_within as overlap_within
from weightspace.masks.patterns import NM as NM
from weightspace.masks.patterns import PATTERNS as PATTERNS
from weightspace.masks.patterns import Channels as Channels
from weightspace.masks.patterns import Pattern as Pattern
from weightspace.masks.patterns import Stepwise as Stepwise
from weightspace.masks.patterns import Unstructured as Unstructured
from weightspace.masks.patterns import densities_to as densities_to
from weightspace.masks.patterns import keep_counts as keep_counts
from weightspace.masks.prunable import require_prunable as require_prunable
from weightspace.masks.schedule import count_of as count_of
from weightspace.masks.schedule import density_of as density_of
from weightspace.masks.schedule import one_threshold as one_threshold
from weightspace.masks.schedule import part_of as part_of
from weightspace.masks.schedule import steps_to as steps_to
from weightspace.masks.schedule import with_density as with_density
from weightspace.masks.selected import Except as Except
from weightspace.masks.selected import Only as Only
