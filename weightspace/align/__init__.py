"""Alignment: bring networks into one basin by permuting (and rescaling) their hidden units."""

from weightspace.align.activation_matching import ActivationMatching as ActivationMatching
from weightspace.align.canonical import canonical as canonical
from weightspace.align.costs import COSTS as COSTS
from weightspace.align.costs import Cost as Cost
from weightspace.align.costs import PrecisionCost as PrecisionCost
from weightspace.align.costs import WassersteinCost as WassersteinCost
from weightspace.align.costs import WeightCost as WeightCost
from weightspace.align.fitted_matching import FittedMatching as FittedMatching
from weightspace.align.population import GrowingMean as GrowingMean
from weightspace.align.population import MergeMany as MergeMany
from weightspace.align.population import PopulationScheme as PopulationScheme
from weightspace.align.population import Star as Star
from weightspace.align.straight_through import StraightThrough as StraightThrough
from weightspace.align.transfer import transfer_masks as transfer_masks
from weightspace.align.universe import Universe as Universe
from weightspace.align.weight_matching import WeightMatching as WeightMatching
