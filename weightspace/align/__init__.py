"""Alignment: bring networks into one basin by permuting (and rescaling) their hidden units."""

from weightspace.align.weight_matching import FittedMatching as FittedMatching
from weightspace.align.weight_matching import WeightMatching as WeightMatching
