"""Figures. Each function returns a matplotlib figure and shows or saves nothing."""

from weightspace.plots.connectivity import bars as bars
from weightspace.plots.connectivity import instability as instability
from weightspace.plots.connectivity import lines as lines
from weightspace.plots.connectivity import matrices as matrices
from weightspace.plots.predictive import comparison as comparison
from weightspace.plots.predictive import confusion as confusion
from weightspace.plots.predictive import reliability as reliability
from weightspace.plots.predictive import shift as shift
from weightspace.plots.results import accuracy as accuracy
from weightspace.plots.results import layer_density as layer_density
from weightspace.plots.results import plane as plane
from weightspace.plots.space import codes as codes
from weightspace.plots.space import filters as filters
from weightspace.plots.space import spectrum as spectrum
