"""Alignment: bring networks into one basin by permuting (and rescaling) their hidden units."""

from weightspace.align.costs import Precision as Precision
from weightspace.align.costs import Wasserstein as Wasserstein
from weightspace.align.costs import Weights as Weights
from weightspace.align.population import GrowingMean as GrowingMean
from weightspace.align.population import MergeMany as MergeMany
from weightspace.align.population import Star as Star
from weightspace.align.weight_matching import FittedMatching as FittedMatching
from weightspace.align.weight_matching import WeightMatching as WeightMatching
